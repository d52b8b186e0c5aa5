//! Requests: one row per API that is served, and what every handler is given.
//!
//! [`ROUTES`] is the only list of what this broker speaks: dispatch reads it, and ApiVersions is
//! derived from it, so an API is advertised exactly when it is there. Each API has a file of its
//! own below this one; [`error`] alone knows Kafka's error codes.
//!
//! # Writing a handler
//!
//! `pub(crate) async fn handle(ctx: &Arc<Context>, call: &Call, request: XRequest) -> Result<XResponse, Close>`
//! and one row in the table, in the order of keys. `Err(Close)` ends the connection without an
//! answer; whatever the protocol has words for is an `Ok` with a code, made by [`Call::refuse`] so
//! that it is counted. Produce has two stages: `propose` gives something with an `outcome`. Strings of a request are slices of its frame: detach what is kept.
//!
//! # Invariants
//!
//! - **O2** only Produce is [`Turn::Pipelined`], and its first stage proposes in the order of requests.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ropewalk_codec::{
    ApiKey, Message, Reader, Request as _, Str, decode_request_header, encode_response,
};
use ropewalk_node::Node;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use crate::catalog::{Topics, View};
use crate::group::Coordinator;
use crate::limits;
use crate::listen::{Answer, Budget, Lane, Peer, Permit, Reply, Request, Service, Share, Turn};
use crate::log_limit::LogLimit;
use crate::settings::Settings;

pub mod error;
pub(crate) mod metrics;
pub(crate) mod operations;
pub(crate) mod partition;
mod deadline;
mod logged;
mod api_versions;
mod metadata;
mod describe_cluster;
mod describe_producers;
mod describe_topic_partitions;
mod produce;
mod fetch;
mod list_offsets;
mod offset_for_leader_epoch;
mod delete_records;
pub(crate) mod init_producer_id;
mod create_topics;
mod delete_topics;
mod create_partitions;
mod find_coordinator;
mod join_group;
mod sync_group;
mod heartbeat;
mod leave_group;
mod offset_commit;
mod offset_fetch;
mod describe_groups;
mod list_groups;
mod delete_groups;
mod offset_delete;
mod consumer_group_heartbeat;
mod describe_configs;
mod alter_configs;
mod list_config_resources;
mod describe_log_dirs;
mod alter_replica_log_dirs;
mod elect_leaders;
mod alter_partition_reassignments;
mod list_partition_reassignments;
mod describe_quorum;

pub use crate::listen::Close;
pub use error::ErrorCode;

use metrics::Metrics;

/// What every handler may use. One for the whole broker.
#[derive(Debug)]
pub struct Context {
    /// This broker's id, as clients know it.
    pub broker_id: i32,
    /// The cluster it belongs to.
    pub cluster_id: Str,
    /// The zone it stands in.
    pub rack: Option<Str>,
    /// What clients of each listener are told to connect to.
    pub endpoints: HashMap<Arc<str>, (Str, i32)>,
    /// The data directory.
    pub log_dir: Str,
    /// What is set.
    pub settings: Arc<Settings>,
    /// The shards.
    pub node: Arc<Node>,
    /// What exists.
    pub view: Arc<View>,
    /// Changes what exists.
    pub topics: Topics,
    /// Who is in which group, and how far each has got.
    pub groups: Arc<Coordinator>,
    /// For answers that are read from disk: acquire before reading, then [`Call::hold`].
    pub answers: Budget,
    pub(crate) producer_ids: init_producer_id::ProducerIds,
    pub(crate) metrics: Metrics,
    /// Keeps clients from filling the log with what they are refused.
    pub(crate) refusals: LogLimit,
}

/// The circumstances of one request.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub api: ApiKey,
    /// In which version.
    pub version: i16,
    /// The client's own name; null is not empty. A slice of the frame.
    pub client_id: Option<Str>,
    /// Who asks, and through which listener.
    pub peer: Arc<Peer>,
    /// The frame's size. A slice of the frame that is kept pins this much.
    pub size_bytes: usize,
    correlation_id: i32,
    begun: Instant,
    share: Share,
    held: Mutex<Vec<Permit>>,
    metrics: metrics::OfApi,
}

