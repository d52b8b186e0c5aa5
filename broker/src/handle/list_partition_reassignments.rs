//! ListPartitionReassignments: the partitions whose replicas move. The cluster begins that by
//! itself: a replica that is being added does not vote yet, one that is being removed leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use ropewalk_codec::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use ropewalk_shard::ShardId;
use ropewalk_shard::placement::Role;
use uuid::Uuid;

use super::{Call, Close, Context};
use crate::catalog::TopicView;

/// The replicas of a shard, some of which are being added or removed.
struct Moving {
    replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
}

/// Handles the request. A topic or a partition that does not exist is left out, as in Kafka.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    _call: &Call,
    request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, Close> {
    let moving = moving(ctx);
    if moving.is_empty() {
        return Ok(ListPartitionReassignmentsResponse::default());
    }
    let asked: Vec<(Arc<TopicView>, Option<BTreeSet<i32>>)> = match request.topics {
        None => ctx.view.all().into_iter().map(|view| (view, None)).collect(),
        Some(topics) => topics
            .into_iter()
            .filter_map(|topic| {
                let view = ctx.topic(&topic.name, Uuid::nil()).ok()?;
                Some((view, Some(topic.partition_indexes.into_iter().collect())))
            })
            .collect(),
    };
    let topic = |(view, indexes): (Arc<TopicView>, Option<BTreeSet<i32>>)| {
        let all = (0_i32..).zip(&view.partitions);
        let wanted = all.filter(|(index, _)| indexes.as_ref().is_none_or(|i| i.contains(index)));
        let partitions = wanted.filter_map(|(partition_index, home)| {
            let Moving { replicas, adding, removing } = moving.get(&home.shard)?;
            Some(OngoingPartitionReassignment {
                partition_index,
                replicas: replicas.clone(),
                adding_replicas: adding.clone(),
                removing_replicas: removing.clone(),
            })
        });
        let partitions: Vec<_> = partitions.collect();
        let name = Str::from(&*view.name);
        (!partitions.is_empty()).then_some(OngoingTopicReassignment { name, partitions })
    };
    let topics = asked.into_iter().filter_map(topic).collect();
    Ok(ListPartitionReassignmentsResponse { topics, ..Default::default() })
}

/// The shards with replicas that are being added or removed.
fn moving(ctx: &Context) -> BTreeMap<ShardId, Moving> {
    let shard = |shard: ShardId| {
        let adding = ctx.cluster.holders(shard).learners;
        let adding: Vec<i32> = adding.into_iter().map(|broker| broker.0).collect();
        let replicas = ctx.replicas(shard);
        let placed = ctx.view.replicas(shard);
        let leaving = placed.values().filter(|placed| placed.role == Role::Leaving);
        let leaving = leaving.map(|placed| placed.broker.0);
        // One that has left already is no member any more.
        let removing = leaving.filter(|id| replicas.contains(id) && !adding.contains(id)).collect();
        let moving = Moving { replicas, adding, removing };
        let moves = !moving.adding.is_empty() || !moving.removing.is_empty();
        moves.then_some((shard, moving))
    };
    ctx.topics.data_shards().into_iter().filter_map(shard).collect()
}
