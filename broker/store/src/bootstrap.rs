//! Formats an empty directory: as that of a new cluster of one broker, or as that of a broker which
//! joins a cluster and has no shard yet.
//!
//! Every shard is created with a snapshot at index 1 and term 1, which has its members and its
//! state. So its log starts at index 2, and a replica on another broker can only start from a
//! snapshot. The first state of the catalog has the cluster id, the shards and this broker.
//!
//! # After a crash
//!
//! The directory counts as formatted only once all of this is durable: see [`crate::directory`].

use std::sync::Arc;

use ropewalk_shard::engine::Members;
use ropewalk_shard::state::Catalog;
use ropewalk_shard::{ShardId, State};
use ropewalk_wal::{HardState, Record, ReplicaKey, Wal};

use crate::directory::{DataDir, Identity};
use crate::recovery::{OpenError, Options};
use crate::replica_log;
use crate::snapshot::{Snapshot, Snapshots};

/// Index and term of the first snapshot of every shard.
const FIRST_INDEX: u64 = 1;
const FIRST_TERM: u64 = 1;

/// Formats an empty directory, whose lock the caller holds.
///
/// # Errors
/// When the directory is not empty, or the disk fails.
pub fn format(data: &DataDir, identity: &Identity, options: &Options) -> Result<(), OpenError> {
    data.begin_formatting(identity)?;
    data.create_dir(&data.partitions())?;
    data.create_dir(&data.snapshots())?;
    let records = if identity.is_joined { Vec::new() } else { create_shards(data, identity)? };
    data.create_dir(&data.wal())?;
    let (mut wal, _) = Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal)?;
    wal.write_round(&records)?;
    data.finish_formatting()?;
    Ok(())
}

/// Creates every shard. Returns the records of their replicas for the write-ahead log.
fn create_shards(data: &DataDir, identity: &Identity) -> Result<Vec<Record>, OpenError> {
    let catalog = Catalog::first(identity.cluster_id.clone(), identity.broker_id, identity.shards);
    let mut records = Vec::new();
    for (shard, info) in &catalog.shards {
        let (replica, _) = info.replicas.first_key_value().expect("a shard has a replica");
        let is_catalog = *shard == ShardId::CATALOG;
        let snapshot = Snapshot {
            shard: *shard,
            replica: *replica,
            index: FIRST_INDEX,
            term: FIRST_TERM,
            members: Members::lone(replica.0),
            replicas: info.brokers(),
            state: State {
                catalog: is_catalog.then(|| Box::new(catalog.clone())),
                ..State::default()
            },
            partitions: Vec::new(),
        };
        data.create_dir(&data.spill(*shard))?;
        Snapshots::new(data, *shard).write(1, &snapshot)?;
        let key = replica_log::key(*shard, *replica);
        records.extend(first_records(key, &snapshot.members));
    }
    Ok(records)
}

/// The WAL records of a replica that starts from its first snapshot. Its members are what the
/// snapshot says, changed by the entries after it; the row of the WAL is only read where a repair
/// finds no snapshot.
fn first_records(key: ReplicaKey, members: &Members) -> [Record; 2] {
    let conf_state = postcard::to_allocvec(members).expect("members always encode").into();
    let (index, term) = (FIRST_INDEX, FIRST_TERM);
    let state = HardState { term, vote: 0, commit: index };
    [Record::Created { key, index, term, conf_state }, Record::HardState { key, state }]
}
