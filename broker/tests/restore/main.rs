//! A cluster that lost all its disks is restored from its bucket (T2): the real binary, killed, its
//! data directory deleted, a restore, and a broker on what was restored.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ropewalk_tier::{Bucket, BucketSettings, BucketUrl, current_claim, list_folders};
use tempfile::TempDir;

mod broker;
mod client;

use broker::{Running, command, run, until, uploaded};
use client::{Client, Read};

/// Records of the test: three partitions, and a queue whose records stay on the brokers.
struct Lost {
    dir: TempDir,
    /// What each partition of `orders` had, in the order of offsets.
    orders: Vec<Vec<Read>>,
    producer: (i64, i16),
}

impl Lost {
    fn url(&self) -> String {
        format!("file://{}", self.bucket_dir().display())
    }

    fn bucket_dir(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("restored")
    }

    fn bucket(&self) -> Bucket {
        Bucket::open(&BucketSettings::new(BucketUrl::Directory(self.bucket_dir()))).expect("opens")
    }

    /// Runs `restore`. Returns the exit code, the report and standard error.
    fn restore(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let (url, data) = (self.url(), self.data().display().to_string());
        let all = ["restore", "--from", &url, "--data-dir", &data];
        run(&all.iter().chain(more).copied().collect::<Vec<_>>())
    }

    fn restored(&self, more: &[&str]) -> String {
        let (code, report, log) = self.restore(more);
        assert_eq!(code, Some(0), "{report}\n{log}");
        report
    }

    /// Everything in the bucket is in order.
    fn check(&self) {
        let (code, report, log) = run(&["tier", "check", "--from", &self.url()]);
        assert_eq!(code, Some(0), "{report}\n{log}");
    }

    /// The names of all files in the bucket.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        list(&self.bucket_dir(), &mut files);
        files.sort();
        files
    }

    fn start(&self) -> (Running, Client) {
        let running = Running::dev(&self.data(), &self.bucket_dir(), &[]);
        let client = Client::open(&running.kafka);
        (running, client)
    }
}

fn list(dir: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it is there").path();
        if path.is_dir() {
            list(&path, files);
        } else {
            files.push(path.display().to_string());
        }
    }
}

/// A cluster with records and offsets, whose broker was killed and whose disk is gone. What was
/// written last is in objects that no checkpoint names, as after an upload that was interrupted.
fn lost() -> Lost {
    let dir = TempDir::new().expect("a directory");
    let (data, bucket) = (dir.path().join("lost"), dir.path().join("bucket"));
    let running = Running::dev(&data, &bucket, &[]);
    let mut client = Client::open(&running.kafka);
    client.create("orders", 3, true);
    client.create("plain", 1, false);
    let producer = client.producer();
    for sequence in 0..20 {
        for partition in 0..3 {
            client.produce("orders", partition, producer, sequence);
        }
    }
    client.produce("plain", 0, (-1, -1), 0);
    client.commit("readers", "orders", 1, 7);
    client.commit("readers", "plain", 0, 1);
    let bucket_of = |dir: &Path| {
        Bucket::open(&BucketSettings::new(BucketUrl::Directory(dir.to_owned()))).expect("opens")
    };
    let bucket_handle = bucket_of(&bucket);
    until("checkpoints have the first records and the offsets", || {
        uploaded(&bucket_handle).is_some_and(|found| {
            found.manifests == vec![20; 3] && found.topics == 2 && found.offsets == 2
        })
    });
    running.kill();
    // Now no checkpoint of a shard is written.
    let rarely = ["--set", "ropewalk.tier.checkpoint.interval.ms=86400000"];
    let running = Running::dev(&data, &bucket, &rarely);
    let mut client = Client::open(&running.kafka);
    for sequence in 20..30 {
        for partition in 0..3 {
            client.produce("orders", partition, producer, sequence);
        }
    }
    until("all records are in objects", || {
        uploaded(&bucket_handle).is_some_and(|found| found.ends == vec![30; 3])
    });
    let orders = (0..3).map(|partition| client.read("orders", partition)).collect();
    running.kill();
    std::fs::remove_dir_all(&data).expect("it was there");
    // What a directory keeps of a put that was interrupted.
    let folder = std::fs::read_dir(&bucket).expect("it is there").flatten();
    let folder = folder.map(|entry| entry.path()).find(|path| path.join("catalog").is_dir());
    let half = folder.expect("the folder of the cluster").join("half.rwo#1");
    std::fs::write(half, b"half").expect("written");
    Lost { dir, orders, producer }
}

