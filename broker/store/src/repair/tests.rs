//! A repair never makes a second history of a shard that others continue (D4).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::SimDisk;
use ropewalk_shard::command::{
    self, CatalogCommand, Command, NewTopic, PartitionPlacement, ShardCommand,
};
use ropewalk_shard::engine::{Members, MembersChange};
use ropewalk_shard::replica::Replica;
use ropewalk_shard::state::State;
use ropewalk_wal::{HardState, Payload, ReplicaKey};

use ropewalk_shard::engine::EntryKind;

use super::*;
use crate::bootstrap;
use crate::recovery::{OpenStore, Options, open};

const SHARD: ShardId = ShardId(1);
/// The replica of [`SHARD`] in a directory that was just formatted.
const OWN: ReplicaKey = ReplicaKey { shard: 1, replica: 2 };
const MARK: &[u8; 16] = b"sixteen to flip!";

fn options() -> Options {
    let wal = ropewalk_wal::Options { file_bytes: 4 << 20, ..ropewalk_wal::Options::default() };
    Options { wal, ..Options::default() }
}

fn data(disk: &SimDisk) -> DataDir {
    DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"))
}

fn entry(index: u64, kind: EntryKind, data: impl Into<Payload>) -> Record {
    Record::Entry { key: OWN, index, term: 1, kind: kind as u8, data: data.into() }
}

/// A command with [`MARK`] in it. It changes nothing.
fn record() -> Bytes {
    let group = String::from_utf8(MARK.to_vec()).expect("it is text");
    let command = Command::Shard(ShardCommand::DeleteGroup { group });
    command::encode(1, 0, &command).to_bytes()
}

fn change(index: u64, change: MembersChange) -> Record {
    entry(index, EntryKind::Members, change.encode())
}

fn committed(commit: u64) -> Record {
    let state = HardState { term: 3, vote: 2, commit };
    Record::HardState { key: OWN, state }
}

/// The data directory of a broker, whose log of one shard continues with `rounds`.
fn lived(rounds: &[Vec<Record>]) -> SimDisk {
    let disk = SimDisk::new(1);
    let data = data(&disk);
    let identity = Identity::first("cluster".to_owned(), BrokerId(1), 2);
    bootstrap::format(&data, &identity, &options()).expect("formatted");
    let (mut wal, _) =
        Wal::open(Arc::clone(data.disk()), &data.wal(), options().wal).expect("it opens");
    for round in rounds {
        wal.write_round(round).expect("written");
    }
    disk
}

/// Voters 2, 50 and 60, and a record behind them.
fn of_three() -> Vec<Vec<Record>> {
    let changes = [
        MembersChange::AddLearner(50),
        MembersChange::Promote(50),
        MembersChange::AddLearner(60),
        MembersChange::Promote(60),
    ];
    let changes = (2..).zip(changes).map(|(index, made)| change(index, made)).collect();
    let record = entry(6, EntryKind::Normal, record());
    vec![changes, vec![record], vec![committed(6)]]
}

/// Flips a bit in the record.
fn flip(disk: &SimDisk) {
    let data = data(disk);
    for name in data.names(&data.wal()).expect("readable") {
        let path = data.wal().join(name);
        let content = disk.content(&path).expect("it is there");
        if let Some(at) = content.windows(16).position(|window| window == MARK) {
            disk.corrupt(&path, at as u64, 4);
        }
    }
}

fn opened(disk: &SimDisk) -> OpenStore {
    open(data(disk), &options()).expect("it opens")
}

fn repaired(disk: &SimDisk, consent: Consent) -> Result<Vec<Finding>, RepairError> {
    repair(&data(disk), &options(), consent)
}

/// Runs the replica of a shard until nothing is left to do; returns its members, and whether it
/// leads.
fn run(disk: &SimDisk, shard: ShardId) -> (Members, bool) {
    let store = opened(disk);
    assert_eq!(store.damaged, []);
    let found = store.replicas.into_iter().find(|replica| replica.shard == shard);
    let found = found.expect("it starts");
    let (mut replica, mut state) = (Replica::new(found.start).expect("it starts"), State::new());
    for _ in 0..100 {
        while let Some(work) = replica.poll(&mut state) {
            if let Some(number) = work.number {
                replica.persisted(number);
            }
            assert!(work.stopped.is_none(), "{:?}", work.stopped);
        }
        replica.tick();
    }
    (replica.members().clone(), replica.leading().is_some())
}