/// One API.
struct Route {
    key: ApiKey,
    /// What ApiVersions says: exactly Kafka 4.3's range, so that clients that guess a broker's version
    /// by its ranges guess right.
    advertised: RangeInclusive<i16>,
    /// What is answered. Anything else closes the connection, as Kafka does.
    served: RangeInclusive<i16>,
    turn: Turn,
    begin: Begin,
}

/// Decodes the request and runs its first stage.
type Begin = fn(Arc<Context>, Arc<Call>, Reader) -> BoxFuture<'static, Result<Answer, Close>>;

/// A row for a handler that gives its response.
macro_rules! route {
    ($module:ident::$request:ident, $versions:expr, $turn:ident, $handle:path) => {
        Route {
            key: ropewalk_codec::$module::$request::API_KEY,
            advertised: $versions,
            served: $versions,
            turn: Turn::$turn,
            begin: |ctx, call, body| {
                let span = call.span();
                let begin = async move {
                    let request = call.decode::<ropewalk_codec::$module::$request>(body)?;
                    let answer = async move {
                        let response = $handle(&ctx, &call, request).await?;
                        call.reply(&response)
                    };
                    Ok(Box::pin(answer.in_current_span()) as Answer)
                };
                Box::pin(begin.instrument(span))
            },
        }
    };
}

/// A row for a handler in two stages: the first proposes, in the order of the connection's requests;
/// what it gives is awaited for the response, and several may be awaited at once.
macro_rules! staged_route {
    ($module:ident::$request:ident, $advertised:expr, $served:expr, $propose:path) => {
        Route {
            key: ropewalk_codec::$module::$request::API_KEY,
            advertised: $advertised,
            served: $served,
            turn: Turn::Pipelined,
            begin: |ctx, call, body| {
                let span = call.span();
                let begin = async move {
                    let request = call.decode::<ropewalk_codec::$module::$request>(body)?;
                    let proposed = $propose(&ctx, &call, request).await?;
                    let answer = async move {
                        match proposed.outcome(&call).await? {
                            Some(response) => call.reply(&response),
                            None => Ok(call.no_reply()),
                        }
                    };
                    Ok(Box::pin(answer.in_current_span()) as Answer)
                };
                Box::pin(begin.instrument(span))
            },
        }
    };
}

