//! FindCoordinator: the broker that coordinates a group, a transaction or the state of a
//! share-partition.
//!
//! That is the broker that leads the shard of the key, and any broker names it. The response has
//! the same id and address as Metadata, because clients look one up in the other.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::find_coordinator_response::{Coordinator, FindCoordinatorResponse};

use super::placement::Endpoint;
use super::{Call, Close, Context, ErrorCode};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// First version in which one request has several keys.
const BATCHED_FROM: i16 = 4;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Close> {
    let find = |key: Str| find(ctx, call, request.key_type, key);
    if call.version >= BATCHED_FROM {
        let coordinators = request.coordinator_keys.into_iter().map(find).collect();
        return Ok(FindCoordinatorResponse { coordinators, ..Default::default() });
    }
    let found = find(request.key);
    Ok(FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    })
}

fn find(ctx: &Context, call: &Call, key_type: i8, key: Str) -> Coordinator {
    let found = match key_type {
        GROUP | TRANSACTION => coordinator(ctx, call, &key),
        // Share-partitions included, because share groups are not served.
        _ => {
            let why =
                format!("key type {key_type} is not served: 0 is a group, 1 a transactional id");
            Err((ErrorCode::InvalidRequest, why))
        }
    };
    match found {
        Ok(Endpoint { id, host, port, .. }) => Coordinator {
            key,
            node_id: id,
            host,
            port,
            error_code: ErrorCode::None.code(),
            error_message: Some(Str::from_static(ErrorCode::None.name())),
        },
        Err((code, why)) => Coordinator {
            key,
            node_id: -1,
            host: Str::new(),
            port: -1,
            error_code: call.refuse(code),
            error_message: Some(why.into()),
        },
    }
}

/// The broker that leads the shard of a group or a transactional id.
fn coordinator(ctx: &Context, call: &Call, key: &str) -> Result<Endpoint, (ErrorCode, String)> {
    let unavailable = |why| Err((ErrorCode::CoordinatorNotAvailable, why));
    let leader = ctx.groups.shard_of(key).and_then(|shard| ctx.cluster.last_leader(shard).leader);
    let Some(leader) = leader else {
        return unavailable(format!("no broker is known to lead the shard of '{key}' now; retry"));
    };
    let is_own = leader.0 == ctx.broker_id;
    if is_own && !ctx.groups.coordinates(key) {
        return unavailable(format!("this broker gives up the shard of '{key}'; retry"));
    }
    match ctx.endpoint_of(leader, &call.peer) {
        Some(endpoint) => Ok(endpoint),
        None => unavailable(format!(
            "broker {} leads the shard of '{key}' and has no endpoint of listener {}",
            leader.0, call.peer.listener
        )),
    }
}
