//! The binary as its user sees it: what it prints, how it ends, and with which code.
//!
//! Every test has its own directory and ports, and ends the processes it started.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BROKER: &str = env!("CARGO_BIN_EXE_ropewalk-broker");

/// A broker that is killed at the end of the test.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    first_line: String,
}

impl Running {
    /// Starts `dev` on free ports and waits until it prints that it is ready.
    fn dev(dir: &Path, more: &[&str]) -> Self {
        let mut child = command(&["dev", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--data")
            .arg(dir)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut first_line = String::new();
        stdout.read_line(&mut first_line).expect("it says something");
        Self { child, stdout, first_line }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill is there");
        assert!(status.success());
    }

    fn admin(&self) -> String {
        let at = self.first_line.find("http://").expect("it names the admin server");
        let rest = &self.first_line[at + "http://".len()..];
        rest[..rest.find(',').expect("more follows")].to_owned()
    }

    /// Waits for the exit; returns code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let due = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            assert!(Instant::now() < due, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_string(&mut stderr).expect("it is text");
        (status.code(), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BROKER);
    command.args(arguments).env_remove("ROPEWALK_LOG");
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (status.code(), text(stdout), text(stderr))
}

fn directory() -> TempDir {
    TempDir::new().expect("a directory")
}

fn config(dir: &TempDir, text: &str) -> String {
    let path = dir.path().join("server.properties");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[test]
fn dev_prints_what_to_try_next_and_stops_cleanly_on_a_signal() {
    for name in ["TERM", "INT"] {
        let dir = directory();
        let mut broker = Running::dev(&dir.path().join("made"), &[]);
        let mut text = String::new();
        while !text.contains("Ctrl-C") {
            assert!(broker.stdout.read_line(&mut text).expect("text") > 0, "{text}");
        }
        for needed in ["KafkaProducer(bootstrap_servers=", "KafkaConsumer('my-topic'", "/v1/queues"]
        {
            assert!(text.contains(needed), "{needed} is missing in\n{text}");
        }
        broker.signal(name);
        let (code, log) = broker.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopping"), "{log}");
    }
}

#[test]
fn dev_starts_several_brokers_as_one_cluster_and_stops_them_together() {
    let dir = directory();
    let several = ["--brokers", "3", "--peer", "127.0.0.1:0"];
    let mut cluster = Running::dev(dir.path(), &several);
    assert!(cluster.first_line.contains("3 brokers"), "{}", cluster.first_line);
    let mut text = cluster.first_line.clone();
    while !text.contains("Ctrl-C") {
        assert!(cluster.stdout.read_line(&mut text).expect("text") > 0, "{text}");
    }
    assert!(text.contains("kill -9"), "it says how to see a broker fail: {text}");
    let (_, admin) = text.split_once("--admin ").expect("it says how to see the cluster");
    let admin = admin.split_whitespace().next().expect("an address");
    let (code, shown, error) = run(&["cluster", "status", "--admin", admin]);
    assert_eq!(code, Some(0), "{error}");
    for broker in ["1", "2", "3"] {
        assert!(shown.lines().any(|line| line.trim_start().starts_with(broker)), "{shown}");
    }
    cluster.signal("TERM");
    let (code, log) = cluster.end();
    assert_eq!(code, Some(0), "{log}");
    // It is a cluster of three from now on.
    let path = dir.path().display().to_string();
    let (code, _, error) = run(&["dev", "--brokers", "2", "--data", &path]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("holds a cluster of 3 brokers"), "{error}");
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let dir = directory();
    let first = Running::dev(dir.path(), &[]);
    let path = dir.path().display().to_string();
    let (code, _, error) =
        run(&["dev", "--data", &path, "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("in use by another broker"), "{error}");
    // The first broker is not disturbed, and after a kill the directory is free again.
    first.signal("KILL");
    first.end();
    let again = Running::dev(dir.path(), &[]);
    assert!(again.first_line.contains("is ready"), "{}", again.first_line);
}

#[test]
fn a_port_in_use_is_reported_before_the_directory_is_touched() {
    let dir = directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let path = dir.path().join("data").display().to_string();
    let (code, _, error) =
        run(&["dev", "--data", &path, "--kafka", &address, "--admin", "127.0.0.1:0"]);
    assert_eq!(code, Some(6), "{error}");
    assert!(error.contains(&address), "{error}");
    assert!(!Path::new(&path).exists());
}

#[test]
fn wrong_settings_name_field_value_and_reason_and_end_with_2() {
    let (code, _, error) =
        run(&["dev", "--set", "num.partitions=0", "--set", "log.retentions.ms=1"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("Invalid value 0 for configuration num.partitions"), "{error}");
    assert!(error.contains("did you mean log.retention.ms?"), "{error}");
    for arguments in [
        &["dev", "--kafka", "nowhere"][..],
        &["dev", "--log", "loud=="],
        &["dev", "--set", "x"],
        &["run"],
        &["run", "--config", "/does/not/exist"],
        &["fly"],
    ] {
        assert_eq!(run(arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn an_empty_directory_is_formatted_only_on_request() {
    let dir = directory();
    let data = dir.path().join("data");
    let file = config(
        &dir,
        &format!(
            "# as Kafka writes it\nprocess.roles=broker,controller\nnode.id=3\n\
             listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\nnum.io.threads=8\n\
             ropewalk.admin.listener=127.0.0.1:0\n",
            data.display()
        ),
    );
    let words = dir.path().join("last-words");
    let words = words.display().to_string();
    let (code, _, error) = run(&["run", "--config", &file, "--termination-log", &words]);
    assert_eq!(code, Some(7), "{error}");
    let last = error.lines().last().expect("it says why");
    assert!(last.contains("the data directory is empty"), "{error}");
    let written = std::fs::read_to_string(&words).expect("the termination message is written");
    assert_eq!(format!("ropewalk-broker: {written}"), format!("{last}\n"));
    assert!(error.contains("num.io.threads"), "the ignored setting is logged: {error}");

    let (code, said, error) = run(&["format", "--config", &file, "--cluster-id", "my-cluster"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("belongs to broker 3 of cluster my-cluster"), "{said}");
    let (code, _, error) = run(&["format", "--config", &file]);
    assert_eq!(code, Some(4), "never twice: {error}");
    let (code, _, error) = run(&["run", "--config", &file, "--set", "node.id=4"]);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("belongs to broker 3"), "{error}");

    let mut child = command(&["run", "--config", &file, "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("serving Kafka clients") {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended");
        assert!(line.starts_with('{') && line.ends_with("}\n"), "{line}");
    }
    child.kill().expect("killed");
    child.wait().expect("waited for");
}

#[test]
fn a_file_may_say_which_cluster_an_empty_directory_is_made_to_belong_to() {
    let dir = directory();
    let text = format!(
        "log.dirs={}\nlisteners=PLAINTEXT://127.0.0.1:0\nropewalk.admin.listener=127.0.0.1:0\n\
         format.cluster.id=from-the-file\n",
        dir.path().join("data").display()
    );
    let file = config(&dir, &text);
    let mut child =
        command(&["run", "--config", &file]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("serving Kafka clients") {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended");
    }
    child.kill().expect("killed");
    child.wait().expect("waited for");
    // It is formatted now: the cluster id in the file has no effect any more.
    let file = config(&dir, &text.replace("from-the-file", "another"));
    let (code, _, error) = run(&["format", "--config", &file]);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("cluster from-the-file"), "{error}");
}

#[test]
fn the_admin_server_is_there_and_version_and_help_are_printed() {
    let dir = directory();
    let broker = Running::dev(dir.path(), &[]);
    let mut stream = std::net::TcpStream::connect(broker.admin()).expect("it listens");
    std::io::Write::write_all(&mut stream, b"GET /ready HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");

    let (code, version, _) = run(&["--version"]);
    assert_eq!(
        (code, version),
        (Some(0), format!("ropewalk-broker {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (code, help, _) = run(&["dev", "--help"]);
    assert_eq!(code, Some(0));
    for flag in ["--data <DIR>", "--kafka <HOST:PORT>", "--admin <HOST:PORT>", "--set <KEY=VALUE>"]
    {
        assert!(help.contains(flag), "{flag} is missing in\n{help}");
    }
}
