//! OffsetDelete: deletes a group's offsets of topics that the group does not read.

use std::collections::BTreeSet;
use std::sync::Arc;

use ropewalk_codec::offset_delete_request::{OffsetDeleteRequest, OffsetDeleteRequestTopic};
use ropewalk_codec::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use ropewalk_shard::PartitionId;

use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: OffsetDeleteRequest,
) -> Result<OffsetDeleteResponse, Close> {
    let known: Vec<_> = request.topics.iter().map(|topic| partitions(ctx, topic)).collect();
    let topics: Vec<_> = request
        .topics
        .iter()
        .zip(&known)
        .map(|(topic, ids)| {
            let once: BTreeSet<PartitionId> = ids.iter().flatten().copied().collect();
            (topic.name.to_string(), once.into_iter().collect())
        })
        .collect();
    let is_read = match ctx.groups.delete_offsets(&request.group_id, &topics).await {
        Ok(is_read) => is_read,
        Err(refusal) => {
            let error_code = call.refuse(refusal);
            return Ok(OffsetDeleteResponse { error_code, ..Default::default() });
        }
    };
    let answers = request.topics.into_iter().zip(known).zip(is_read);
    let topics = answers.map(|((topic, known), is_read)| {
        let codes = known.iter().map(|id| match id {
            None => ErrorCode::UnknownTopicOrPartition,
            Some(_) if is_read => ErrorCode::GroupSubscribedToTopic,
            Some(_) => ErrorCode::None,
        });
        let partitions = topic.partitions.iter().zip(codes);
        let partitions = partitions.map(|(asked, code)| OffsetDeleteResponsePartition {
            partition_index: asked.partition_index,
            error_code: call.refuse(code),
        });
        OffsetDeleteResponseTopic { partitions: partitions.collect(), name: topic.name }
    });
    Ok(OffsetDeleteResponse { topics: topics.collect(), ..Default::default() })
}

/// The identity of each requested partition; `None` for one that does not exist.
fn partitions(ctx: &Context, topic: &OffsetDeleteRequestTopic) -> Vec<Option<PartitionId>> {
    let view = ctx.view.by_name(&topic.name);
    let id = |index| Some(view.as_ref()?.partition(index)?.0);
    topic.partitions.iter().map(|partition| id(partition.partition_index)).collect()
}
