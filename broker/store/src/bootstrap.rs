//! How a cluster of one broker begins: an empty directory becomes a data directory.
//!
//! Every shard is born as a snapshot at (index 1, term 1) that carries its members and its state, so
//! that its log starts at 2 and a replica elsewhere can only begin from a snapshot. The catalog's
//! first state names the cluster, its shards and this broker.
//!
//! # After a crash
//!
//! The directory counts as formatted once all of this is durable, and as empty before: see
//! [`crate::directory`].

use std::sync::Arc;

use ropewalk_shard::engine::Members;
use ropewalk_shard::state::Catalog;
use ropewalk_shard::{ShardId, State};
use ropewalk_wal::{HardState, Record, ReplicaKey, Wal};

use crate::directory::{DataDir, Identity};
use crate::recovery::{OpenError, Options};
use crate::replica_log;
use crate::snapshot::{Snapshot, Snapshots};

/// Where every shard's log begins.
const FIRST_INDEX: u64 = 1;
const FIRST_TERM: u64 = 1;

/// Formats a directory, whose lock the caller holds and which must be empty.
///
/// # Errors
/// When it is not empty (it is never formatted twice), or the disk fails.
pub fn format(data: &DataDir, identity: &Identity, options: &Options) -> Result<(), OpenError> {
    data.begin_formatting(identity)?;
    data.create_dir(&data.partitions())?;
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
            replicas: info.replicas.clone(),
            state: State {
                catalog: is_catalog.then(|| Box::new(catalog.clone())),
                ..State::default()
            },
            partitions: Vec::new(),
        };
        data.create_dir(&data.spill(*shard))?;
        data.create_dir(&data.snapshots(*shard))?;
        Snapshots::new(data, *shard).write(1, &snapshot)?;
        let key = replica_log::key(*shard, *replica);
        records.extend(first_records(key, &snapshot.members));
    }
    data.create_dir(&data.wal())?;
    let (mut wal, _) = Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal)?;
    wal.write_round(&records)?;
    data.finish_formatting()?;
    Ok(())
}

/// The log's record of a replica that begins with its first snapshot.
fn first_records(key: ReplicaKey, members: &Members) -> [Record; 2] {
    let conf_state = postcard::to_allocvec(members).expect("members always encode").into();
    let (index, term) = (FIRST_INDEX, FIRST_TERM);
    let state = HardState { term, vote: 0, commit: index };
    [Record::Created { key, index, term, conf_state }, Record::HardState { key, state }]
}
