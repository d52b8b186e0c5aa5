//! Broker processes of one cluster, each with settings and a data directory of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::authority::{Authority, CLUSTER};

/// A test that waits longer than this hangs.
const LONG: Duration = Duration::from_secs(60);

/// What the brokers of a test share.
pub(crate) struct Cluster {
    pub(crate) root: TempDir,
    authority: Authority,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self { root: TempDir::new().expect("a directory"), authority: Authority::new() }
    }

    /// The first broker of the cluster.
    pub(crate) fn first(&self) -> Broker {
        self.broker(1, &[("format.cluster.id", CLUSTER)])
    }

    /// A broker that joins.
    pub(crate) fn joining(&self, id: i32, seed: &Broker) -> Broker {
        self.broker(id, &[("ropewalk.cluster.join", &seed.admin)])
    }

    /// A broker that is not started, with settings beside the usual ones.
    pub(crate) fn broker(&self, id: i32, settings: &[(&str, &str)]) -> Broker {
        let (certificates, files) = self.authority.files(id);
        let name = format!("{id}-{}", fs::read_dir(self.root.path()).expect("it is there").count());
        let dir = self.root.path().join(name);
        fs::create_dir(&dir).expect("made");
        let admin = free_address();
        let shown = |path: &Path| path.display().to_string();
        let usual = [
            ("node.id", id.to_string()),
            ("log.dirs", shown(&dir.join("data"))),
            ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
            ("ropewalk.admin.listener", admin.clone()),
            ("ropewalk.peer.listener", "127.0.0.1:0".to_owned()),
            ("ropewalk.peer.certificate.file", shown(&files.chain)),
            ("ropewalk.peer.key.file", shown(&files.key)),
            ("ropewalk.peer.ca.file", shown(&files.ca)),
        ];
        let mut text = String::new();
        let more = settings.iter().map(|(key, value)| (*key, (*value).to_owned()));
        for (key, value) in usual.into_iter().chain(more) {
            let _ = writeln!(text, "{key}={value}");
        }
        fs::write(dir.join("properties"), text).expect("written");
        Broker { dir, admin, child: None, _certificates: certificates }
    }
}

/// An address whose port is free now.
fn free_address() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("it is bound").to_string()
}

/// A broker process. It is killed at the end of the test.
pub(crate) struct Broker {
    dir: PathBuf,
    pub(crate) admin: String,
    child: Option<Child>,
    _certificates: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.dir.display(), self.log());
        }
    }
}

impl Broker {
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts the process. Its log begins again.
    pub(crate) fn start(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs");
        let log = File::create(self.dir.join("log")).expect("made");
        let child = Command::new(env!("CARGO_BIN_EXE_ropewalk-broker"))
            .args(["run", "--config"])
            .arg(self.dir.join("properties"))
            .arg("--termination-log")
            .arg(self.dir.join("last-words"))
            .env_remove("ROPEWALK_LOG")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("it starts"));
    }

    /// Starts the process, and waits until it is ready.
    pub(crate) fn ready(mut self) -> Self {
        self.start(&[]);
        self.until_ready();
        self
    }

    pub(crate) fn until_ready(&mut self) {
        until("the broker is ready", || {
            assert!(self.is_running(), "{}", self.log());
            get(&self.admin, "/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        child.try_wait().expect("it can be waited for").is_none()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    /// Waits until the process logs a text.
    pub(crate) fn logs(&self, text: &str) {
        until(&format!("the log contains {text:?}"), || self.log().contains(text));
    }

    /// Waits for the end of the process; returns its exit code and the termination message.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        until("the process ends", || !self.is_running());
        let mut child = self.child.take().expect("it was started");
        let code = child.wait().expect("it has ended").code();
        (code, read(&self.dir.join("last-words")))
    }

    /// The answer to `GET /v1/cluster`.
    pub(crate) fn cluster(&self) -> serde_json::Value {
        let answer = get(&self.admin, "/v1/cluster").unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// The ids of the brokers that this one lists.
    pub(crate) fn lists(&self) -> Vec<i64> {
        let cluster = self.cluster();
        let brokers = cluster["brokers"].as_array().cloned().unwrap_or_default();
        brokers.iter().filter_map(|broker| broker["id"].as_i64()).collect()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The whole answer to a request; `None` if no answer comes.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Waits for a condition that something else brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let due = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < due, "it takes too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has one").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}
