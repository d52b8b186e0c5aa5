//! Scenario `consume`: reads whole topics and counts records by the headers of their batches.
//!
//! Invariant: every byte that is counted was received.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::fetch::{FETCH_VERSION, batches, fetch_request};
use crate::groups;
use crate::leaders::{Leaders, Target};
use crate::meter::Meter;
use crate::topics::earliest;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// Time between two commits of a group; Kafka's clients commit every 5 s.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Consume {
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// Connections that share the partitions, in each group; at least one for each leader.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Most bytes of one partition in an answer; Kafka's clients ask for 1 MiB.
    #[arg(long, default_value_t = 1 << 20)]
    partition_bytes: i32,
    /// Consumer groups that each read everything and commit; 0 reads once and commits nothing.
    #[arg(long, default_value_t = 0)]
    groups: usize,
}

/// One connection's share of the work.
struct Reader {
    consume: Consume,
    bootstrap: String,
    leaders: Leaders,
    /// By address. There is one, until a leader moves.
    connections: BTreeMap<String, Connection>,
    /// The name of the group, and its coordinator.
    group: Option<(String, Connection)>,
    /// Partitions not read to their end, with the next offset of each.
    open: BTreeMap<i32, i64>,
    committed: Instant,
    records: u64,
    bytes: u64,
}

impl Consume {
    /// Reads each partition from its first offset until it has caught up with the high watermark.
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        let mut readers = Vec::new();
        let targets: Vec<_> = (0..self.partitions).map(|p| (self.topic.clone(), p)).collect();
        let groups: Vec<Option<String>> = match self.groups {
            0 => vec![None],
            count => (0..count).map(|i| Some(format!("{}-group-{i}", self.topic))).collect(),
        };
        for group in groups {
            let connections = self.connections.min(targets.len());
            for share in Leaders::of(bootstrap, &targets)?.shares(&targets, connections)? {
                readers.push(self.reader(bootstrap, &share, group.clone())?);
            }
        }
        let meter = Meter::process();
        let threads: Vec<_> =
            readers.into_iter().map(|reader| thread::spawn(move || reader.read())).collect();
        let (mut records, mut bytes) = (0, 0);
        for thread in threads {
            let (r, b) = thread.join().map_err(|_| anyhow!("a connection panicked"))??;
            records += r;
            bytes += b;
        }
        let seconds = meter.seconds();
        Ok(json!({
            "records": records, "bytes": bytes, "seconds": seconds,
            "records_per_s": records as f64 / seconds,
            "mb_per_s": bytes as f64 / 1e6 / seconds, "cpu_s": meter.cpu_seconds(),
        }))
    }

    /// A connection that reads some partitions.
    fn reader(&self, bootstrap: &str, mine: &[Target], group: Option<String>) -> Result<Reader> {
        let leaders = Leaders::of(bootstrap, mine)?;
        let coordinator = |group: String| -> Result<_> {
            let coordinator = groups::coordinator(bootstrap, &group, &self.topic)?;
            Ok((group, coordinator))
        };
        let mut reader = Reader {
            consume: self.clone(),
            bootstrap: bootstrap.to_owned(),
            leaders,
            connections: BTreeMap::new(),
            group: group.map(coordinator).transpose()?,
            open: mine.iter().map(|(_, partition)| (*partition, 0)).collect(),
            committed: Instant::now(),
            records: 0,
            bytes: 0,
        };
        for (address, partitions) in reader.by_leader()? {
            reader.find_earliest(&address, &partitions)?;
        }
        Ok(reader)
    }
}

impl Reader {
    fn read(mut self) -> Result<(u64, u64)> {
        while !self.open.is_empty() {
            for (address, partitions) in self.by_leader()? {
                let done = self.fetch(&address, &partitions)?;
                self.commit(!done.is_empty())?;
                self.open.retain(|partition, _| !done.contains(partition));
            }
        }
        Ok((self.records, self.bytes))
    }

    /// The open partitions of each leader, by its address.
    fn by_leader(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in self.open.keys() {
            let address = self.leaders.address(&(self.consume.topic.clone(), *partition))?;
            found.entry(address.to_owned()).or_default().push(*partition);
        }
        Ok(found)
    }

    fn connection(&mut self, address: &str) -> Result<&mut Connection> {
        if !self.connections.contains_key(address) {
            self.connections.insert(address.to_owned(), Connection::open(address)?);
        }
        self.connections.get_mut(address).context("it was just inserted")
    }

    fn find_earliest(&mut self, address: &str, partitions: &[i32]) -> Result<()> {
        let topic = self.consume.topic.clone();
        let found = earliest(self.connection(address)?, &topic, partitions)?;
        self.open.extend(found);
        Ok(())
    }

    /// One fetch; the partitions that were read to their end.
    fn fetch(&mut self, address: &str, partitions: &[i32]) -> Result<Vec<i32>> {
        let from: Vec<_> =
            partitions.iter().map(|partition| (*partition, self.open[partition])).collect();
        let request = fetch_request(&self.consume.topic, &from, self.consume.partition_bytes, 0);
        let answer = self.connection(address)?.call(FETCH_VERSION, &request)?;
        let mut done = Vec::new();
        for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let (index, code) = (partition.partition_index, partition.error_code);
            if code == OFFSET_OUT_OF_RANGE {
                // Retention deleted the segment meanwhile.
                self.find_earliest(address, &[index])?;
                continue;
            }
            if code == NOT_LEADER_OR_FOLLOWER {
                let targets: Vec<_> = self
                    .open
                    .keys()
                    .map(|partition| (self.consume.topic.clone(), *partition))
                    .collect();
                self.leaders = Leaders::of(&self.bootstrap, &targets)?;
                continue;
            }
            ensure!(code == 0, "fetch refused with error {code}");
            let Some(next) = self.open.get_mut(&index) else { continue };
            for (header, batch) in batches(&partition.records.to_bytes().unwrap_or_default()) {
                self.records += u64::from(header.count.unsigned_abs());
                self.bytes += batch.len() as u64;
                *next = header.last_offset() + 1;
            }
            if *next >= partition.high_watermark {
                done.push(index);
            }
        }
        Ok(done)
    }

    /// Commits what was read, in intervals and whenever a partition is at its end.
    fn commit(&mut self, is_at_end: bool) -> Result<()> {
        let Some((group, coordinator)) = &mut self.group else { return Ok(()) };
        if !is_at_end && self.committed.elapsed() < COMMIT_INTERVAL {
            return Ok(());
        }
        self.committed = Instant::now();
        let next: Vec<_> = self.open.iter().map(|(partition, next)| (*partition, *next)).collect();
        groups::commit(coordinator, group, &self.consume.topic, &next)
    }
}
