//! Replicated state of consumer groups: the last completed generation and the committed offsets.
//!
//! Joins in progress and timers are in the memory of the coordinator and are lost with it. The
//! state in this module survives a restart, so that a restart causes no rebalance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{CommitOffsets, Member, MemberClaim, SetGeneration, ShardCommand};
use crate::id::{PartitionId, TopicId};
use crate::state::{CopyOnWrite, Effect, Outcome};

/// The replicated state of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `consumer`, `connect`, … ; empty for a group that only commits.
    pub protocol_type: String,
    /// The last completed generation; 0 before the first.
    pub generation: i32,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// The member that made the assignment.
    pub leader: Option<String>,
    /// The members of that generation, by member id.
    pub members: BTreeMap<String, Member>,
    /// The committed offset of each partition.
    pub offsets: BTreeMap<PartitionId, CommittedOffset>,
    /// When the last member left, Unix milliseconds; the retention of offsets counts from here.
    pub empty_since_ms: Option<i64>,
}

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Opaque metadata of the client.
    pub metadata: String,
    /// The shard's clock at the commit, Unix milliseconds.
    pub time_ms: i64,
    /// Expiry time that old clients set themselves, Unix milliseconds.
    pub expires_ms: Option<i64>,
}

/// Why a group command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No group has this id.
    #[error("no such group")]
    NoSuchGroup,
    /// The current generation has no such member.
    #[error("no such member")]
    UnknownMember,
    /// The member is of another generation.
    #[error("another generation is current")]
    IllegalGeneration,
    /// A newer process took over this static member.
    #[error("another process took over this instance id")]
    FencedInstance,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
}

impl Group {
    fn new(time_ms: i64) -> Self {
        Self { empty_since_ms: Some(time_ms), ..Self::default() }
    }

    /// Checks whether the member may commit (O3).
    ///
    /// # Errors
    /// When the group has no such member, or the generation or instance is not the current one.
    pub fn admit(&self, claim: Option<&MemberClaim>) -> Result<(), Refusal> {
        let Some(claim) = claim else {
            return if self.members.is_empty() { Ok(()) } else { Err(Refusal::UnknownMember) };
        };
        if let Some(instance) = &claim.instance_id {
            let holder = self.members.values().find(|m| m.instance_id.as_ref() == Some(instance));
            if holder.is_some_and(|holder| holder.member_id != claim.member_id) {
                return Err(Refusal::FencedInstance);
            }
        }
        if !self.members.contains_key(&claim.member_id) {
            return Err(Refusal::UnknownMember);
        }
        if claim.generation != self.generation {
            return Err(Refusal::IllegalGeneration);
        }
        Ok(())
    }

    /// Whether the group has committed an offset of one of these topics.
    pub(crate) fn has_offsets_of(&self, topics: &[TopicId]) -> bool {
        self.offsets.keys().any(|partition| topics.contains(&partition.topic))
    }

    /// Removes the offsets of deleted topics. Returns whether there were any.
    pub(crate) fn remove_topics(&mut self, topics: &[TopicId]) -> bool {
        let before = self.offsets.len();
        self.offsets.retain(|partition, _| !topics.contains(&partition.topic));
        self.offsets.len() != before
    }
}

/// Applies the commands that concern groups.
pub(crate) fn apply(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    time_ms: i64,
    command: ShardCommand,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let result = match command {
        ShardCommand::CommitOffsets(commit) => commit_offsets(groups, time_ms, commit, effects),
        ShardCommand::SetGeneration(set) => {
            set_generation(groups, time_ms, set, effects);
            Ok(())
        }
        ShardCommand::DeleteOffsets { group, partitions } => {
            delete_offsets(groups, group, &partitions, effects)
        }
        ShardCommand::DeleteGroup { group } => delete_group(groups, group, effects),
        ShardCommand::ExpireOffsets { group, offsets } => {
            expire_offsets(groups, group, &offsets, effects)
        }
        ShardCommand::StartOffsets { group, offsets } => {
            start_offsets(groups, time_ms, group, offsets, effects);
            Ok(())
        }
        ShardCommand::OpenPartitions(_)
        | ShardCommand::ClosePartitions(_)
        | ShardCommand::AdvanceLogStart(_)
        | ShardCommand::ExpireProducers(_)
        | ShardCommand::ExpireSilentProducers(_)
        | ShardCommand::CloseTopics(_)
        | ShardCommand::CheckState { .. }
        | ShardCommand::ChangeTier(_)
        | ShardCommand::RemoveTopics(_) => unreachable!("not a group command"),
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(refusal) => Outcome::GroupRefused(refusal),
    }
}

