//! ConsumerGroupHeartbeat: refused with a message. Groups of the newer consumer protocol (KIP-848)
//! are not served yet.
//!
//! The answer is the one of a Kafka broker on which that protocol is disabled. A client that does
//! not find the API in ApiVersions keeps looking for another coordinator and reports nothing
//! (librdkafka), so the API is advertised.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use ropewalk_codec::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

use super::{Call, Close, Context, ErrorCode};

const WHY: &str = "the consumer group protocol of KIP-848 is not served yet; set group.protocol=classic in the client";

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Close> {
    ctx.log_refusal(call, &format!("group {}", request.group_id), &WHY);
    Ok(ConsumerGroupHeartbeatResponse {
        error_code: call.refuse(ErrorCode::UnsupportedVersion),
        error_message: Some(Str::from_static(WHY)),
        ..Default::default()
    })
}
