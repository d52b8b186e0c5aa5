//! OffsetCommit: stores a group's offsets. They are durable when the request is answered (O3).
//!
//! Like Produce, it has two stages: the first proposes, in the order of the connection's requests,
//! and several requests may wait for their outcome at once. A client that commits after every
//! record would otherwise wait for a round of the log and of the followers for each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ropewalk_codec::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use ropewalk_shard::command::{MemberClaim, OffsetCommit};
use ropewalk_shard::{PartitionId, TopicId};

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;
use crate::group::{PendingCommit, Refusal};
use crate::{clock, limits};

/// First version in which topics are named by id.
const TOPIC_IDS_FROM: i16 = 10;
/// First version in which an unknown group has its own error code.
const UNKNOWN_GROUP_FROM: i16 = 9;

/// A partition of the request: its offset, or why it is refused.
type Checked = Result<(PartitionId, OffsetCommit), ErrorCode>;

/// The proposed offsets of a request, waiting for their outcome.
#[derive(Debug)]
pub(crate) struct PendingOffsets {
    request: OffsetCommitRequest,
    checked: Vec<Vec<Checked>>,
    waiting: Vec<Waiting>,
}

/// The offsets of one entry.
#[derive(Debug)]
struct Waiting {
    ids: Vec<PartitionId>,
    proposed: Result<PendingCommit, Refusal>,
}

/// Checks and proposes. Called in the order of requests.
pub(crate) async fn propose(
    ctx: &Arc<Context>,
    call: &Call,
    request: OffsetCommitRequest,
) -> Result<PendingOffsets, Close> {
    let claim = MemberClaim {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(Str::to_string),
        generation: request.generation_id_or_member_epoch,
    };
    let retention_ms = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
    let expires_ms = retention_ms.map(|ms| clock::now_ms().saturating_add(ms));

    let checked: Vec<Vec<Checked>> =
        request.topics.iter().map(|topic| check(ctx, call, topic, expires_ms)).collect();
    // If a partition is repeated, its last offset applies, as if the commits were sequential.
    let accepted: BTreeMap<_, _> = checked.iter().flatten().flatten().cloned().collect();
    let proposed = entries(accepted).map(|offsets| Waiting {
        ids: offsets.iter().map(|(id, _)| *id).collect(),
        proposed: ctx.groups.commit(&request.group_id, &claim, &offsets),
    });
    let waiting = proposed.collect();
    Ok(PendingOffsets { request, checked, waiting })
}

impl PendingOffsets {
    /// Waits until the offsets are durable. There is always a response.
    pub(crate) async fn answer(
        mut self,
        ctx: &Context,
        call: &Call,
    ) -> Result<Option<OffsetCommitResponse>, Close> {
        let mut refused = BTreeMap::new();
        for Waiting { ids, proposed } in self.waiting {
            let stored = match proposed {
                Ok(proposed) => proposed.stored().await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = stored {
                ctx.log_group_refusal(call, &self.request.group_id, refusal);
                let code = code_of(call, refusal);
                refused.extend(ids.into_iter().map(|id| (id, code)));
            }
        }
        for partition in self.checked.iter_mut().flatten() {
            if let Ok((id, _)) = partition
                && let Some(code) = refused.get(id)
            {
                *partition = Err(*code);
            }
        }
        let topics = self.request.topics.into_iter().zip(self.checked);
        let topics = topics.map(|(topic, checked)| answer(call, topic, checked)).collect();
        Ok(Some(OffsetCommitResponse { topics, ..Default::default() }))
    }
}

/// Splits a commit into chunks that are one entry each. Few commits need more than one.
fn entries(
    offsets: BTreeMap<PartitionId, OffsetCommit>,
) -> impl Iterator<Item = Vec<(PartitionId, OffsetCommit)>> {
    /// Size of an offset in an entry without its metadata string, bytes.
    const OFFSET_BYTES: usize = 64;
    let mut offsets = offsets.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut size_bytes = 0;
        let mut entry = Vec::new();
        while let Some(next) = offsets.next_if(|(_, next)| {
            size_bytes += OFFSET_BYTES + next.metadata.len();
            entry.is_empty() || size_bytes <= limits::COMMIT_BYTES_MAX
        }) {
            entry.push(next);
        }
        (!entry.is_empty()).then_some(entry)
    })
}

fn check(
    ctx: &Context,
    call: &Call,
    topic: &OffsetCommitRequestTopic,
    expires_ms: Option<i64>,
) -> Vec<Checked> {
    let view = if call.version >= TOPIC_IDS_FROM {
        ctx.view.by_id(TopicId(topic.topic_id)).ok_or(ErrorCode::UnknownTopicId)
    } else {
        ctx.view.by_name(&topic.name).ok_or(ErrorCode::UnknownTopicOrPartition)
    };
    let check = |partition: &OffsetCommitRequestPartition| {
        let (id, commit) = of_partition(view.as_deref().map_err(|code| *code)?, partition)?;
        // Kafka's unit: UTF-16 code units, as of Java strings.
        let (note, units_max) = (&commit.metadata, ctx.groups.metadata_units_max());
        if note.len() > units_max && note.encode_utf16().count() > units_max {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok((id, OffsetCommit { expires_ms, ..commit }))
    };
    topic.partitions.iter().map(check).collect()
}

fn of_partition(view: &TopicView, partition: &OffsetCommitRequestPartition) -> Checked {
    let known = view.partition(partition.partition_index);
    let (id, _) = known.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let commit = OffsetCommit {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.as_ref().map(Str::to_string).unwrap_or_default(),
        expires_ms: None,
    };
    Ok((id, commit))
}

fn code_of(call: &Call, refusal: Refusal) -> ErrorCode {
    if refusal == Refusal::NoSuchGroup && call.version < UNKNOWN_GROUP_FROM {
        return ErrorCode::IllegalGeneration;
    }
    refusal.into()
}

fn answer(
    call: &Call,
    topic: OffsetCommitRequestTopic,
    checked: Vec<Checked>,
) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().zip(checked);
    let partitions = partitions.map(|(partition, checked)| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: call.refuse(checked.err().unwrap_or(ErrorCode::None)),
    });
    OffsetCommitResponseTopic {
        partitions: partitions.collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::random_topic_id;

    #[test]
    fn r1_a_commit_of_any_size_is_entries_of_a_bounded_one() {
        let offset = |index| {
            let id = PartitionId { topic: random_topic_id(), index };
            let metadata = "x".repeat(4096);
            (id, OffsetCommit { offset: 1, leader_epoch: -1, metadata, expires_ms: None })
        };
        let all: BTreeMap<_, _> = (0..1000).map(offset).collect();
        let entries: Vec<_> = entries(all.clone()).collect();
        assert_eq!(entries.len(), 4);
        assert!(entries.iter().all(|entry| entry.len() * 4096 <= limits::COMMIT_BYTES_MAX));
        let together: BTreeMap<_, _> = entries.into_iter().flatten().collect();
        assert_eq!(together, all, "none is lost");
    }
}
