//! The tier at its edges: puts of leaders that were deposed, and crashes between two steps (T1).

use ropewalk_shard::command::{ChangeTier, OpenPartition, ShardCommand, TierChange};
use ropewalk_shard::manifest::{ObjectRef, RestoredEpoch, RestoredPartition};

use super::{MS, SECOND, holds};
use crate::clients::partition;
use crate::mutation::Mutation;
use crate::tier::Upload;
use crate::world::{Happening, World};

impl World {
    /// A shard with six records in the first partition, which takes objects. No leader uploads by
    /// itself.
    fn with_tier(seed: u64, mutation: Option<Mutation>) -> (Self, u64) {
        let mut world = Self::calm(seed, 3, mutation);
        let leader = world.elect();
        world.prepare_tier();
        world.append_many(leader, 6);
        world.change_of(leader, TierChange::Enable);
        (world, leader)
    }

    /// Proposes a change of the tier of the first partition and gives it the time to be applied.
    fn change_of(&mut self, node: u64, change: TierChange) {
        let change = ChangeTier { change, partition: partition(0) };
        self.propose(node, ShardCommand::ChangeTier(change));
        self.run_for(200 * MS);
    }

    /// What a leader would upload next.
    fn upload_of(&mut self, node: u64) -> Upload {
        self.upload_next(node, 0).expect("there are records")
    }

    /// The bucket applies a put after a while.
    fn put_in(&mut self, us: u64, upload: &Upload) {
        let put = Happening::PutApplied { index: 0, upload: Box::new(upload.clone()) };
        self.after(us, put);
    }

    /// The objects that a replica's manifest names.
    fn objects_of(&self, node: u64) -> Vec<ObjectRef> {
        let process = self.nodes[&node].process.as_ref().expect("it runs");
        let state = process.state.0.borrow();
        let tier = state.partitions[&partition(0)].tier.as_deref();
        tier.map_or_else(Vec::new, |tier| tier.objects.iter().copied().collect())
    }

    fn check_tiers(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.check_tier(node, 0);
        }
    }
}

/// A leader begins a put and is deposed. The next leader uploads the same records, and its object
/// is added; then the put of the first one takes effect.
fn put_of_a_deposed_leader(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, old) = World::with_tier(seed, mutation);
    let late = world.upload_of(old);
    world.put_in(20 * SECOND, &late);
    world.isolate(&[old]);
    let others = world.others(old);
    let newer = |world: &World| others.iter().copied().find(|id| world.nodes[id].is_leader());
    world.until("another leader", |world| newer(world).is_some());
    world.run_for(SECOND);
    let leader = newer(&world).unwrap_or(others[0]);
    let upload = world.upload_of(leader);
    if (upload.of.base, upload.of.end) != (late.of.base, late.of.end) || upload.of == late.of {
        world.oracle.violate(format!("{:?} after {:?}", upload.of, late.of));
    }
    world.put_in(MS, &upload);
    world.run_for(10 * MS);
    world.change_of(leader, TierChange::AddObject(upload.of));
    // The deposed leader proposes its object. It is not the leader, or its entry is replaced.
    world.change_of(old, TierChange::AddObject(late.of));
    world.network.heal();
    world.run_for(25 * SECOND);
    world.check_tiers();
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        if world.objects_of(node) != [upload.of] {
            world.oracle.violate(format!("replica {node} has {:?}", world.objects_of(node)));
        }
    }
    let leader = world.elect();
    let end = upload.of.end;
    world.change_of(leader, TierChange::SetLocalStart(end));
    world.check_tiers();
    world.finish()
}

#[test]
fn t1_a_put_of_a_deposed_leader_replaces_nothing() {
    holds(put_of_a_deposed_leader, &[Mutation::PutOverwrites]);
}

