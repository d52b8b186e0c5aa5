//! Metadata: the topics and the leaders of their partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ropewalk_codec::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ropewalk_shard::TopicId;
use ropewalk_shard::state::catalog::Refusal;

use super::{Call, Close, Context, ErrorCode, operations};
use crate::catalog::{NewTopic, TopicError, TopicView, name};

/// First version in which the client decides whether missing topics are created.
const AUTO_CREATION_SINCE: i16 = 4;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: MetadataRequest,
) -> Result<MetadataResponse, Close> {
    let operations = request.include_topic_authorized_operations;
    // In version 0 an empty list requests all topics, later null does.
    let all = request.topics.as_ref().is_none_or(|t| t.is_empty() && call.version == 0);
    let topics = if all {
        let views = ctx.view.all();
        views.iter().map(|view| described(ctx, view, operations)).collect()
    } else {
        let asked = request.topics.unwrap_or_default();
        let create = ctx.settings.auto_create_topics()
            && (call.version < AUTO_CREATION_SINCE || request.allow_auto_topic_creation);
        if create {
            create_missing(ctx, call, &asked).await;
        }
        asked.into_iter().map(|topic| answer(ctx, call, topic, operations)).collect()
    };
    let (host, port) = ctx.endpoint(&call.peer);
    let broker = MetadataResponseBroker {
        node_id: ctx.broker_id,
        host,
        port,
        rack: ctx.cluster.own().rack.clone(),
    };
    let mut response = MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some(ctx.cluster_id.clone()),
        controller_id: ctx.broker_id,
        topics,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = operations::CLUSTER;
    }
    Ok(response)
}

/// Creates the topics that are requested by name and do not exist. A failure is reported in the
/// response.
async fn create_missing(ctx: &Context, call: &Call, asked: &[MetadataRequestTopic]) {
    let missing: BTreeSet<_> = asked.iter().filter_map(|topic| topic.name.as_ref()).collect();
    let missing = missing.into_iter().filter(|name| ctx.view.by_name(name).is_none());
    let wanted: Vec<NewTopic> = missing
        .map(|name| NewTopic {
            name: name.to_string(),
            partitions: None,
            configs: Vec::new(),
            owner: None,
        })
        .collect();
    if wanted.is_empty() {
        return;
    }
    for (made, topic) in ctx.topics.create(wanted.clone(), false).await.into_iter().zip(wanted) {
        match made {
            Ok(created) => tracing::info!(
                topic = topic.name,
                partitions = created.partitions,
                "topic created on first use"
            ),
            // Another client created the topic first.
            Err(TopicError::Refused(Refusal::TopicExists { .. })) => {}
            Err(error) => ctx.log_refusal(call, &format!("topic {}", topic.name), &error),
        }
    }
}

fn answer(
    ctx: &Context,
    call: &Call,
    asked: MetadataRequestTopic,
    operations: bool,
) -> MetadataResponseTopic {
    // A request by id has a null or empty name.
    let (view, code) = if !asked.topic_id.is_nil() {
        (ctx.view.by_id(TopicId(asked.topic_id)), ErrorCode::UnknownTopicId)
    } else {
        let name = asked.name.as_deref().unwrap_or_default();
        let code = match name::check(name) {
            Ok(()) => ErrorCode::UnknownTopicOrPartition,
            // Tools check for these topics; they do not exist here.
            Err(_) if name::is_reserved(name) => ErrorCode::UnknownTopicOrPartition,
            Err(_) => ErrorCode::InvalidTopicException,
        };
        (ctx.view.by_name(name), code)
    };
    match view {
        Some(view) => described(ctx, &view, operations),
        None => MetadataResponseTopic {
            error_code: call.refuse(code),
            name: asked.name.or_else(|| (call.version < 12).then(Str::new)),
            topic_id: asked.topic_id,
            ..Default::default()
        },
    }
}

fn described(ctx: &Context, topic: &TopicView, operations: bool) -> MetadataResponseTopic {
    let count = i32::try_from(topic.partitions.len()).expect("bounded by limits");
    let partitions = (0..count).map(|index| {
        let found = ctx.partition(topic, index);
        let leads = found.is_ok();
        MetadataResponsePartition {
            error_code: if leads { 0 } else { ErrorCode::LeaderNotAvailable.code() },
            partition_index: index,
            leader_id: if leads { ctx.broker_id } else { -1 },
            leader_epoch: found.map_or(-1, |found| found.leader_epoch),
            replica_nodes: vec![ctx.broker_id],
            isr_nodes: vec![ctx.broker_id],
            offline_replicas: Vec::new(),
        }
    });
    let mut answer = MetadataResponseTopic {
        name: Some(Str::from(&*topic.name)),
        topic_id: topic.id.0,
        partitions: partitions.collect(),
        ..Default::default()
    };
    if operations {
        answer.topic_authorized_operations = operations::TOPIC;
    }
    answer
}
