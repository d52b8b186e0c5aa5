//! Waits until the replicas of topics have caught up.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::leaders::Leaders;
use crate::topics::Topics;

/// How long replicas that catch up are waited for.
const IN_SYNC_WITHIN: Duration = Duration::from_secs(300);

/// Waits until all partitions of the topics have enough replicas in sync.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InSync {
    #[command(flatten)]
    topics: Topics,
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

impl InSync {
    /// `unix_s` is when an answer first said so, by the clock that the harness reads.
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        let (names, targets) = (self.topics.names(), self.topics.targets());
        let mut connection = Connection::open(bootstrap)?;
        let deadline = Instant::now() + IN_SYNC_WITHIN;
        loop {
            let in_sync = Leaders::ask(&mut connection, &names)?.in_sync(&targets);
            if in_sync >= self.replicas {
                let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                return Ok(json!({ "unix_s": unix_s }));
            }
            ensure!(Instant::now() < deadline, "{in_sync} replicas in sync after 300 s");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