/// A leader crashes after the put and before the command. The next leader uploads again; the object
/// of the first one is an orphan.
fn crash_between_put_and_command(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, first) = World::with_tier(seed, mutation);
    let orphan = world.upload_of(first);
    world.put_in(MS, &orphan);
    world.run_for(10 * MS);
    world.crash(first);
    world.run_for(SECOND);
    world.start(first);
    let leader = world.elect();
    world.run_for(SECOND);
    world.check_tiers();
    let upload = world.upload_of(leader);
    world.put_in(MS, &upload);
    world.run_for(10 * MS);
    world.change_of(leader, TierChange::AddObject(upload.of));
    world.change_of(leader, TierChange::SetLocalStart(upload.of.end));
    world.check_tiers();
    if upload.of == orphan.of || world.objects_of(leader) != [upload.of] {
        world.oracle.violate(format!("{:?} is not added: {:?}", upload.of, orphan.of));
    }
    world.finish()
}

#[test]
fn t1_a_crash_between_put_and_command_leaves_an_orphan() {
    holds(crash_between_put_and_command, &[]);
}

/// A replica that lags far behind gets a snapshot, and with it only what is on the disks.
fn learner_of_a_tiered_shard(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = World::with_tier(seed, mutation);
    let lagging = world.others(leader)[0];
    world.crash(lagging);
    let upload = world.upload_of(leader);
    world.put_in(MS, &upload);
    world.run_for(10 * MS);
    world.change_of(leader, TierChange::AddObject(upload.of));
    let start = upload.of.end - 1;
    world.change_of(leader, TierChange::SetLocalStart(start));
    for node in world.others(lagging) {
        world.checkpoint(node);
    }
    world.append_acked(leader);
    let installed = world.counts.snapshots;
    world.start(lagging);
    world.until("a snapshot", |world| world.counts.snapshots > installed);
    world.run_for(SECOND);
    world.check_tiers();
    let process = world.nodes[&lagging].process.as_ref();
    let first = process.and_then(|process| process.records.keys().next().copied());
    if first != Some((0, start)) {
        world.oracle.violate(format!("the replica has records from {first:?}, not from {start}"));
    }
    world.finish()
}

#[test]
fn t1_a_replica_that_installs_a_snapshot_gets_what_is_on_disks() {
    holds(learner_of_a_tiered_shard, &[]);
}

/// A partition is lost at all replicas, and is restored from its object: it is removed, opened
/// again and continues from what the bucket has. One replica applies this from a snapshot.
fn restore_from_the_bucket(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let (mut world, leader) = World::with_tier(seed, mutation);
    let lagging = world.others(leader)[0];
    let upload = world.upload_of(leader);
    world.put_in(MS, &upload);
    world.run_for(10 * MS);
    world.crash(lagging);
    world.propose(leader, ShardCommand::ClosePartitions(vec![partition(0)]));
    let open = OpenPartition { partition: partition(0), epoch_base: 1_000 };
    world.propose(leader, ShardCommand::OpenPartitions(vec![open]));
    world.run_for(200 * MS);
    let restored = RestoredPartition {
        log_start: upload.of.base,
        end: upload.of.end,
        pages: Vec::new(),
        objects: vec![upload.of],
        epochs: vec![RestoredEpoch { epoch: 1, start_offset: upload.of.base }],
        producers: Vec::new(),
    };
    world.change_of(leader, TierChange::Restore(Box::new(restored.clone())));
    world.check_tiers();
    // New records follow what was restored, and a second restore is refused.
    world.append_acked(leader);
    world.change_of(leader, TierChange::Restore(Box::new(restored)));
    for node in world.others(lagging) {
        world.checkpoint(node);
    }
    world.start(lagging);
    world.run_for(2 * SECOND);
    world.check_tiers();
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        if world.objects_of(node) != [upload.of] {
            world.oracle.violate(format!("replica {node} has {:?}", world.objects_of(node)));
        }
    }
    world.finish()
}

#[test]
fn t2_a_partition_is_restored_at_every_replica() {
    holds(restore_from_the_bucket, &[]);
}