/// Every API that is served, in the order of keys. Produce is advertised from version 0 although those
/// below 3 are not served: old clients of librdkafka take any other range for a broker without
/// compression (KAFKA-18659).
static ROUTES: &[Route] = &[
    staged_route!(produce_request::ProduceRequest, 0..=13, 3..=13, produce::propose),
    route!(fetch_request::FetchRequest, 4..=18, Parked, fetch::handle),
    route!(list_offsets_request::ListOffsetsRequest, 1..=11, Alone, list_offsets::handle),
    route!(metadata_request::MetadataRequest, 0..=13, Alone, metadata::handle),
    route!(offset_commit_request::OffsetCommitRequest, 2..=10, Alone, offset_commit::handle),
    route!(offset_fetch_request::OffsetFetchRequest, 1..=10, Alone, offset_fetch::handle),
    route!(
        find_coordinator_request::FindCoordinatorRequest,
        0..=6,
        Alone,
        find_coordinator::handle
    ),
    route!(join_group_request::JoinGroupRequest, 0..=9, Parked, join_group::handle),
    route!(heartbeat_request::HeartbeatRequest, 0..=4, Alone, heartbeat::handle),
    route!(leave_group_request::LeaveGroupRequest, 0..=5, Alone, leave_group::handle),
    route!(sync_group_request::SyncGroupRequest, 0..=5, Parked, sync_group::handle),
    route!(describe_groups_request::DescribeGroupsRequest, 0..=6, Alone, describe_groups::handle),
    route!(list_groups_request::ListGroupsRequest, 0..=5, Alone, list_groups::handle),
    route!(api_versions_request::ApiVersionsRequest, 0..=4, Alone, api_versions::handle),
    route!(create_topics_request::CreateTopicsRequest, 2..=7, Alone, create_topics::handle),
    route!(delete_topics_request::DeleteTopicsRequest, 1..=6, Alone, delete_topics::handle),
    route!(delete_records_request::DeleteRecordsRequest, 0..=2, Alone, delete_records::handle),
    route!(init_producer_id_request::InitProducerIdRequest, 0..=5, Alone, init_producer_id::handle),
    route!(
        offset_for_leader_epoch_request::OffsetForLeaderEpochRequest,
        2..=4,
        Alone,
        offset_for_leader_epoch::handle
    ),
    route!(
        describe_configs_request::DescribeConfigsRequest,
        1..=4,
        Alone,
        describe_configs::handle
    ),
    route!(alter_configs_request::AlterConfigsRequest, 0..=2, Alone, alter_configs::replace),
    route!(
        alter_replica_log_dirs_request::AlterReplicaLogDirsRequest,
        1..=2,
        Alone,
        alter_replica_log_dirs::handle
    ),
    route!(
        describe_log_dirs_request::DescribeLogDirsRequest,
        1..=5,
        Alone,
        describe_log_dirs::handle
    ),
    route!(
        create_partitions_request::CreatePartitionsRequest,
        0..=3,
        Alone,
        create_partitions::handle
    ),
    route!(delete_groups_request::DeleteGroupsRequest, 0..=2, Alone, delete_groups::handle),
    route!(elect_leaders_request::ElectLeadersRequest, 0..=2, Alone, elect_leaders::handle),
    route!(
        incremental_alter_configs_request::IncrementalAlterConfigsRequest,
        0..=1,
        Alone,
        alter_configs::change
    ),
    route!(
        alter_partition_reassignments_request::AlterPartitionReassignmentsRequest,
        0..=1,
        Alone,
        alter_partition_reassignments::handle
    ),
    route!(
        list_partition_reassignments_request::ListPartitionReassignmentsRequest,
        0..=0,
        Alone,
        list_partition_reassignments::handle
    ),
    route!(offset_delete_request::OffsetDeleteRequest, 0..=0, Alone, offset_delete::handle),
    route!(describe_quorum_request::DescribeQuorumRequest, 0..=2, Alone, describe_quorum::handle),
    route!(
        describe_cluster_request::DescribeClusterRequest,
        0..=2,
        Alone,
        describe_cluster::handle
    ),
    route!(
        describe_producers_request::DescribeProducersRequest,
        0..=0,
        Alone,
        describe_producers::handle
    ),
    route!(
        consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest,
        0..=1,
        Alone,
        consumer_group_heartbeat::handle
    ),
    route!(
        list_config_resources_request::ListConfigResourcesRequest,
        0..=1,
        Alone,
        list_config_resources::handle
    ),
    route!(
        describe_topic_partitions_request::DescribeTopicPartitionsRequest,
        0..=0,
        Alone,
        describe_topic_partitions::handle
    ),
];

impl Context {
    /// Host and port that a client of the same listener can reach this broker at.
    pub(crate) fn endpoint(&self, peer: &Peer) -> (Str, i32) {
        let endpoint = self.endpoints.get(&peer.listener);
        endpoint.cloned().expect("every listener has an endpoint")
    }

    /// All bytes of the data directory's file system, and those that are free.
    pub(crate) fn disk_bytes(&self) -> (i64, i64) {
        let Ok(stat) = rustix::fs::statvfs(self.log_dir.as_str()) else { return (-1, -1) };
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize));
        (bytes(stat.f_blocks).unwrap_or(i64::MAX), bytes(stat.f_bavail).unwrap_or(i64::MAX))
    }
}

impl Service for Arc<Context> {
    fn accept(&self, peer: &Arc<Peer>, frame: Bytes, share: Share) -> Result<Request, Close> {
        let size_bytes = frame.len();
        let mut body = Reader::new(frame);
        let header = decode_request_header(&mut body).map_err(Close::MalformedHeader)?;
        let (key, version) = (header.request_api_key, header.request_api_version);
        let api = ApiKey::from_i16(key).ok_or(Close::UnknownApi(key))?;
        let route = ROUTES.iter().find(|route| route.key == api);
        let route = route.ok_or(Close::NotServed { api, version })?;
        let call = Call {
            api,
            version,
            // A parked request may outlive its frame, which this would keep.
            client_id: match route.turn {
                Turn::Parked => header.client_id.map(|name| name.detached()),
                Turn::Pipelined | Turn::Alone => header.client_id,
            },
            peer: Arc::clone(peer),
            size_bytes,
            correlation_id: header.correlation_id,
            begun: Instant::now(),
            share,
            held: Mutex::default(),
            metrics: self.metrics.of(api),
        };
        if route.served.contains(&version) {
            let begin = (route.begin)(Arc::clone(self), Arc::new(call), body);
            Ok(Request { turn: route.turn, lane: lane(api), begin })
        } else if api == ApiKey::ApiVersions {
            Ok(api_versions::answer_unknown_version(call))
        } else {
            Err(Close::NotServed { api, version })
        }
    }

