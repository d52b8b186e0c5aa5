//! Every thread and task of the broker is ended on purpose: the process exits with its own code and
//! names the task, or the one connection closes.
//!
//! The tasks are those of the table. The hook that ends them is compiled into debug builds only.
#![cfg(debug_assertions)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ropewalk_broker::supervision::{self, EXIT_TASK_ENDED, OnEnd, Task};
use tempfile::TempDir;

/// A broker of which one task is ended when it begins.
struct Broker {
    child: Child,
    dir: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    fn start(task: &Task, how: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let child = Command::new(env!("CARGO_BIN_EXE_ropewalk-broker"))
            .args(["dev", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .arg("--tier")
            .arg(dir.path().join("tier"))
            .arg("--termination-log")
            .arg(dir.path().join("last-words"))
            .env("ROPEWALK_END_TASK", format!("{}:{how}", task.name))
            .env_remove("ROPEWALK_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker starts");
        Self { child, dir }
    }

    /// The addresses of its Kafka listener and its admin server, once it is ready.
    fn addresses(&mut self) -> (String, String) {
        let mut line = String::new();
        let stdout = self.child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says something");
        let after = |mark: &str| {
            let at = line.find(mark).unwrap_or_else(|| panic!("no {mark} in {line}")) + mark.len();
            line[at..].split(',').next().expect("text follows").to_owned()
        };
        (after("Kafka clients at "), after("admin at http://"))
    }

    /// Waits for the exit; returns code, standard error and the termination message.
    fn end(mut self) -> (Option<i32>, String, String) {
        let due = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            assert!(Instant::now() < due, "the process continues");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_string(&mut stderr).expect("it is text");
        (status.code(), stderr, read(&self.dir.path().join("last-words")))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Checks what the process reported when it ended because of `task`.
fn assert_ended_by(task: &Task, how: &str, broker: Broker) {
    let (code, log, last_words) = broker.end();
    assert_eq!(code, Some(EXIT_TASK_ENDED), "{}: {how}\n{log}", task.name);
    assert!(
        last_words.starts_with(task.name),
        "{}: {how}: the termination message is {last_words}",
        task.name
    );
    assert!(last_words.contains(how), "{last_words}");
    assert!(log.contains(last_words.trim()), "{last_words} is missing in\n{log}");
}

#[test]
fn no_task_that_the_broker_needs_ends_without_the_process() {
    let mut count = 0;
    let all = supervision::all().filter(|task| task.on_end == OnEnd::ProcessEnds);
    // A broker that is alone has no connections to others, and nothing to share with them. The test
    // `members` ends these tasks.
    let of_several = [
        &supervision::CLUSTER,
        &supervision::BALANCER,
        &supervision::MEMBERS,
        &supervision::REGISTRATION,
    ];
    for task in all.filter(|task| !of_several.contains(task)) {
        for how in ["panic", "return"] {
            assert_ended_by(task, how, Broker::start(task, how));
            count += 1;
        }
    }
    assert!(count > 0 && count % 2 == 0, "{count} ends were tried");
}

#[test]
fn short_tasks_end_the_process_only_when_they_panic() {
    for task in supervision::all().filter(|task| task.on_end == OnEnd::ProcessEndsOnPanic) {
        if task.name == "drivers" {
            assert_ended_by(task, "panic", Broker::start(task, "panic"));
            continue;
        }
        assert_eq!(task.name, "group record", "say here how the new task is begun");
        let mut broker = Broker::start(task, "panic");
        let (kafka, _) = broker.addresses();
        // The generation's record is in flight before any member receives it.
        let mut stream = connect(&kafka);
        join_group(&mut stream);
        assert_ended_by(task, "panic", broker);
    }
}

#[test]
fn a_panic_of_one_connection_closes_that_one_and_is_counted() {
    for task in supervision::all().filter(|task| task.on_end == OnEnd::ConnectionCloses) {
        assert_eq!(task.name, "connection", "say here how the new task is begun");
        let mut broker = Broker::start(task, "panic");
        let (kafka, admin) = broker.addresses();
        for _ in 0..3 {
            let mut stream = connect(&kafka);
            assert_eq!(stream.read(&mut [0; 16]).expect("it is closed in order"), 0);
        }
        let lines = [
            "ropewalk_connections_closed_total{reason=\"panic\"} 3",
            "ropewalk_connections 0",
            "ropewalk_panics_total 3",
        ];
        // The unwinding closes the socket before the broker counts the connection as closed.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let metrics = get(&admin, "/metrics");
            let missing = lines.iter().find(|line| !metrics.contains(**line));
            let Some(missing) = missing else { break };
            assert!(Instant::now() < deadline, "{missing} is missing in\n{metrics}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(broker.child.try_wait().expect("it can be waited for").is_none(), "it continues");
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    stream
}

fn get(address: &str, path: &str) -> String {
    let mut stream = connect(address);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is text");
    answer
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(i16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

fn send(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) {
    let mut frame = Vec::new();
    frame.extend(api.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    text(&mut frame, "test");
    frame.extend(body);
    let length = i32::try_from(frame.len()).expect("short");
    stream.write_all(&length.to_be_bytes()).expect("sent");
    stream.write_all(&frame).expect("sent");
}

/// JoinGroup v2 of a new member; the test does not read the response.
fn join_group(stream: &mut TcpStream) {
    let mut body = Vec::new();
    text(&mut body, "group");
    body.extend(10_000_i32.to_be_bytes());
    body.extend(10_000_i32.to_be_bytes());
    text(&mut body, "");
    text(&mut body, "consumer");
    body.extend(1_i32.to_be_bytes());
    text(&mut body, "range");
    body.extend(0_i32.to_be_bytes());
    send(stream, 11, 2, &body);
}
