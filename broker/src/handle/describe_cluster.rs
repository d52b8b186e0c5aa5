//! DescribeCluster: the brokers of the cluster (KIP-700). Those that are away are Kafka's fenced
//! ones (KIP-1073).

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
    let (alive, away) = ctx.all_endpoints(&call.peer);
    let controller_id = ctx.controller_id(&alive);
    let broker = |is_fenced| {
        move |Endpoint { id, host, port, rack }| DescribeClusterBroker {
            broker_id: id,
            host,
            port,
            rack,
            is_fenced,
        }
    };
    let mut brokers: Vec<DescribeClusterBroker> = alive.into_iter().map(broker(false)).collect();
    if request.include_fenced_brokers {
        brokers.extend(away.into_iter().map(broker(true)));
        brokers.sort_unstable_by_key(|broker| broker.broker_id);
    }
    let mut response = DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: ctx.cluster_id.clone(),
        controller_id,
        brokers,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = operations::CLUSTER;
    }
    Ok(response)
}
