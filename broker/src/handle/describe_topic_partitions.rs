//! DescribeTopicPartitions: like Metadata, in pages (KIP-966).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use ropewalk_codec::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

use super::placement::Placements;
use super::{Call, Close, Context, ErrorCode, operations};
use crate::catalog::TopicView;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Close> {
    let mut names: Vec<Str> = if request.topics.is_empty() {
        ctx.view.all().iter().map(|topic| Str::from(&*topic.name)).collect()
    } else {
        request.topics.into_iter().map(|topic| topic.name).collect()
    };
    names.sort_unstable();
    names.dedup();
    let mut first = 0;
    if let Some(cursor) = &request.cursor {
        names.retain(|name| *name >= cursor.topic_name);
        if names.first() == Some(&cursor.topic_name) {
            first = cursor.partition_index.max(0);
        }
    }
    let page_max = ctx.settings.partitions_per_page_max();
    let room = request.response_partition_limit.min(page_max).max(1);
    let mut room = usize::try_from(room).expect("at least one");
    let mut response = DescribeTopicPartitionsResponse::default();
    let mut placements = Placements::new(ctx, &call.peer);
    for name in names {
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: first });
            break;
        }
        let Some(view) = ctx.view.by_name(&name) else {
            response.topics.push(unknown(call, name));
            continue;
        };
        let topic = page(&mut placements, &view, first, room);
        room -= topic.partitions.len();
        let next = usize::try_from(first).unwrap_or(0) + topic.partitions.len();
        response.topics.push(topic);
        if next < view.partitions.len() {
            let partition_index = i32::try_from(next).expect("bounded by limits");
            response.next_cursor = Some(Cursor { topic_name: name, partition_index });
            break;
        }
        first = 0;
    }
    Ok(response)
}

fn page(
    placements: &mut Placements<'_>,
    topic: &TopicView,
    first: i32,
    room: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let count = i32::try_from(topic.partitions.len()).expect("bounded by limits");
    let partitions = (first..count).take(room).map(|index| {
        let placed = placements.of(topic, index);
        DescribeTopicPartitionsResponsePartition {
            error_code: placed.error.code(),
            partition_index: index,
            leader_id: placed.leader_id,
            leader_epoch: placed.leader_epoch,
            replica_nodes: placed.replicas,
            isr_nodes: placed.in_sync,
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            offline_replicas: placed.offline,
        }
    });
    DescribeTopicPartitionsResponseTopic {
        name: Some(Str::from(&*topic.name)),
        topic_id: topic.id.0,
        partitions: partitions.collect(),
        topic_authorized_operations: operations::TOPIC,
        ..Default::default()
    }
}

fn unknown(call: &Call, name: Str) -> DescribeTopicPartitionsResponseTopic {
    let code = match crate::catalog::name::check(&name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: call.refuse(code),
        name: Some(name),
        ..Default::default()
    }
}
