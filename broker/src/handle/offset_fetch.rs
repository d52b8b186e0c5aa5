//! OffsetFetch: the committed offsets of a group.
//!
//! A read barrier precedes every answer, so that every acknowledged commit is visible (O3).
//! Versions up to 7 request one group; the same code answers them.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use ropewalk_codec::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use ropewalk_shard::state::group::CommittedOffset;
use ropewalk_shard::{PartitionId, TopicId};
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::group::Refusal;

/// First version with an error code for the whole group.
const GROUP_ERROR_FROM: i16 = 2;
/// First version in which one request names several groups.
const BATCHED_FROM: i16 = 8;
/// First version in which topics are named by id.
const TOPIC_IDS_FROM: i16 = 10;

type Offsets = HashMap<PartitionId, CommittedOffset>;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    mut request: OffsetFetchRequest,
) -> Result<OffsetFetchResponse, Close> {
    if call.version < BATCHED_FROM {
        let group = single(request);
        let error_topics = group.topics.clone().unwrap_or_default();
        let answer = fetch(ctx, call, group).await;
        return Ok(as_single(call, answer, error_topics));
    }
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in std::mem::take(&mut request.groups) {
        groups.push(fetch(ctx, call, group).await);
    }
    Ok(OffsetFetchResponse { groups, ..Default::default() })
}

async fn fetch(
    ctx: &Context,
    call: &Call,
    group: OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let topics = match &group.topics {
        Some(topics) => some(ctx, call, &group.group_id, topics).await,
        None => all(ctx, call, &group.group_id).await,
    };
    let (error_code, topics) = match topics {
        Ok(topics) => (ErrorCode::None, topics),
        Err(refusal) => (refusal.into(), Vec::new()),
    };
    let error_code = call.refuse(error_code);
    OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code }
}

/// The offsets of the requested topics.
async fn some(
    ctx: &Context,
    call: &Call,
    group: &Str,
    topics: &[OffsetFetchRequestTopics],
) -> Result<Vec<OffsetFetchResponseTopics>, Refusal> {
    let known = topics.iter().map(|topic| {
        if call.version >= TOPIC_IDS_FROM {
            ctx.view.by_id(TopicId(topic.topic_id))
        } else {
            ctx.view.by_name(&topic.name)
        }
    });
    let known: Vec<_> = known.map(|view| view.map(|view| view.id)).collect();
    let ids: Vec<_> = topics
        .iter()
        .zip(&known)
        .filter_map(|(topic, id)| Some((topic, (*id)?)))
        .flat_map(|(topic, id)| {
            topic
                .partition_indexes
                .iter()
                .map(move |index| PartitionId { topic: id, index: *index })
        })
        .collect();
    let offsets: Offsets = ctx.groups.committed(group, Some(&ids)).await?.into_iter().collect();
    let answer = |(topic, id): (&OffsetFetchRequestTopics, &Option<TopicId>)| {
        let code = match id {
            None if call.version >= TOPIC_IDS_FROM => ErrorCode::UnknownTopicId,
            _ => ErrorCode::None,
        };
        let partition = |index: &i32| {
            let committed = id.and_then(|topic| offsets.get(&PartitionId { topic, index: *index }));
            answer(*index, committed, call.refuse(code))
        };
        OffsetFetchResponseTopics {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions: topic.partition_indexes.iter().map(partition).collect(),
        }
    };
    Ok(topics.iter().zip(&known).map(answer).collect())
}

/// All offsets of the group except those of topics that are being deleted.
async fn all(
    ctx: &Context,
    call: &Call,
    group: &Str,
) -> Result<Vec<OffsetFetchResponseTopics>, Refusal> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    let mut last = None;
    // In the order of ids, so the partitions of a topic are consecutive.
    for (id, committed) in ctx.groups.committed(group, None).await? {
        if last != Some(id.topic) {
            let Some(view) = ctx.view.by_id(id.topic) else { continue };
            last = Some(id.topic);
            let by_id = call.version >= TOPIC_IDS_FROM;
            topics.push(OffsetFetchResponseTopics {
                name: if by_id { Str::new() } else { Str::from(&*view.name) },
                topic_id: if by_id { id.topic.0 } else { Uuid::nil() },
                partitions: Vec::new(),
            });
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(answer(id.index, Some(&committed), 0));
        }
    }
    Ok(topics)
}

/// The answer for one partition. Without a commit the offset is -1, which is not an error.
fn answer(
    partition_index: i32,
    committed: Option<&CommittedOffset>,
    error_code: i16,
) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.map_or(-1, |c| c.offset),
        committed_leader_epoch: committed.map_or(-1, |c| c.leader_epoch),
        metadata: Some(committed.map(|c| Str::from(&c.metadata)).unwrap_or_default()),
        error_code,
    }
}

/// Converts a request for one group into the form of several groups.
fn single(request: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = request.topics.map(|topics| {
        let topic = |topic: ropewalk_codec::offset_fetch_request::OffsetFetchRequestTopic| {
            let (name, partition_indexes) = (topic.name, topic.partition_indexes);
            OffsetFetchRequestTopics { name, partition_indexes, ..Default::default() }
        };
        topics.into_iter().map(topic).collect()
    });
    OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() }
}

/// Converts the answer to the form for one group. The first versions have no field for the group's
/// error and repeat it for each requested partition.
fn as_single(
    call: &Call,
    group: OffsetFetchResponseGroup,
    asked: Vec<OffsetFetchRequestTopics>,
) -> OffsetFetchResponse {
    let mut topics = group.topics;
    let mut error_code = group.error_code;
    if call.version < GROUP_ERROR_FROM && error_code != 0 {
        topics = asked
            .into_iter()
            .map(|topic| OffsetFetchResponseTopics {
                partitions: topic
                    .partition_indexes
                    .iter()
                    .map(|i| answer(*i, None, error_code))
                    .collect(),
                name: topic.name,
                topic_id: topic.topic_id,
            })
            .collect();
        error_code = 0;
    }
    let partition = |p: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        error_code: p.error_code,
    };
    let topics = topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    });
    OffsetFetchResponse { topics: topics.collect(), error_code, ..Default::default() }
}
