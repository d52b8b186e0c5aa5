//! FindCoordinator: the broker that coordinates a group, a transaction or the state of a
//! share-partition.
//!
//! The response names this broker by the same id and address as Metadata, because clients look one
//! up in the other. A broker that does not lead the shard of the key answers with an error, and the
//! client retries.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::find_coordinator_response::{Coordinator, FindCoordinatorResponse};

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
    let code = match key_type {
        GROUP | TRANSACTION if ctx.groups.coordinates(&key) => ErrorCode::None,
        GROUP | TRANSACTION => ErrorCode::CoordinatorNotAvailable,
        // Share-partitions included, because share groups are not served.
        _ => ErrorCode::InvalidRequest,
    };
    let found = code == ErrorCode::None;
    let node_id = if found { ctx.broker_id } else { -1 };
    let (host, port) = if found { ctx.endpoint(&call.peer) } else { (Str::new(), -1) };
    let error_message = Some(match key_type {
        GROUP | TRANSACTION if found => Str::from_static(code.name()),
        GROUP | TRANSACTION => {
            Str::from(format!("the shard of '{key}' is not led by this broker now; retry"))
        }
        _ => Str::from(format!(
            "key type {key_type} is not served: 0 is a group, 1 a transactional id"
        )),
    });
    Coordinator { key, node_id, host, port, error_code: call.refuse(code), error_message }
}
