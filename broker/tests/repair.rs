//! Damage in each kind of file, the command that repairs it, and a broker that serves again.
//!
//! Each kind of damage has its own directory, with one queue in segment files and one so small that
//! its records are in a spill file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ropewalk_batch::Builder;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::{Records, decode_response, encode_request};
use tempfile::TempDir;

const BROKER: &str = env!("CARGO_BIN_EXE_ropewalk-broker");
const VERSION: i16 = 9;
/// Batches of the large queue; each is its own block in the segment.
const BATCHES: i64 = 24;

/// A broker that is killed at the end of the test.
struct Running {
    child: Child,
    kafka: String,
    admin: String,
}

impl Running {
    fn dev(dir: &Path) -> Self {
        let mut child = Command::new(BROKER)
            .args(["dev", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the broker starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let between = |from: &str, to: &str| {
            let rest = &line[line.find(from).unwrap_or_else(|| panic!("{line}")) + from.len()..];
            rest[..rest.find(to).expect("more follows")].to_owned()
        };
        let (kafka, admin) = (between("clients at ", ","), between("http://", ","));
        Self { child, kafka, admin }
    }

    /// Sends one record of `bytes`; returns the error code.
    fn produce(&self, queue: &str, bytes: usize) -> i16 {
        let value = vec![b'x'; bytes];
        let batch = Builder::new().record(1_700_000_000_000, None, Some(&value)).build();
        let data = PartitionProduceData { index: 0, records: Records::from(batch) };
        let topic = TopicProduceData {
            name: queue.into(),
            partition_data: vec![data],
            ..Default::default()
        };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        let frame = encode_request(1, Some("t"), VERSION, &request).expect("it encodes");
        let mut stream = TcpStream::connect(&self.kafka).expect("it listens");
        stream.write_all(&frame.into_bytes()).expect("sent");
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("answered");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).expect("answered");
        let (_, answer) = decode_response::<ProduceRequest>(body.into(), VERSION).expect("right");
        answer.responses[0].partition_responses[0].error_code
    }

    fn get(&self, path: &str) -> (String, serde_json::Value) {
        let mut stream = TcpStream::connect(&self.admin).expect("it listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        (status, serde_json::from_str(body).expect("JSON"))
    }

    fn length(&self, queue: &str) -> i64 {
        self.get(&format!("/v1/queues/{queue}")).1["length"].as_i64().expect("a number")
    }

    /// Creates the queue on first use.
    fn fill(&self, queue: &str, count: i64, bytes: usize) {
        let due = Instant::now() + Duration::from_secs(20);
        let id = format!("/v1/queues/{queue}");
        let body = r#"{"owner":"test","partitions":1}"#;
        let mut stream = TcpStream::connect(&self.admin).expect("it listens");
        write!(
            stream,
            "PUT {id} HTTP/1.0\r\nContent-Type: application/json\r\nRopewalk-Epoch: 0\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        stream.read_to_string(&mut String::new()).expect("answered");
        for _ in 0..count {
            while self.produce(queue, bytes) != 0 {
                assert!(Instant::now() < due, "{queue} takes nothing");
            }
        }
    }

    fn end(mut self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill is there");
        assert!(sent.success());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn repair(dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(BROKER)
        .args(["repair", "--log", "error", "--data"])
        .arg(dir)
        .args(more)
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (status.code(), text(stdout) + &text(stderr))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Flips one bit in the middle of what follows `mark`.
fn flip(path: &Path, behind: &[u8], at: usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    let found = bytes.windows(behind.len()).position(|window| window == behind);
    bytes[found.expect("it is there") + at] ^= 4;
    std::fs::write(path, bytes).expect("written");
}

fn the_only<'a>(all: &'a [PathBuf], what: &str) -> &'a PathBuf {
    let found: Vec<_> = all.iter().filter(|path| path.to_string_lossy().contains(what)).collect();
    found.last().unwrap_or_else(|| panic!("no {what} in {all:?}"))
}

/// A directory with 24 large records and 3 small ones; `signal` is how its broker ended.
fn lived(signal: &str) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let broker = Running::dev(dir.path());
    broker.fill("large", BATCHES, 60_000);
    broker.fill("small", 3, 10);
    broker.end(signal);
    dir
}

/// Lists, repairs, and serves again; returns the records left in each queue, and the output.
fn mended(dir: &Path) -> ((i64, i64), String) {
    let (code, listed) = repair(dir, &[]);
    assert_eq!(code, Some(8), "{listed}");
    assert!(listed.contains("--accept-loss"), "{listed}");
    let (code, said) = repair(dir, &["--accept-loss"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, again) = repair(dir, &[]);
    assert_eq!((code, again.contains("nothing is damaged")), (Some(0), true), "{again}");
    let broker = Running::dev(dir);
    assert_eq!(
        broker.get("/ready"),
        ("200".into(), serde_json::json!({"ready": true, "reasons": []}))
    );
    let left = (broker.length("large"), broker.length("small"));
    for queue in ["large", "small"] {
        assert_eq!(broker.produce(queue, 10), 0, "{queue} takes records again");
    }
    assert_eq!((broker.length("large"), broker.length("small")), (left.0 + 1, left.1 + 1));
    broker.end("TERM");
    (left, said)
}

#[test]
fn d3_what_is_whole_has_nothing_to_repair_and_a_broker_keeps_its_directory() {
    let dir = lived("TERM");
    let (code, said) = repair(dir.path(), &["--accept-loss"]);
    assert_eq!((code, said.contains("nothing is damaged")), (Some(0), true), "{said}");
    let broker = Running::dev(dir.path());
    assert_eq!((broker.length("large"), broker.length("small")), (BATCHES, 3));
    assert_eq!(repair(dir.path(), &[]).0, Some(3), "in use");
    broker.end("TERM");
    let nowhere = dir.path().join("nowhere");
    assert_eq!(repair(&nowhere, &[]).0, Some(4));
    assert!(!nowhere.exists());
}

#[test]
fn d3_a_flipped_bit_in_a_segment_costs_its_block() {
    let dir = lived("TERM");
    let all = files(dir.path());
    flip(the_only(&all, ".log"), &[b'x'; 5000], 100);
    let ((large, small), said) = mended(dir.path());
    assert!((1..BATCHES).contains(&large), "{large}: {said}");
    assert_eq!(small, 3, "{said}");
    assert!(said.contains("queue large partition 0: offsets"), "{said}");
}

#[test]
fn d3_a_flipped_bit_in_a_spill_file_costs_its_run() {
    let dir = lived("TERM");
    let all = files(dir.path());
    flip(the_only(&all, ".spill"), b"xxxxxxxxxx", 3);
    let ((large, small), said) = mended(dir.path());
    assert_eq!((large, small), (BATCHES, 0), "{said}");
    assert!(said.contains("queue small partition 0: offsets 0 to 2"), "{said}");
}

#[test]
fn d3_what_can_be_made_again_costs_nothing() {
    for (what, behind, at) in [("meta", &b"RWMETA"[..], 30), (".spill", b"RWSPILL", 9)] {
        let dir = lived("TERM");
        flip(the_only(&files(dir.path()), what), behind, at);
        let (left, said) = mended(dir.path());
        assert_eq!(left, (BATCHES, 3), "{what}: {said}");
        assert!(said.contains("nothing is lost"), "{said}");
    }
}

#[test]
fn d3_a_flipped_bit_in_the_write_ahead_log_costs_what_follows_it_in_its_shard() {
    let dir = lived("KILL");
    let all = files(dir.path());
    let log = all.iter().rfind(|path| {
        let bytes = std::fs::read(path).expect("readable");
        path.extension().is_some_and(|e| e == "wal")
            && bytes.windows(9000).any(|w| w == [b'x'; 9000])
    });
    flip(log.expect("records are in the log"), &[b'x'; 9000], 8999);
    let ((large, small), said) = mended(dir.path());
    assert!(large < BATCHES, "{large}: {said}");
    if !said.contains("queue small") {
        assert_eq!(small, 3, "it lives in another shard: {said}");
    }
    assert!(said.contains("queue large partition 0: whatever was written from offset"), "{said}");
}

/// Flips a bit in every snapshot of these shards.
fn flip_snapshots(dir: &Path, of: impl Fn(&str) -> bool) {
    let all = files(dir);
    let snapshots = all.iter().filter(|path| path.extension().is_some_and(|e| e == "snapshot"));
    for path in snapshots {
        let name = path.file_name().expect("a name").to_string_lossy();
        let (shard, _) = name.split_once('-').expect("the shard and a number");
        if of(shard) {
            flip(path, b"RWSNAP", 30);
        }
    }
}

#[test]
fn d3_shards_without_snapshots_begin_anew_with_the_records_in_their_files() {
    let dir = lived("TERM");
    flip_snapshots(dir.path(), |shard| shard != "0");
    let (left, said) = mended(dir.path());
    assert_eq!(left, (BATCHES, 3), "{said}");
    assert!(said.contains("lost: what consumer groups committed since then"), "{said}");
}

#[test]
fn d3_without_the_catalog_nothing_is_given_up() {
    let dir = lived("TERM");
    flip_snapshots(dir.path(), |shard| shard == "0");
    let before: Vec<_> = files(&dir.path().join("partitions"));
    for more in [&[][..], &["--accept-loss"]] {
        let (code, said) = repair(dir.path(), more);
        assert_eq!((code, said.contains("this cannot be repaired")), (Some(8), true), "{said}");
    }
    assert_eq!(files(&dir.path().join("partitions")), before);
}

/// The number of orphaned partitions, after the broker had time to find them.
fn orphans(dir: &Path) -> i64 {
    let broker = Running::dev(dir);
    std::thread::sleep(Duration::from_secs(2));
    let (_, about) = broker.get("/v1/broker");
    let conditions = about["conditions"].as_array().expect("a list");
    let kept = conditions.iter().find(|condition| condition["kind"] == "orphaned_partitions");
    let count = kept.map_or(0, |kept| kept["count"].as_i64().expect("a number"));
    broker.end("TERM");
    count
}

#[test]
fn d3_records_of_queues_that_a_repaired_catalog_does_not_know_are_kept() {
    let dir = lived("KILL");
    let all = files(dir.path());
    let mark = b"large";
    let holds = |path: &&PathBuf| {
        let bytes = std::fs::read(path).expect("readable");
        path.extension().is_some_and(|e| e == "wal") && bytes.windows(5).any(|w| w == mark)
    };
    // The entry that declared the first queue: the catalog is restored to a state before both.
    flip(all.iter().find(holds).expect("it is in the log"), mark, 2);
    let (code, listed) = repair(dir.path(), &[]);
    assert_eq!(code, Some(8), "{listed}");
    assert!(listed.contains("repair --drop-orphans"), "{listed}");
    let (code, said) = repair(dir.path(), &["--accept-loss"]);
    assert_eq!(code, Some(0), "{said}");
    for _ in 0..2 {
        assert_eq!(orphans(dir.path()), 2, "after every start");
    }
    let records = |dir: &Path| {
        let all = files(dir);
        let holds = |path: &&PathBuf| {
            let bytes = std::fs::read(path).expect("readable");
            bytes.windows(5000).any(|window| window == [b'x'; 5000])
        };
        all.iter().filter(|path| path.starts_with(dir.join("partitions"))).filter(holds).count()
    };
    assert!(records(dir.path()) > 0, "the records are there");

    let (code, said) = repair(dir.path(), &["--drop-orphans"]);
    assert_eq!(code, Some(0), "{said}");
    // Files are removed when no kept snapshot names them any more; each stop writes a snapshot.
    let mut starts = 0;
    while records(dir.path()) > 0 {
        assert_eq!(orphans(dir.path()), 0, "a person gave them up");
        starts += 1;
        assert!(starts < 5, "the records are still there");
    }
}
