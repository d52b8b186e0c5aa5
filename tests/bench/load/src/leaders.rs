//! Which broker leads each partition: asked from any broker of the cluster, once before a load, and
//! again when a broker refuses a request because the leader has moved.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};

use crate::connection::Connection;

const METADATA_VERSION: i16 = 9;
const NO_LEADER: i32 = -1;
/// How long leaders are waited for.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);

/// A partition of a topic: the topic's name and the partition's number.
pub(crate) type Target = (String, i32);

/// One answer of a broker: the leader of each partition that has one, and its replicas in sync.
pub(crate) struct Leaders {
    addresses: BTreeMap<i32, String>,
    partitions: HashMap<Target, (i32, usize)>,
}

impl Leaders {
    /// What a broker knows now about the topics.
    pub(crate) fn ask(connection: &mut Connection, names: &[String]) -> Result<Self> {
        let name = |name: &String| MetadataRequestTopic {
            name: Some(name.as_str().into()),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: Some(names.iter().map(name).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let answer = connection.call(METADATA_VERSION, &request)?;
        let addresses = answer
            .brokers
            .iter()
            .map(|broker| (broker.node_id, format!("{}:{}", broker.host, broker.port)))
            .collect();
        let mut partitions = HashMap::new();
        for topic in answer.topics.iter().filter(|topic| topic.error_code == 0) {
            let name = topic.name.as_ref().context("a topic without a name")?.to_string();
            for partition in topic.partitions.iter().filter(|p| p.leader_id != NO_LEADER) {
                let known = (partition.leader_id, partition.isr_nodes.len());
                partitions.insert((name.clone(), partition.partition_index), known);
            }
        }
        Ok(Self { addresses, partitions })
    }

    /// Asks until each target has a leader, up to 60 s.
    pub(crate) fn of(bootstrap: &str, targets: &[Target]) -> Result<Self> {
        let mut names: Vec<String> = targets.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        let mut connection = Connection::open(bootstrap)?;
        let deadline = Instant::now() + LEADERS_WITHIN;
        loop {
            let leaders = Self::ask(&mut connection, &names)?;
            let Some(missing) = targets.iter().find(|target| leaders.address(target).is_err())
            else {
                return Ok(leaders);
            };
            ensure!(Instant::now() < deadline, "{missing:?} has no leader after 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the leader of a partition listens.
    pub(crate) fn address(&self, target: &Target) -> Result<&str> {
        let found = self.partitions.get(target).and_then(|(leader, _)| self.addresses.get(leader));
        Ok(found.with_context(|| format!("{target:?} has no leader"))?)
    }

    /// The targets of each leader, by its address.
    pub(crate) fn groups(&self, targets: &[Target]) -> Result<BTreeMap<String, Vec<Target>>> {
        let mut groups: BTreeMap<String, Vec<Target>> = BTreeMap::new();
        for target in targets {
            groups.entry(self.address(target)?.to_owned()).or_default().push(target.clone());
        }
        Ok(groups)
    }

    /// The targets of each of `connections` connections: all of one leader, and as many connections
    /// to each leader as there can be. There is at least one for each leader.
    pub(crate) fn shares(
        &self,
        targets: &[Target],
        connections: usize,
    ) -> Result<Vec<Vec<Target>>> {
        let groups: Vec<_> = self.groups(targets)?.into_values().collect();
        let count = connections.max(groups.len());
        let share = |i: usize| {
            let (of_leader, k) = (i % groups.len(), i / groups.len());
            let connections = (count - of_leader).div_ceil(groups.len());
            let group = &groups[of_leader];
            let mut mine: Vec<_> = group.iter().skip(k).step_by(connections).cloned().collect();
            if mine.is_empty() {
                mine.push(group[k % group.len()].clone());
            }
            mine
        };
        Ok((0..count).map(share).collect())
    }

    /// The fewest replicas in sync that one of the targets has.
    pub(crate) fn in_sync(&self, targets: &[Target]) -> usize {
        let of = |target| self.partitions.get(target).map_or(0, |(_, in_sync)| *in_sync);
        targets.iter().map(of).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(partition: i32) -> Target {
        ("t".to_owned(), partition)
    }

    /// Twelve partitions: 6 led by broker 1, 4 by broker 2, 2 by broker 3.
    fn leaders() -> (Leaders, Vec<Target>) {
        let addresses = (1..=3).map(|id| (id, format!("broker-{id}"))).collect();
        let leader = |p: i32| if p < 6 { 1 } else { 2 + i32::from(p >= 10) };
        let partitions =
            (0..12).map(|p| (target(p), (leader(p), 3 - usize::from(p == 7)))).collect();
        (Leaders { addresses, partitions }, (0..12).map(target).collect())
    }

    #[test]
    fn every_connection_has_one_leader_and_every_partition_one_connection() {
        let (leaders, targets) = leaders();
        for connections in [1, 3, 4, 6, 40] {
            let shares = leaders.shares(&targets, connections).unwrap();
            assert_eq!(shares.len(), connections.max(3));
            for share in &shares {
                assert_eq!(leaders.groups(share).unwrap().len(), 1, "{share:?}");
            }
            let mut all: Vec<_> = shares.concat();
            all.sort();
            if connections <= 6 {
                assert_eq!(all, targets, "{connections}");
            }
            all.dedup();
            assert_eq!(all, targets, "{connections}");
        }
    }

    #[test]
    fn one_leader_gets_all_connections() {
        let (leaders, targets) = leaders();
        let shares = leaders.shares(&targets[..6], 4).unwrap();
        let counts: Vec<_> = shares.iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 2, 1, 1]);
    }

    #[test]
    fn the_partition_with_the_fewest_replicas_in_sync_counts() {
        let (leaders, targets) = leaders();
        assert_eq!(leaders.in_sync(&targets), 2);
        assert_eq!(leaders.in_sync(&targets[..6]), 3);
        assert_eq!(leaders.in_sync(&[target(99)]), 0);
        assert!(leaders.address(&target(99)).is_err());
    }
}