#[test]
fn d4_a_loss_is_not_accepted_where_others_vote() {
    let disk = lived(&of_three());
    flip(&disk);
    let listed = repaired(&disk, Consent::Nothing).expect("listed");
    assert!(listed[0].what.contains("replica 50, replica 60"), "{listed:?}");
    check_voters(&data(&disk), &options()).expect_err("others vote");
    let refused = repaired(&disk, Consent::Loss).expect_err("others vote").to_string();
    for part in ["shard-1 has other voters", "replica 50, replica 60", "--i-am-the-only-survivor"] {
        assert!(refused.contains(part), "{refused}");
    }
    let damaged: Vec<_> = opened(&disk).damaged.iter().map(|damaged| damaged.shard).collect();
    assert_eq!(damaged, [SHARD], "nothing was changed");
}

#[test]
fn d4_the_only_survivor_continues_alone_in_a_new_history() {
    let disk = lived(&of_three());
    flip(&disk);
    let given_up = repaired(&disk, Consent::OnlySurvivor).expect("repaired");
    assert!(given_up.iter().any(|finding| finding.losses.contains(&Loss::Groups)), "{given_up:?}");
    let (members, leads) = run(&disk, SHARD);
    assert!(leads && members.is_lone(2), "{members:?}");
    assert_ne!(members.history, HistoryId::default());
    let (others, leads) = run(&disk, ShardId(2));
    assert_eq!((others, leads), (Members::lone(3), true), "a shard without others is as before");
    assert_eq!(repaired(&disk, Consent::Loss).expect("nothing is left"), []);
}

#[test]
fn d4_a_survivor_of_an_undamaged_shard_keeps_its_whole_log() {
    let disk = lived(&of_three());
    assert!(!run(&disk, SHARD).1, "the others are missing");
    let given_up = repaired(&disk, Consent::OnlySurvivor).expect("repaired");
    assert_eq!(given_up.len(), 1, "{given_up:?}");
    let what = "it continues without its other voters: replica 50, replica 60";
    assert_eq!(given_up[0].what, what);
    let start = opened(&disk).replicas.into_iter().find(|replica| replica.shard == SHARD);
    let start = start.expect("it starts").start;
    assert_eq!(
        start.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
        [2, 3, 4, 5, 6, 7]
    );
    assert_eq!((start.hard_state.commit, start.hard_state.term), (7, 4));
}

#[test]
fn d4_a_crash_at_every_operation_of_a_survivors_repair_is_repaired_again() {
    for at in 1.. {
        let disk = lived(&of_three());
        flip(&disk);
        disk.crash_at(disk.operations() + at);
        let is_done = repaired(&disk, Consent::OnlySurvivor).is_ok();
        disk.power_cycle(at);
        if !is_done {
            repaired(&disk, Consent::OnlySurvivor).expect("repaired");
        }
        let (members, leads) = run(&disk, SHARD);
        assert!(leads && members.is_lone(2), "a crash at {at}: {members:?}");
        if is_done {
            return;
        }
    }
}

/// A learner may have entries that are cut.
#[test]
fn d4_a_loss_leaves_learners_in_the_old_history() {
    let record = entry(3, EntryKind::Normal, record());
    let learner = change(2, MembersChange::AddLearner(50));
    let disk = lived(&[vec![learner], vec![record], vec![committed(3)]]);
    flip(&disk);
    repaired(&disk, Consent::Loss).expect("no other replica votes");
    let (members, leads) = run(&disk, SHARD);
    assert!(leads && members.is_lone(2) && members.history != HistoryId::default(), "{members:?}");
}

/// A removal that is not known to be committed may never have happened.
#[test]
fn d4_a_voter_counts_until_its_removal_is_committed() {
    let changes = |commit| {
        let added = MembersChange::AddLearner(50);
        let promoted = MembersChange::Promote(50);
        let removed = MembersChange::Remove(50);
        let changes = vec![change(2, added), change(3, promoted), change(4, removed)];
        lived(&[changes, vec![committed(commit)]])
    };
    repaired(&changes(3), Consent::Loss).expect_err("replica 50 may vote");
    assert_eq!(repaired(&changes(4), Consent::Loss).expect("it was removed"), []);
}

/// The only voter of the snapshot may have been one of three at the end of what was lost.
#[test]
fn d4_a_log_that_ends_before_its_commit_index_does_not_start() {
    let empty = || entry(2, EntryKind::Normal, Bytes::new());
    let disk = lived(&[vec![empty()], vec![committed(2)]]);
    assert!(run(&disk, SHARD).1);
    let disk = lived(&[vec![empty()], vec![committed(5)]]);
    let damaged = opened(&disk).damaged;
    assert_eq!(damaged.iter().map(|damaged| damaged.shard).collect::<Vec<_>>(), [SHARD]);
    assert!(damaged[0].what.contains("5 was committed"), "{damaged:?}");
    let listed = repaired(&disk, Consent::Loss).expect("no other replica votes");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(run(&disk, SHARD).1);
}

