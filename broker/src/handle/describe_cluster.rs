//! DescribeCluster: the brokers of the cluster (KIP-700).

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_cluster_request::DescribeClusterRequest;
use ropewalk_codec::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};

use super::placement::Endpoint;
use super::{Call, Close, Context, ErrorCode, operations};

/// Endpoint type "broker", as opposed to controller (KIP-919).
const BROKERS: i8 = 1;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, Close> {
    if request.endpoint_type != BROKERS {
        return Ok(DescribeClusterResponse {
            error_code: call.refuse(ErrorCode::MismatchedEndpointType),
            error_message: Some(Str::from_static("this listener serves broker endpoints only")),
            endpoint_type: BROKERS,
            ..Default::default()
        });
    }
    let endpoints = ctx.endpoints(&call.peer);
    let controller_id = ctx.controller_id(&endpoints);
    let broker = |Endpoint { id, host, port, rack }| DescribeClusterBroker {
        broker_id: id,
        host,
        port,
        rack,
        is_fenced: false,
    };
    let mut response = DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: ctx.cluster_id.clone(),
        controller_id,
        brokers: endpoints.into_iter().map(broker).collect(),
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = operations::CLUSTER;
    }
    Ok(response)
}
