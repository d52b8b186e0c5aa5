//! Processes of the binary, and what is in their bucket.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ropewalk_tier::{Bucket, current_claim, list_folders, newest_checkpoints};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// A broker that is killed at the end of the test.
pub(crate) struct Running {
    child: Child,
    /// Where Kafka clients connect.
    pub(crate) kafka: String,
}

impl Running {
    /// Starts `dev` with a bucket in a directory, to which records move at once.
    pub(crate) fn dev(data: &Path, bucket: &Path, more: &[&str]) -> Self {
        let mut child = command(&["dev", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--set", "ropewalk.tier.upload.max.age.ms=1"])
            .args(["--set", "ropewalk.tier.checkpoint.interval.ms=200"])
            .arg("--data")
            .arg(data)
            .arg("--tier")
            .arg(bucket)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the broker starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("it says something");
        let kafka = line.split("Kafka clients at ").nth(1).and_then(|rest| rest.split(',').next());
        let kafka = kafka.unwrap_or_else(|| panic!("it is not ready: {line}")).to_owned();
        Self { child, kafka }
    }

    /// Ends it without any chance to finish something.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = super::binary();
    command.args(arguments);
    command
}

/// Exit code, standard output and standard error of a command.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    super::text(command(arguments).output().expect("it runs"))
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let due = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < due, "it takes too long: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is in a bucket.
#[derive(Debug)]
pub(crate) struct Uploaded {
    /// The end of each partition by its last object.
    pub(crate) ends: Vec<i64>,
    /// The end of each partition with a tier by the newest checkpoints.
    pub(crate) manifests: Vec<i64>,
    /// Topics in the newest checkpoint of the catalog.
    pub(crate) topics: usize,
    /// Offsets of groups in the newest checkpoints.
    pub(crate) offsets: usize,
}

/// What is in a bucket; `None` while no cluster uses it.
pub(crate) fn uploaded(bucket: &Bucket) -> Option<Uploaded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("it has no threads").block_on(async {
        let claim = current_claim(bucket).await.expect("it answers")?;
        let newest = newest_checkpoints(bucket, &claim.cluster).await.expect("it answers");
        let folders = list_folders(bucket, &claim.cluster).await.expect("it answers");
        let ends = folders
            .partitions
            .values()
            .filter_map(|folder| folder.objects.iter().map(|found| found.name.end).max());
        let partitions = newest.shards.iter().flat_map(|(shard, _)| &shard.partitions);
        let groups = newest.shards.iter().flat_map(|(shard, _)| &shard.groups);
        Some(Uploaded {
            ends: ends.collect(),
            manifests: partitions
                .filter_map(|one| one.tier.as_ref().map(|tier| tier.end))
                .collect(),
            topics: newest.catalog.as_ref().map_or(0, |(catalog, _)| catalog.topics.len()),
            offsets: groups.map(|group| group.offsets.len()).sum(),
        })
    })
}