#[test]
fn t2_o4_a_lost_cluster_is_restored_from_its_bucket() {
    let lost = lost();
    lost.check();
    let before = lost.files();
    let plan = lost.restored(&["--plan"]);
    assert!(
        plan.contains("this is a plan") && plan.contains("orders-2: offsets 0 to 30"),
        "{plan}"
    );
    assert_eq!(lost.files(), before, "a plan changes nothing");
    assert!(!lost.data().exists());

    let report = lost.restored(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("it is JSON");
    assert_eq!(report["stage"], "restored");
    assert_eq!((&report["topics"], &report["groupOffsets"]), (&2.into(), &2.into()));
    assert_eq!(report["recordsLost"], 1, "the record of `plain`");
    assert_eq!(report["losses"], serde_json::json!([]));
    let capped = serde_json::json!([
        { "group": "readers", "topic": "plain", "partition": 0, "from": 1, "to": 0 }
    ]);
    assert_eq!(report["capped"], capped);
    let added: Vec<String> =
        lost.files().into_iter().filter(|file| !before.contains(file)).collect();
    assert!(added.len() == 1 && added[0].contains("ropewalk.claims"), "{added:?}");
    assert!(lost.restored(&[]).contains("restored before"));

    let (running, mut client) = lost.start();
    for (partition, expected) in (0..).zip(&lost.orders) {
        let found = client.read("orders", partition);
        assert_eq!(found.len(), 30);
        assert!(found.iter().eq(expected), "partition {partition}: the same records");
    }
    assert_eq!(client.read("plain", 0), []);
    assert_eq!(client.committed("readers", "orders", 1), 7);
    assert_eq!(client.committed("readers", "plain", 0), 0);
    // D5: a retry of a stored batch is not stored again, and the next one follows.
    for partition in 0..3 {
        assert_eq!(client.produce("orders", partition, lost.producer, 29), 29);
        assert_eq!(client.produce("orders", partition, lost.producer, 30), 30);
        let records = client.read("orders", partition);
        assert_eq!(records.len(), 31);
        let epochs: Vec<i32> = records.iter().map(|record| record.leader_epoch).collect();
        assert!(epochs[30] > epochs[29] && epochs.is_sorted(), "{epochs:?}");
    }
    let (id, _) = client.producer();
    assert!(id > lost.producer.0 + 1_000_000, "producer ids are not given out again: {id}");
    // The restored cluster uploads what is new.
    let bucket = lost.bucket();
    until("the new records are in objects", || {
        uploaded(&bucket).is_some_and(|found| found.ends == vec![31; 3])
    });
    until("a checkpoint of the restored cluster", || {
        uploaded(&bucket).is_some_and(|found| found.manifests == vec![31; 3])
    });
    lost.check();
    running.kill();
}

#[test]
fn t2_without_the_catalog_the_records_are_restored_by_id() {
    let lost = lost();
    let catalogs = lost.files().into_iter().filter(|file| file.ends_with(".rwc"));
    catalogs.for_each(|file| std::fs::remove_file(file).expect("it was there"));
    let (code, report, log) = lost.restore(&[]);
    assert_eq!(code, Some(8), "{report}\n{log}");
    assert!(log.contains("--without-catalog"), "{log}");
    assert!(!lost.data().exists(), "nothing was begun");
    lost.restored(&["--without-catalog"]);
    let (running, mut client) = lost.start();
    let names: Vec<String> =
        client.topics().into_iter().filter(|name| name.starts_with("restored-")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let found: Vec<Vec<Read>> = names
        .iter()
        .filter(|name| client.partitions(name) == 3)
        .flat_map(|name| (0..3).map(|index| client_read(&running, name, index)).collect::<Vec<_>>())
        .collect();
    assert_eq!(found, lost.orders);
    running.kill();
}

fn client_read(running: &Running, topic: &str, partition: i32) -> Vec<Read> {
    Client::open(&running.kafka).read(topic, partition)
}

#[test]
fn t2_a_restore_that_is_killed_continues() {
    let lost = lost();
    let (url, data) = (lost.url(), lost.data().display().to_string());
    let mut interrupted = 0;
    for delay_ms in [150, 200, 300, 450, 700] {
        let mut child = command(&["restore", "--from", &url, "--data-dir", &data])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().expect("it is ours");
        child.wait().expect("it ended");
        interrupted += usize::from(lost.data().exists() && !lost.data().join("restored").exists());
    }
    println!("restores that were interrupted after they had begun: {interrupted}");
    lost.restored(&[]);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let claim = runtime.block_on(current_claim(&lost.bucket())).expect("it answers");
    assert_eq!(claim.map(|claim| claim.epoch), Some(2), "one claim for all attempts");
    let (running, mut client) = lost.start();
    for (partition, expected) in (0..).zip(&lost.orders) {
        assert_eq!(&client.read("orders", partition), expected);
    }
    running.kill();
    lost.check();
}

#[test]
fn t2_a_directory_that_is_not_empty_is_refused() {
    let lost = lost();
    // Another cluster.
    let other = lost.dir.path().join("other");
    let bucket = lost.dir.path().join("another-bucket");
    Running::dev(&lost.data(), &bucket, &[]).kill();
    let (code, report, log) = lost.restore(&[]);
    assert_eq!(code, Some(4), "{report}\n{log}");
    assert!(log.contains("it belongs to cluster"), "{log}");
    // The permission of an operator is missing.
    let (url, data) = (lost.url(), other.display().to_string());
    let all = ["restore", "--from", &url, "--data-dir", &data, "--if-format-allowed"];
    let (code, _, log) = run(&all);
    assert_eq!(code, Some(7), "{log}");
    // A bucket that no cluster used.
    let empty = format!("file://{}", lost.dir.path().join("empty").display());
    let (code, _, log) = run(&["restore", "--from", &empty, "--data-dir", &data]);
    assert_eq!(code, Some(2), "{log}");
    assert!(!other.exists());
}

#[test]
fn t2_a_missing_object_of_a_manifest_is_a_loss_that_is_accepted_explicitly() {
    let lost = lost();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let bucket = lost.bucket();
    let claim = runtime.block_on(current_claim(&bucket)).expect("it answers").expect("claimed");
    let folders = runtime.block_on(list_folders(&bucket, &claim.cluster)).expect("it lists");
    let (key, folder) = folders.partitions.iter().next().expect("there are three");
    let first = folder.objects.iter().map(|found| &found.name).min().expect("there are some");
    std::fs::remove_file(lost.bucket_dir().join(first.to_string())).expect("it was there");
    let (code, _, _) = run(&["tier", "check", "--from", &lost.url()]);
    assert_eq!(code, Some(1));
    let (code, _, log) = lost.restore(&[]);
    assert_eq!(code, Some(8), "{log}");
    assert!(log.contains("--accept-loss") && log.contains(&first.to_string()), "{log}");
    let report = lost.restored(&["--accept-loss"]);
    let start = first.end;
    let line = format!("orders-{}: offsets {start} to 30", key.index);
    assert!(report.contains(&line), "{line} in {report}");
    let (running, mut client) = lost.start();
    let found = client.read("orders", key.index);
    let expected: Vec<Read> = lost.orders[key.index as usize]
        .iter()
        .filter(|record| record.offset >= start)
        .cloned()
        .collect();
    assert_eq!(found, expected);
    running.kill();
}

/// The output of a command that ended.
fn text(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The binary of this test run.
fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk-broker"));
    command.env_remove("ROPEWALK_LOG");
    command
}
