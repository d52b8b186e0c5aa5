//! DescribeTopicPartitions: like Metadata, in pages (KIP-966).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use ropewalk_codec::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

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
    for name in names {
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: first });
            break;
        }
        let Some(view) = ctx.view.by_name(&name) else {
            response.topics.push(unknown(call, name));
            continue;
        };
        let topic = page(ctx, &view, first, room);
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
    ctx: &Context,
    topic: &TopicView,
    first: i32,
    room: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let count = i32::try_from(topic.partitions.len()).expect("bounded by limits");
    let partitions = (first..count).take(room).map(|index| {
        let epoch = ctx.partition(topic, index).map(|found| found.leader_epoch);
        DescribeTopicPartitionsResponsePartition {
            error_code: if epoch.is_ok() { 0 } else { ErrorCode::LeaderNotAvailable.code() },
            partition_index: index,
            leader_id: if epoch.is_ok() { ctx.broker_id } else { -1 },
            leader_epoch: epoch.unwrap_or(-1),
            replica_nodes: vec![ctx.broker_id],
            isr_nodes: vec![ctx.broker_id],
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            offline_replicas: Vec::new(),
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
