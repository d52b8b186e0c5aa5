//! The other replicas of a damaged shard, whose history a repair must not continue by accident.
//!
//! A repair cuts a log. If other replicas vote, they may have what was cut, and go on without this
//! replica: then there would be two leaders, each with a majority of its own (D4). So a repair
//! refuses to accept a loss where others vote. If they are lost for good, it continues with this
//! replica alone, in a new history: the others cannot exchange messages with it any more.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::engine::{EntryId, EntryKind, Members, MembersChange};
use ropewalk_shard::{BrokerId, HistoryId, ReplicaId, ShardId};
use ropewalk_wal::{HardState, Payload, Record, RecoveredLog, ReplicaKey, Wal};

use crate::recovery::key_of;
use crate::snapshot::Snapshot;

/// The other members of a shard, as far as its snapshot and its log show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Peers {
    /// Replicas that vote, or may vote: a change of the members may be committed or not.
    pub(super) voters: BTreeSet<u64>,
    /// Whether there are others at the end of the log, also such that do not vote.
    pub(super) are_left: bool,
}

impl Peers {
    /// The peers of the replica that wrote a snapshot.
    pub(super) fn of(newest: &Snapshot, recovered: &RecoveredLog, wal: &Wal) -> Self {
        let own = newest.replica.0;
        let mut members = newest.members.clone();
        let mut peers = Self::default();
        if let Some(log) = recovered.replicas.get(&key_of(newest)) {
            let later = log.entries.iter().filter(|entry| entry.index > newest.index);
            for entry in later.filter(|e| EntryKind::from_u8(e.kind) == Some(EntryKind::Members)) {
                if entry.index > log.hard_state.commit {
                    peers.add(&members, own);
                }
                let change = wal.read(&entry.location).ok();
                let change = change.and_then(|bytes| MembersChange::decode(&bytes).ok());
                // What follows an entry that cannot be read is cut.
                let Some(change) = change else { break };
                members = members.after(change);
            }
        }
        peers.add(&members, own);
        peers.are_left = members.others(own).next().is_some();
        peers
    }

    /// The peers of the replicas that a shard without a snapshot has in the write-ahead log.
    pub(super) fn of_log(shard: ShardId, recovered: &RecoveredLog) -> Self {
        let mut peers = Self::default();
        for (key, log) in recovered.replicas.iter().filter(|(key, _)| key.shard == shard.0) {
            let members: Option<Members> = postcard::from_bytes(&log.conf_state).ok();
            peers.add(&members.unwrap_or_default(), key.replica);
        }
        peers
    }

    fn add(&mut self, members: &Members, own: u64) {
        self.voters.extend(members.others(own).filter(|other| members.is_voter(*other)));
    }

    /// Names the voters with their brokers, for messages.
    pub(super) fn named(&self, brokers: &BTreeMap<ReplicaId, BrokerId>) -> String {
        let name = |id: &u64| match brokers.get(&ReplicaId(*id)) {
            Some(broker) => format!("replica {id} on broker {}", broker.0),
            None => format!("replica {id}"),
        };
        self.voters.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// The records that make a replica the only member of its shard: a change of the members behind
/// `last`, the end of its log, which is committed with all before it.
pub(super) fn survive(key: ReplicaKey, last: EntryId, history: HistoryId) -> [Record; 2] {
    let (index, term) = (last.index + 1, last.term);
    let change = MembersChange::Survive { replica: key.replica, history };
    let data = Payload::from(change.encode());
    let state = HardState { term, vote: 0, commit: index };
    let kind = EntryKind::Members as u8;
    [Record::Entry { key, index, term, kind, data }, Record::HardState { key, state }]
}