#[test]
fn d4_a_log_of_a_later_term_than_the_hard_state_does_not_start() {
    let data = Payload::from(Bytes::new());
    let later = Record::Entry { key: OWN, index: 2, term: 9, kind: EntryKind::Normal as u8, data };
    let disk = lived(&[vec![later]]);
    let damaged = opened(&disk).damaged;
    assert_eq!(damaged.iter().map(|damaged| damaged.shard).collect::<Vec<_>>(), [SHARD]);
    assert!(damaged[0].what.contains("term 9"), "{damaged:?}");
    assert_eq!(repaired(&disk, Consent::Loss).expect("no other replica votes").len(), 1);
    let start = opened(&disk).replicas.into_iter().find(|replica| replica.shard == SHARD);
    assert_eq!(start.expect("it starts").start.hard_state.term, 10);
}

/// The entry that opens a partition may be lost together with the records behind it.
#[test]
fn d3_a_queue_that_only_the_lost_entries_opened_is_among_the_losses() {
    let disk = lived(&[vec![entry(2, EntryKind::Normal, record())], vec![committed(2)]]);
    let topic = NewTopic {
        id: TopicId(uuid::Uuid::from_u128(7)),
        name: "orders".to_owned(),
        partitions: vec![PartitionPlacement { shard: SHARD, epoch_base: 0 }],
        configs: Vec::new(),
        owner: None,
    };
    let create = Command::Catalog(CatalogCommand::CreateTopics(vec![topic]));
    let created = Record::Entry {
        key: ReplicaKey { shard: 0, replica: 1 },
        index: 2,
        term: 1,
        kind: EntryKind::Normal as u8,
        data: command::encode(1, 0, &create).to_bytes().into(),
    };
    let of_disk = data(&disk);
    let (mut wal, _) =
        Wal::open(Arc::clone(of_disk.disk()), &of_disk.wal(), options().wal).expect("it opens");
    wal.write_round(&[created]).expect("written");
    drop(wal);
    flip(&disk);
    for consent in [Consent::Nothing, Consent::Loss] {
        let said = repaired(&disk, consent).expect("it runs")[0].to_string();
        let lost = "queue orders partition 0: whatever was written from offset 0 on";
        assert!(said.contains(lost), "{said}");
    }
}

/// The others agree that its state is wrong, so it continues only if they are lost for good.
#[test]
fn d4_a_quarantined_replica_continues_only_as_the_only_survivor() {
    let disk = lived(&of_three());
    let replica = ReplicaId(OWN.replica);
    quarantine::put(&data(&disk), SHARD, replica, "its state differs").expect("marked");
    let found = repaired(&disk, Consent::Nothing).expect("checked");
    let is_named =
        |finding: &Finding| finding.what.contains("quarantined: its state differs; other voters: ");
    assert!(found.iter().any(is_named), "{found:?}");
    let refused = repaired(&disk, Consent::Loss);
    assert!(matches!(refused, Err(RepairError::OtherVoters { .. })), "{refused:?}");
    repaired(&disk, Consent::OnlySurvivor).expect("repaired");
    let (members, leads) = run(&disk, SHARD);
    assert!(members.is_lone(OWN.replica) && leads, "{members:?}");
}

/// Its place in the catalog is no reason to rebuild it: another broker has the shard now.
#[test]
fn d4_a_destroyed_replica_is_not_repaired() {
    let disk = lived(&[]);
    crate::destroyed::mark(&data(&disk), SHARD, OWN.replica).expect("marked");
    for consent in [Consent::Nothing, Consent::Loss, Consent::OnlySurvivor] {
        let findings = repair(&data(&disk), &options(), consent).expect("repaired");
        assert!(findings.is_empty(), "{findings:?}");
    }
    let store = open(data(&disk), &options()).expect("it opens");
    assert_eq!(store.damaged, []);
    assert!(store.replicas.iter().all(|found| found.shard != SHARD));
    assert_eq!(store.destroyed[&SHARD], OWN.replica);
}

#[test]
fn d4_shards_that_a_broker_never_received_are_not_repaired() {
    let disk = SimDisk::new(1);
    let identity = Identity::joining("cluster".to_owned(), BrokerId(2), 2);
    bootstrap::format(&data(&disk), &identity, &options()).expect("formatted");
    let findings = repair(&data(&disk), &options(), Consent::Loss).expect("nothing to repair");
    assert!(findings.is_empty(), "{findings:?}");
    assert!(open(data(&disk), &options()).expect("it opens").replicas.is_empty());
}
