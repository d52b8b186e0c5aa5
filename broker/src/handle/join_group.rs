//! JoinGroup: a client joins the group's next generation.
//!
//! The response may take minutes, until the other members have joined. Other connections continue
//! meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use ropewalk_codec::Str;
use ropewalk_codec::join_group_request::JoinGroupRequest;
use ropewalk_codec::join_group_response::{JoinGroupResponse, JoinGroupResponseMember};
use uuid::Uuid;

use super::{Call, Close, Context};
use crate::group::Refusal;
use crate::group::classic::{Candidate, Join, JoinResult, Reply};

/// First version with a rebalance timeout apart from the session timeout.
const REBALANCE_TIMEOUT_FROM: i16 = 1;
/// First version in which a new member must join again with the member id it is given (KIP-394).
const KNOWN_ID_FROM: i16 = 4;
/// First version in which the response's protocol name may be null.
const NULL_PROTOCOL_FROM: i16 = 7;
/// First version in which a leader can be instructed to skip the assignment (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: JoinGroupRequest,
) -> Result<JoinGroupResponse, Close> {
    let group = request.group_id.to_string();
    let join = join(call, request);
    // The wait may last as long as the group's longest rebalance timeout.
    call.release_frame();
    let reply = ctx.groups.join(&group, join).await;
    Ok(match reply {
        Reply::Joined(joined) => accepted(joined),
        Reply::NotJoined { member_id, refusal } => {
            ctx.log_group_refusal(call, &group, refusal);
            refused(call, member_id, refusal)
        }
        Reply::Synced(_) | Reply::NotSynced(_) => {
            refused(call, String::new(), Refusal::NotAvailable)
        }
    })
}

/// Converts the request for the state machine. Everything that the group keeps is copied out of the
/// frame.
fn join(call: &Call, request: JoinGroupRequest) -> Join {
    let rebalance_timeout_ms = if call.version >= REBALANCE_TIMEOUT_FROM {
        request.rebalance_timeout_ms
    } else {
        request.session_timeout_ms
    };
    let protocols = request.protocols.iter();
    Join {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(|id| id.to_string()),
        client_id: call.client_id.as_ref().map(Str::to_string).unwrap_or_default(),
        client_host: format!("/{}", call.peer.address.ip()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols
            .map(|p| (p.name.to_string(), Bytes::copy_from_slice(&p.metadata)))
            .collect(),
        unique: Uuid::new_v4(),
        needs_known_id: call.version >= KNOWN_ID_FROM,
        can_skip_assignment: call.version >= SKIP_ASSIGNMENT_FROM,
    }
}

fn accepted(joined: JoinResult) -> JoinGroupResponse {
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.map(Str::from),
        protocol_name: Some(joined.protocol.map(Str::from).unwrap_or_default()),
        leader: joined.leader.into(),
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id.into(),
        members: joined.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(candidate: Candidate) -> JoinGroupResponseMember {
    JoinGroupResponseMember {
        member_id: candidate.member_id.into(),
        group_instance_id: candidate.instance_id.map(Str::from),
        metadata: candidate.metadata,
    }
}

fn refused(call: &Call, member_id: String, refusal: Refusal) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: call.refuse(refusal),
        protocol_name: (call.version < NULL_PROTOCOL_FROM).then(Str::new),
        member_id: member_id.into(),
        ..Default::default()
    }
}
