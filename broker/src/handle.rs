//! Requests: one row per API that is served, and the context of every handler.
//!
//! [`ROUTES`] is the only list of served APIs: dispatch reads it and ApiVersions is derived from
//! it, so an API is advertised exactly when it is implemented. Each API has its own file below this
//! one. Only [`error`] maps to Kafka's error codes.
//!
//! # Writing a handler
//!
//! `pub(crate) async fn handle(ctx: &Arc<Context>, call: &Call, request: XRequest) ->
//! Result<XResponse, Close>`
//! and one row in the table, in the order of keys. `Err(Close)` closes the connection without a
//! response; every error that the protocol can express is an `Ok` with an error code, made by
//! [`Call::refuse`] so that it is counted. Produce has two stages: `propose` returns a value with
//! an `answer` method. Strings of a request are slices of its frame: copy what is kept.
//!
//! # Invariants
//!
//! - **O2** only Produce is [`Turn::Pipelined`], and its first stage proposes in the order of
//!   requests.

use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ropewalk_codec::{
    ApiKey, Message, Reader, Request as _, Str, decode_request_header, encode_response,
};
use ropewalk_node::Node;
use ropewalk_store::remote::RemoteLog;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use crate::catalog::{Topics, View};
use crate::cluster::Cluster;
use crate::group::Coordinator;
use crate::limits;
use crate::listen::{
    Answer, Budget, KeptShare, Lane, Peer, Permit, Reply, Request, Service, Share, Turn,
};
use crate::log_limit::LogLimit;
use crate::queue_metrics::ShardLoad;
use crate::settings::Settings;

pub mod error;
pub(crate) mod metrics;
pub(crate) mod operations;
pub(crate) mod partition;
pub(crate) mod placement;
mod deadline;
mod logged;
mod api_versions;
mod metadata;
mod describe_cluster;
mod describe_producers;
mod describe_topic_partitions;
mod produce;
pub(crate) mod fetch;
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
pub(crate) use fetch::Buffers;

use metrics::Metrics;

/// Shared state of all handlers. One per broker.
#[derive(Debug)]
pub struct Context {
    /// This broker's id in the protocol (`node.id`).
    pub broker_id: i32,
    /// The id of the broker's cluster.
    pub cluster_id: Str,
    /// The brokers of the cluster and the leaders of its shards.
    pub cluster: Arc<Cluster>,
    /// The data directory.
    pub log_dir: Str,
    /// The broker's settings.
    pub settings: Arc<Settings>,
    /// The shards of this broker.
    pub node: Arc<Node>,
    /// The topics that exist.
    pub view: Arc<View>,
    /// Creates, changes and deletes topics.
    pub topics: Topics,
    /// Members and committed offsets of consumer groups.
    pub groups: Arc<Coordinator>,
    /// Bytes that are written to and read from the shards.
    pub load: Arc<ShardLoad>,
    /// Memory for responses that are read from disk: acquire before reading, then [`Call::hold`].
    pub answers: Budget,
    /// Reads what is in the bucket only; never set without a bucket.
    pub(crate) remote: OnceLock<Arc<dyn RemoteLog>>,
    /// Memory for records of the bucket.
    pub(crate) cold: Budget,
    pub(crate) fetch_sessions: Arc<fetch::Sessions>,
    /// Buffers for pieces of responses.
    pub(crate) buffers: Buffers,
    pub(crate) producer_ids: init_producer_id::ProducerIds,
    pub(crate) metrics: Metrics,
    /// Rate limit of log lines about refused requests.
    pub(crate) refusals: LogLimit,
}

/// What handlers know of one request beside its body.
#[derive(Debug)]
pub struct Call {
    /// The API of the request.
    pub api: ApiKey,
    /// The version of the request.
    pub version: i16,
    /// The client id; null differs from empty. A slice of the frame.
    pub client_id: Option<Str>,
    /// The client's address and the listener it is connected to.
    pub peer: Arc<Peer>,
    /// The size of the frame. Keeping a slice of the frame pins this much memory.
    pub size_bytes: usize,
    correlation_id: i32,
    begun: Instant,
    share: Share,
    held: Mutex<Vec<Arc<Permit>>>,
    /// The records of a fetch that are read while its response is sent.
    later: Mutex<Option<fetch::Later>>,
    metrics: metrics::ApiMetrics,
}

