//! Metadata: the brokers, the topics, and the leaders of their partitions. Every broker answers for
//! all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ropewalk_codec::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ropewalk_shard::state::catalog::Refusal;
use ropewalk_shard::{ShardId, TopicId};
use tokio::time::Instant;

use super::placement::{Endpoint, Placements};
use super::{Call, Close, Context, ErrorCode, operations};
use crate::catalog::{NewTopic, TopicError, TopicView, name};
use crate::limits;

/// First version in which the client decides whether missing topics are created.
const AUTO_CREATION_SINCE: i16 = 4;
/// First version in which a leader without an endpoint of the client's listener has its own error.
const LISTENER_NOT_FOUND_SINCE: i16 = 6;

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
        let mut describe = Describe::new(ctx, call, operations);
        views.iter().map(|view| describe.topic(view)).collect()
    } else {
        let asked = request.topics.unwrap_or_default();
        let create = ctx.settings.auto_create_topics()
            && (call.version < AUTO_CREATION_SINCE || request.allow_auto_topic_creation);
        if create {
            create_missing(ctx, call, &asked).await;
        }
        let until = Instant::now() + limits::LEADER_KNOWN_WAIT_MAX;
        ctx.cluster.know_living_leaders(&shards_of(ctx, &asked), until).await;
        let mut describe = Describe::new(ctx, call, operations);
        asked.into_iter().map(|topic| describe.answer(topic)).collect()
    };
    let endpoints = ctx.endpoints(&call.peer);
    let controller_id = ctx.controller_id(&endpoints);
    let broker = |Endpoint { id, host, port, rack }| MetadataResponseBroker {
        node_id: id,
        host,
        port,
        rack,
    };
    let mut response = MetadataResponse {
        brokers: endpoints.into_iter().map(broker).collect(),
        cluster_id: Some(ctx.cluster_id.clone()),
        controller_id,
        topics,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = operations::CLUSTER;
    }
    Ok(response)
}

/// The shards that have partitions of these topics.
fn shards_of(ctx: &Context, asked: &[MetadataRequestTopic]) -> BTreeSet<ShardId> {
    let topics = asked.iter().filter_map(|topic| match &topic.name {
        _ if !topic.topic_id.is_nil() => ctx.view.by_id(TopicId(topic.topic_id)),
        Some(name) => ctx.view.by_name(name),
        None => None,
    });
    let mut shards = BTreeSet::new();
    for topic in topics {
        shards.extend(topic.partitions.iter().map(|home| home.shard));
    }
    shards
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

/// Describes topics for one response.
struct Describe<'a> {
    ctx: &'a Context,
    call: &'a Call,
    operations: bool,
    placements: Placements<'a>,
}

impl<'a> Describe<'a> {
    fn new(ctx: &'a Context, call: &'a Call, operations: bool) -> Self {
        Self { ctx, call, operations, placements: Placements::new(ctx, &call.peer) }
    }

    fn answer(&mut self, asked: MetadataRequestTopic) -> MetadataResponseTopic {
        let view = &self.ctx.view;
        // A request by id has a null or empty name.
        let (view, code) = if !asked.topic_id.is_nil() {
            (view.by_id(TopicId(asked.topic_id)), ErrorCode::UnknownTopicId)
        } else {
            let name = asked.name.as_deref().unwrap_or_default();
            let code = match name::check(name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                // Tools check for these topics; they do not exist here.
                Err(_) if name::is_reserved(name) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            (view.by_name(name), code)
        };
        match view {
            Some(view) => self.topic(&view),
            None => MetadataResponseTopic {
                error_code: self.call.refuse(code),
                name: asked.name.or_else(|| (self.call.version < 12).then(Str::new)),
                topic_id: asked.topic_id,
                ..Default::default()
            },
        }
    }

    fn topic(&mut self, topic: &TopicView) -> MetadataResponseTopic {
        let count = i32::try_from(topic.partitions.len()).expect("bounded by limits");
        let partitions = (0..count).map(|index| self.partition(topic, index));
        let mut answer = MetadataResponseTopic {
            name: Some(Str::from(&*topic.name)),
            topic_id: topic.id.0,
            partitions: partitions.collect(),
            ..Default::default()
        };
        if self.operations {
            answer.topic_authorized_operations = operations::TOPIC;
        }
        answer
    }

    fn partition(&mut self, topic: &TopicView, index: i32) -> MetadataResponsePartition {
        let placed = self.placements.of(topic, index);
        let is_new = self.call.version >= LISTENER_NOT_FOUND_SINCE;
        let error = if placed.error == ErrorCode::ListenerNotFound && !is_new {
            ErrorCode::LeaderNotAvailable
        } else {
            placed.error
        };
        MetadataResponsePartition {
            error_code: error.code(),
            partition_index: index,
            leader_id: placed.leader_id,
            leader_epoch: placed.leader_epoch,
            replica_nodes: placed.replicas,
            isr_nodes: placed.in_sync,
            offline_replicas: placed.offline,
        }
    }
}