fn commit_offsets(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    time_ms: i64,
    commit: CommitOffsets,
    effects: &mut Vec<Effect>,
) -> Result<(), Refusal> {
    if !groups.contains_key(&commit.group) {
        if commit.member.is_some() {
            return Err(Refusal::NoSuchGroup);
        }
        groups.insert(commit.group.clone(), Group::new(time_ms).into());
        effects.push(Effect::GroupChanged(commit.group.clone()));
    }
    let group = groups.get_mut(&commit.group).expect("it was there or just made");
    group.admit(commit.member.as_ref())?;
    for (partition, offset) in commit.offsets {
        let after = offset.offset;
        let committed = CommittedOffset {
            offset: after,
            leader_epoch: offset.leader_epoch,
            metadata: offset.metadata,
            time_ms,
            expires_ms: offset.expires_ms,
        };
        let before = group.offsets.insert(partition, committed).map(|c| c.offset);
        let group = commit.group.clone();
        effects.push(Effect::Committed { group, partition, before, after, time_ms });
    }
    Ok(())
}

fn set_generation(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    time_ms: i64,
    set: SetGeneration,
    effects: &mut Vec<Effect>,
) {
    let group = groups.entry(set.group.clone()).or_insert_with(|| Group::new(time_ms).into());
    group.protocol_type = set.protocol_type;
    group.generation = set.generation;
    group.protocol = set.protocol;
    group.leader = set.leader;
    group.members = set.members.into_iter().map(|m| (m.member_id.clone(), m)).collect();
    group.empty_since_ms = group.members.is_empty().then_some(time_ms);
    effects.push(Effect::GroupChanged(set.group));
}

fn delete_offsets(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    name: String,
    partitions: &[PartitionId],
    effects: &mut Vec<Effect>,
) -> Result<(), Refusal> {
    let group = groups.get_mut(&name).ok_or(Refusal::NoSuchGroup)?;
    for partition in partitions {
        group.offsets.remove(partition);
    }
    effects.push(Effect::GroupChanged(name));
    Ok(())
}

fn expire_offsets(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    name: String,
    offsets: &[(PartitionId, i64)],
    effects: &mut Vec<Effect>,
) -> Result<(), Refusal> {
    let group = groups.get_mut(&name).ok_or(Refusal::NoSuchGroup)?;
    for (partition, committed_ms) in offsets {
        if group.offsets.get(partition).is_some_and(|c| c.time_ms == *committed_ms) {
            group.offsets.remove(partition);
        }
    }
    if group.members.is_empty() && group.offsets.is_empty() {
        groups.remove(&name);
    }
    effects.push(Effect::GroupChanged(name));
    Ok(())
}

/// Emits no [`Effect::Committed`], because the group has processed no record and its metrics
/// must not count this as progress.
fn start_offsets(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    time_ms: i64,
    name: String,
    offsets: Vec<(PartitionId, i64)>,
    effects: &mut Vec<Effect>,
) {
    let known = groups.get(&name).map(|group| &group.offsets);
    let is_absent = |id: &PartitionId| known.is_none_or(|known| !known.contains_key(id));
    let absent: Vec<_> = offsets.into_iter().filter(|(id, _)| is_absent(id)).collect();
    if absent.is_empty() {
        return;
    }
    let group = groups.entry(name.clone()).or_insert_with(|| Group::new(time_ms).into());
    for (partition, offset) in absent {
        let metadata = String::new();
        let start =
            CommittedOffset { offset, leader_epoch: -1, metadata, time_ms, expires_ms: None };
        group.offsets.insert(partition, start);
    }
    effects.push(Effect::GroupChanged(name));
}

fn delete_group(
    groups: &mut BTreeMap<String, CopyOnWrite<Group>>,
    name: String,
    effects: &mut Vec<Effect>,
) -> Result<(), Refusal> {
    let group = groups.get(&name).ok_or(Refusal::NoSuchGroup)?;
    if !group.members.is_empty() {
        return Err(Refusal::NotEmpty);
    }
    groups.remove(&name);
    effects.push(Effect::GroupChanged(name));
    Ok(())
}