/// One row of the route table.
struct Route {
    key: ApiKey,
    /// The range in ApiVersions: exactly Kafka 4.3's, so that clients that derive a broker's
    /// version from its ranges get the right one.
    advertised: RangeInclusive<i16>,
    /// The versions that are served. Any other version closes the connection, as Kafka does.
    served: RangeInclusive<i16>,
    turn: Turn,
    begin: Begin,
}

/// Decodes the request and runs its first stage.
type Begin = fn(Arc<Context>, Arc<Call>, Reader) -> BoxFuture<'static, Result<Answer, Close>>;

/// A row for a handler that returns its response.
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

/// A row for a handler in two stages: the first proposes, in the order of the connection's
/// requests; the answer of what it returns is the response, and several may be awaited at once.
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
                        match proposed.answer(&ctx, &call).await? {
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

/// Every served API, in the order of keys. Produce is advertised from version 0 although versions
/// below 3 are not served: old clients of librdkafka treat a broker with any other range as one
/// without compression (KAFKA-18659).
static ROUTES: &[Route] = &[
    staged_route!(produce_request::ProduceRequest, 0..=13, 3..=13, produce::propose),
    route!(fetch_request::FetchRequest, 4..=18, Parked, fetch::handle),
    route!(list_offsets_request::ListOffsetsRequest, 1..=11, Alone, list_offsets::handle),
    route!(metadata_request::MetadataRequest, 0..=13, Alone, metadata::handle),
    staged_route!(
        offset_commit_request::OffsetCommitRequest,
        2..=10,
        2..=10,
        offset_commit::propose
    ),
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
            // A parked request may outlive its frame, and the client id would pin it.
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
            later: Mutex::default(),
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

/// The budget lane of a small request of this API.
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
    /// The number of an error code for a response field. Counts the error.
    pub fn refuse(&self, code: impl Into<ErrorCode>) -> i16 {
        let code = code.into();
        if code != ErrorCode::None {
            self.metrics.failed(code);
        }
        code.code()
    }

    /// Returns the memory of the request's frame to its budget. For a request that may wait for a
    /// long time and keeps no slice of its frame.
    pub(crate) fn release_frame(&self) {
        self.share.release();
    }

    /// Counts the frame against the request memory until the result is dropped, also after the
    /// request is answered. `None` when too much memory is held like that already.
    pub(crate) fn keep_frame(&self) -> Option<KeptShare> {
        self.share.keep(self.size_bytes)
    }

    /// Counts the frame against the request memory until `done` resolves, also after the request is
    /// answered, because a slice of the frame is still kept.
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

    /// Wraps a future so that it counts the request's frame against the request memory until it is
    /// done, also after the request is answered.
    pub(crate) fn counted<F: Future>(&self, change: F) -> impl Future<Output = F::Output> + use<F> {
        let share = self.share.clone();
        async move {
            let outcome = change.await;
            drop(share);
            outcome
        }
    }

    /// Keeps a share of a budget until the client has received the response.
    pub fn hold(&self, permit: Arc<Permit>) {
        self.held.lock().push(permit);
    }

    /// Sets what fills the places of records that are read while the response is sent.
    pub(crate) fn follow(&self, later: fetch::Later) {
        *self.later.lock() = Some(later);
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

    /// Bytes that follow the request in its frame are ignored, as in Kafka: librdkafka appends
    /// three bytes to every Metadata request for all topics.
    fn decode<R: ropewalk_codec::Request>(&self, mut body: Reader) -> Result<R, Close> {
        let malformed = |error| Close::Malformed { api: self.api, error };
        R::decode(&mut body, self.version).map_err(malformed)
    }

    fn reply(&self, response: &impl Message) -> Result<Reply, Close> {
        self.reply_in(self.version, response)
    }

    /// The result of a request without a response: acks=0.
    fn no_reply(&self) -> Reply {
        self.metrics.answered(self.begun.elapsed());
        Reply::default()
    }

    fn reply_in(&self, version: i16, response: &impl Message) -> Result<Reply, Close> {
        let written = encode_response(self.correlation_id, self.api, version, response);
        let written =
            written.map_err(|error| Close::Unencodable { api: self.api, version, error })?;
        self.metrics.answered(self.begun.elapsed());
        let held = std::mem::take(&mut *self.held.lock());
        Ok(match self.later.lock().take() {
            Some(later) => later.reply(written.into_parts(), held),
            None => Reply { chunks: written.into_chunks(), rest: None, held },
        })
    }
}

#[cfg(test)]
mod tests;
