//! OffsetCommit: how far a group has got. Durable when it is answered (O3).

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
use crate::clock;
use crate::group::Refusal;

/// From here on topics are named by id.
const TOPIC_IDS_FROM: i16 = 10;
/// From here on an unknown group is called that.
const UNKNOWN_GROUP_FROM: i16 = 9;

/// A partition of the request: what is committed, or why not.
type Checked = Result<(PartitionId, OffsetCommit), ErrorCode>;

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: OffsetCommitRequest,
) -> Result<OffsetCommitResponse, Close> {
    let claim = MemberClaim {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(Str::to_string),
        generation: request.generation_id_or_member_epoch,
    };
    let retention_ms = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
    let expires_ms = retention_ms.map(|ms| clock::now_ms().saturating_add(ms));

    let checked: Vec<Vec<Checked>> =
        request.topics.iter().map(|topic| check(ctx, call, topic, expires_ms)).collect();
    let offsets: Vec<_> = checked.iter().flatten().flatten().cloned().collect();
    let code = if offsets.is_empty() {
        ErrorCode::None
    } else {
        match ctx.groups.commit(&request.group_id, claim, offsets).await {
            Ok(()) => ErrorCode::None,
            Err(refusal) => refused(call, refusal),
        }
    };
    let topics = request.topics.into_iter().zip(checked);
    let topics = topics.map(|(topic, checked)| answer(call, topic, checked, code)).collect();
    Ok(OffsetCommitResponse { topics, ..Default::default() })
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
        if commit.metadata.len() > ctx.groups.metadata_bytes_max() {
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

fn refused(call: &Call, refusal: Refusal) -> ErrorCode {
    if refusal == Refusal::NoSuchGroup && call.version < UNKNOWN_GROUP_FROM {
        return ErrorCode::IllegalGeneration;
    }
    refusal.into()
}

/// `code` is the group's word on what passed the check.
fn answer(
    call: &Call,
    topic: OffsetCommitRequestTopic,
    checked: Vec<Checked>,
    code: ErrorCode,
) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().zip(checked);
    let partitions = partitions.map(|(partition, checked)| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: call.refuse(checked.err().unwrap_or(code)),
    });
    OffsetCommitResponseTopic {
        partitions: partitions.collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    }
}
