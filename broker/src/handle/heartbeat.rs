//! Heartbeat: keeps the session of a member of a classic group alive, and notifies it of
//! rebalances.

use std::sync::Arc;

use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::heartbeat_response::HeartbeatResponse;
use ropewalk_shard::command::MemberClaim;

use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: HeartbeatRequest,
) -> Result<HeartbeatResponse, Close> {
    let claim = MemberClaim {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(|id| id.to_string()),
        generation: request.generation_id,
    };
    let code = match ctx.groups.heartbeat(&request.group_id, &claim) {
        Ok(()) => ErrorCode::None,
        Err(refusal) => refusal.into(),
    };
    Ok(HeartbeatResponse { error_code: call.refuse(code), ..Default::default() })
}
