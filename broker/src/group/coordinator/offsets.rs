//! Commit, look-up and deletion of offsets.

use std::sync::Arc;

use ropewalk_node::ShardHandle;
use ropewalk_shard::PartitionId;
use ropewalk_shard::command::{CommitOffsets, MemberClaim, OffsetCommit, ShardCommand};
use ropewalk_shard::state::group::CommittedOffset;

use super::group_handle::{PendingOutcome, durable, durable_once};
use super::{Coordinator, refusal};
use crate::group::Refusal;
use crate::group::classic::{ClassicGroup, Phase};
use crate::group::subscription::SubscribedTopics;

/// Offsets that are proposed. They may be stored even if this is dropped.
#[derive(Debug)]
pub(crate) struct PendingCommit(PendingOutcome);

impl PendingCommit {
    /// Waits until the offsets are durable.
    pub(crate) async fn stored(self) -> Result<(), Refusal> {
        let Self(proposed) = self;
        durable(proposed).await
    }
}

impl Coordinator {
    /// `offset.metadata.max.bytes`: the longest metadata string of a commit, in UTF-16 code units
    /// as in Kafka.
    pub(crate) fn metadata_units_max(&self) -> usize {
        self.options.metadata_units_max
    }

    /// Proposes a commit of offsets; they are durable when the result is. A generation below 0 is a
    /// client without membership. The caller bounds the size of `offsets`, because they are one
    /// entry. Commits are stored in the order of the calls.
    pub(crate) fn commit(
        self: &Arc<Self>,
        group: &str,
        claim: &MemberClaim,
        offsets: &[(PartitionId, OffsetCommit)],
    ) -> Result<PendingCommit, Refusal> {
        self.check_new(group)?;
        let proposed = self.with_handle(group, |handle| {
            let exists = handle.shard().state().groups.contains_key(group);
            let has_room = self.offset_sizes.admit(handle.shard(), group, offsets);
            handle.step(self, |machine, now_ms| {
                let member = admitted(machine, exists, claim, now_ms);
                let proposed = member.and_then(|member| has_room.map(|()| member)).map(|member| {
                    let (group, offsets) = (group.to_owned(), offsets.to_vec());
                    let commit = CommitOffsets { group, member, offsets };
                    handle.submit(ShardCommand::CommitOffsets(commit))
                });
                (proposed, Default::default())
            })
        })??;
        Ok(PendingCommit(proposed))
    }

    /// Waits until every acknowledged command is visible in the group's shard, and returns the
    /// shard for reading.
    pub(crate) async fn caught_up(&self, group: &str) -> Result<Arc<ShardHandle>, Refusal> {
        let (shard, _) = self.shard_of_group(group)?;
        let shard = Arc::clone(shard);
        shard.read_barrier().await.map_err(refusal)?;
        Ok(shard)
    }

    /// The committed offsets of a group for these partitions, or (`None`) for all.
    pub(crate) async fn committed(
        &self,
        group: &str,
        partitions: Option<&[PartitionId]>,
    ) -> Result<Vec<(PartitionId, CommittedOffset)>, Refusal> {
        let shard = self.caught_up(group).await?;
        let state = shard.state();
        let Some(group) = state.groups.get(group) else { return Ok(Vec::new()) };
        let found = |id: &PartitionId| Some((*id, group.offsets.get(id)?.clone()));
        Ok(match partitions {
            Some(partitions) => partitions.iter().filter_map(found).collect(),
            None => group.offsets.iter().map(|(id, offset)| (*id, offset.clone())).collect(),
        })
    }

    /// Deletes offsets of topics that no member of the group reads. Returns for each topic (by its
    /// index in `topics`) whether it is read; the offsets of those are kept.
    pub(crate) async fn delete_offsets(
        self: &Arc<Self>,
        group: &str,
        topics: &[(String, Vec<PartitionId>)],
    ) -> Result<Vec<bool>, Refusal> {
        let shard = self.caught_up(group).await?;
        let proposed = self.with_handle(group, |handle| {
            let subscribed =
                shard.state().groups.get(group).map(|group| SubscribedTopics::of(group));
            handle.step(self, |machine, _| {
                let proposed = deletable(machine, subscribed).map(|subscribed| {
                    let is_read: Vec<_> =
                        topics.iter().map(|(name, _)| subscribed.includes(name)).collect();
                    let free = topics.iter().zip(&is_read).filter(|(_, is_read)| !**is_read);
                    let partitions = free.flat_map(|((_, ids), _)| ids.iter().copied()).collect();
                    let group = group.to_owned();
                    let delete = ShardCommand::DeleteOffsets { group, partitions };
                    (is_read, handle.submit(delete))
                });
                (proposed, Default::default())
            })
        })?;
        let (is_read, proposed) = proposed?;
        durable(proposed).await?;
        Ok(is_read)
    }

    /// Deletes a group that has no members.
    pub(crate) async fn delete(self: &Arc<Self>, group: &str) -> Result<(), Refusal> {
        let shard = self.caught_up(group).await?;
        let proposed = self.with_handle(group, |handle| {
            let exists = shard.state().groups.contains_key(group);
            handle.step(self, |machine, _| {
                let proposed = match machine.phase() {
                    Phase::Empty { .. } if !exists => Err(Refusal::NoSuchGroup),
                    Phase::Empty { .. } => {
                        let group = group.to_owned();
                        Ok(handle.submit(ShardCommand::DeleteGroup { group }))
                    }
                    Phase::Preparing { .. } | Phase::Completing { .. } | Phase::Stable { .. } => {
                        Err(Refusal::NotEmpty)
                    }
                    Phase::Dead(refusal) => Err(refusal),
                };
                (proposed, Default::default())
            })
        })??;
        durable_once(proposed).await
    }
}

/// Checks a commit: by a member, or (`None`) by a client without membership, which only an empty
/// group admits.
fn admitted(
    machine: &mut ClassicGroup,
    exists: bool,
    claim: &MemberClaim,
    now_ms: i64,
) -> Result<Option<MemberClaim>, Refusal> {
    let is_empty = matches!(machine.phase(), Phase::Empty { .. });
    if is_empty && !exists && claim.generation >= 0 {
        return Err(Refusal::NoSuchGroup);
    }
    let is_nobody = claim.member_id.is_empty() && claim.instance_id.is_none();
    let member = if claim.generation < 0 && (is_empty || is_nobody) { None } else { Some(claim) };
    machine.check_commit(member, now_ms)?;
    Ok(member.cloned())
}

/// Checks what may be deleted. Only the subscriptions of consumers can be decoded, so groups of
/// other protocol types must be empty.
fn deletable(
    machine: &ClassicGroup,
    subscribed: Option<SubscribedTopics>,
) -> Result<SubscribedTopics, Refusal> {
    let subscribed = subscribed.ok_or(Refusal::NoSuchGroup)?;
    match machine.phase() {
        Phase::Dead(refusal) => Err(refusal),
        Phase::Empty { .. } => Ok(SubscribedTopics::To(Default::default())),
        Phase::Preparing { .. } | Phase::Completing { .. } | Phase::Stable { .. }
            if !machine.is_consumers() =>
        {
            Err(Refusal::NotEmpty)
        }
        Phase::Preparing { .. } | Phase::Completing { .. } | Phase::Stable { .. } => Ok(subscribed),
    }
}
