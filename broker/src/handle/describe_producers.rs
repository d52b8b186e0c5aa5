//! DescribeProducers: the idempotent producers of a partition with their last sequence (KIP-664).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_producers_request::DescribeProducersRequest;
use ropewalk_codec::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};

use super::partition::HeldPartition;
use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Close> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partition = |partition_index: i32, found: Result<HeldPartition, ErrorCode>| match found
            .and_then(|found| active(&found))
        {
            Ok(active_producers) => {
                PartitionResponse { partition_index, active_producers, ..Default::default() }
            }
            Err(code) => PartitionResponse {
                partition_index,
                error_code: call.refuse(code),
                error_message: Some(Str::from_static(code.name())),
                ..Default::default()
            },
        };
        let partitions =
            ctx.each_partition(&topic.name, topic.partition_indexes, |index| *index, partition);
        topics.push(TopicResponse { name: topic.name, partitions });
    }
    Ok(DescribeProducersResponse { topics, ..Default::default() })
}

fn active(found: &HeldPartition) -> Result<Vec<ProducerState>, ErrorCode> {
    let state = found.shard.state();
    let partition = state.partitions.get(&found.id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let producers = partition.producers.iter().flat_map(|known| known.iter());
    let state_of =
        |(producer_id, producer): (&i64, &ropewalk_shard::state::partition::Producer)| {
            let last = producer.batches.back();
            ProducerState {
                producer_id: *producer_id,
                producer_epoch: i32::from(producer.epoch),
                last_sequence: last.map_or(-1, |batch| batch.last_sequence),
                last_timestamp: last.map_or(-1, |batch| batch.timestamp_ms),
                coordinator_epoch: -1,
                current_txn_start_offset: -1,
            }
        };
    Ok(producers.map(state_of).collect())
}
