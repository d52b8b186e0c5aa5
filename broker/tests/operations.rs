//! The operations on brokers of a cluster, with the commands of the program and processes: a broker
//! is restarted and drained.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const BROKER: &str = env!("CARGO_BIN_EXE_ropewalk-broker");

/// A wait that takes longer hangs.
const WAIT_MAX: Duration = Duration::from_secs(180);

/// Three brokers, as `dev` runs them: one whose process ends is started again.
struct Dev {
    child: Child,
    /// Kept open, because the program prints more.
    _stdout: Lines<BufReader<ChildStdout>>,
    /// The admin address of broker 2.
    admin: String,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let any = "127.0.0.1:0";
        let mut child = Command::new(BROKER)
            .args(["dev", "--brokers", "3", "--kafka", any, "--admin", any, "--peer", any])
            .arg("--data")
            .arg(dir)
            .env_remove("ROPEWALK_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut admin = None;
        for line in stdout.by_ref().map(|line| line.expect("text")) {
            if let Some((_, rest)) =
                line.split_once("broker 2:").and_then(|(_, rest)| rest.split_once("http://"))
            {
                admin = rest.split(',').next().map(str::to_owned);
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        Self { child, _stdout: stdout, admin: admin.expect("it names the brokers") }
    }

    /// A command of `cluster`: whether it succeeded, and what it printed.
    fn cluster(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(BROKER);
        command.arg("cluster").args(arguments).args(["--admin", &self.admin]);
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        let text = String::from_utf8([stdout, stderr].concat()).expect("text");
        (status.success(), text)
    }

    fn refused(&self, arguments: &[&str], with: &[&str]) {
        let (is_done, text) = self.cluster(arguments);
        assert!(!is_done, "{arguments:?}: {text}");
        for part in with {
            assert!(text.contains(part), "{arguments:?}: {part} is missing in\n{text}");
        }
    }

    /// Repeats a command until its answer has this part: it is idempotent.
    fn until_done(&self, arguments: &[&str], part: &str) {
        until(part, || {
            let (is_done, text) = self.cluster(arguments);
            if is_done && text.contains(part) { Ok(()) } else { Err(text) }
        });
    }

    fn status(&self) -> Value {
        let (is_done, text) = self.cluster(&["status", "--json"]);
        if is_done { serde_json::from_str(&text).expect("JSON") } else { Value::Null }
    }

    fn broker(&self, id: i64) -> Value {
        let status = self.status();
        let brokers = status["brokers"].as_array().cloned().unwrap_or_default();
        brokers.into_iter().find(|broker| broker["id"] == id).unwrap_or_default()
    }

    /// Waits until every shard has three voters that have caught up.
    fn settles(&self) {
        until("three replicas", || {
            let status = self.status();
            let shards = status["shards"].as_array().cloned().unwrap_or_default();
            let is_voter = |r: &Value| r["votes"] == true && r["caughtUp"] == true;
            let is_whole = |shard: &Value| {
                let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
                replicas.len() == 3 && replicas.iter().all(is_voter)
            };
            let is_settled = !shards.is_empty() && shards.iter().all(is_whole);
            if is_settled { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

fn until(what: &str, holds: impl Fn() -> Result<(), String>) {
    let due = Instant::now() + WAIT_MAX;
    loop {
        match holds() {
            Ok(()) => return,
            Err(last) => assert!(Instant::now() < due, "{what} takes too long:\n{last}"),
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_broker_is_restarted_and_drained_by_commands() {
    let dir = TempDir::new().expect("a directory");
    let dev = Dev::start(dir.path());
    dev.settles();
    dev.refused(&["drain", "1"], &["acceptFewerReplicas", "shard 0: it has 3 replicas"]);
    dev.refused(&["drain", "9"], &["broker 9 is not in the cluster"]);
    dev.refused(&["remove", "1"], &["holds 25 replicas", "HoldsReplica"]);

    let prepare = ["prepare-restart", "1", "--deadline-seconds", "600"];
    dev.until_done(&prepare, "it can be stopped now");
    let prepared = dev.broker(1);
    assert_eq!((&prepared["leads"], &prepared["standing"]), (&json!(0), &json!("Restarting")));
    let before = prepared["incarnation"].as_u64().expect("a number");
    dev.refused(&["prepare-restart", "3"], &["OtherRestarts"]);
    kill_broker(dir.path(), 1);
    until("it is back", || {
        let broker = dev.broker(1);
        let is_new = broker["incarnation"].as_u64() == Some(before + 1);
        let is_back = is_new && broker["standing"] == "Serving";
        if is_back && broker["alive"] == true { Ok(()) } else { Err(broker.to_string()) }
    });

    dev.settles();
    dev.until_done(&["drain", "3", "--accept-fewer-replicas"], "it holds no replica");
    dev.refused(&["remove", "3"], &["broker 3 answers"]);
    dev.until_done(&["admit", "3"], "it serves");
}

/// Ends the process that has the data directory of a broker open.
fn kill_broker(dir: &Path, id: i32) {
    let marker = dir.join(format!("broker-{id}"));
    let marker = marker.to_str().expect("text");
    let processes = std::fs::read_dir("/proc").expect("there is one").flatten();
    let is_broker = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(marker) && line.contains("run")
    };
    let names = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found: Vec<String> = names.filter(is_broker).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let status = Command::new("kill").args(["-s", "TERM", &found[0]]).status();
    assert!(status.expect("kill is there").success());
}