    fn check_size(&self, key: i16, size_bytes: usize) -> Result<(), Close> {
        let api = match ApiKey::from_i16(key) {
            Some(api @ (ApiKey::JoinGroup | ApiKey::SyncGroup)) => api,
            Some(_) | None => return Ok(()),
        };
        let size_bytes_max = limits::GROUP_FRAME_BYTES_MAX;
        if size_bytes > size_bytes_max {
            return Err(Close::RequestTooLarge { api, size_bytes, size_bytes_max });
        }
        Ok(())
    }
}

/// What a small request of this API may wait for.
fn lane(api: ApiKey) -> Lane {
    if api == ApiKey::Produce {
        Lane::Bulk
    } else if api == ApiKey::Fetch {
        Lane::Fetch
    } else {
        Lane::Small
    }
}

impl Call {
    /// The number of a code, for a field of the response; it is counted.
    pub fn refuse(&self, code: impl Into<ErrorCode>) -> i16 {
        let code = code.into();
        if code != ErrorCode::None {
            self.metrics.failed(code);
        }
        code.code()
    }

    /// Gives back what the request's frame takes of the memory for requests. For a request that may
    /// wait for long and keeps nothing of its frame.
    pub(crate) fn release_frame(&self) {
        self.share.release();
    }

    /// Counts the frame against the memory for requests until `done` resolves, also when the request
    /// is answered before: something of it is still kept.
    pub(crate) fn keep_frame_until<T: Send + 'static>(
        &self,
        done: impl Future<Output = T> + Send + 'static,
    ) {
        let share = self.share.clone();
        tokio::spawn(async move {
            done.await;
            drop(share);
        });
    }

    /// The same future, which counts the request's frame against the memory for requests until it is done,
    /// also when the request is answered before.
    pub(crate) fn counted<F: Future>(&self, change: F) -> impl Future<Output = F::Output> + use<F> {
        let share = self.share.clone();
        async move {
            let outcome = change.await;
            drop(share);
            outcome
        }
    }

    /// Keeps a share of a budget until the client has taken the answer.
    pub fn hold(&self, permit: Permit) {
        self.held.lock().push(permit);
    }

    fn span(&self) -> Span {
        debug_span!(
            "request",
            api = self.api.name(),
            version = self.version,
            client_id = self.client_id.as_deref(),
            peer = %self.peer.address,
            correlation_id = self.correlation_id,
        )
    }

    /// What follows the request in its frame is ignored, as Kafka ignores it: librdkafka leaves three
    /// bytes behind every Metadata request for all topics.
    fn decode<R: ropewalk_codec::Request>(&self, mut body: Reader) -> Result<R, Close> {
        let malformed = |error| Close::Malformed { api: self.api, error };
        R::decode(&mut body, self.version).map_err(malformed)
    }

    fn reply(&self, response: &impl Message) -> Result<Reply, Close> {
        self.reply_in(self.version, response)
    }

    /// For a request that is never answered: acks=0.
    fn no_reply(&self) -> Reply {
        self.metrics.answered(self.begun.elapsed());
        Reply::default()
    }

    fn reply_in(&self, version: i16, response: &impl Message) -> Result<Reply, Close> {
        let written = encode_response(self.correlation_id, self.api, version, response);
        let written =
            written.map_err(|error| Close::Unencodable { api: self.api, version, error })?;
        self.metrics.answered(self.begun.elapsed());
        Ok(Reply { chunks: written.into_chunks(), held: std::mem::take(&mut self.held.lock()) })
    }
}

#[cfg(test)]
mod tests;
