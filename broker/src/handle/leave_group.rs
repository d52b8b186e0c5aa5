//! LeaveGroup: members leave, or an administrator removes them.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ropewalk_codec::leave_group_response::{LeaveGroupResponse, MemberResponse};

use super::{Call, Close, Context, ErrorCode};
use crate::group::classic::Leaver;

/// First version in which one request names several members, also by instance id.
const BATCHED_FROM: i16 = 3;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: LeaveGroupRequest,
) -> Result<LeaveGroupResponse, Close> {
    let identities = if call.version >= BATCHED_FROM {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..Default::default() }]
    };
    let leavers: Vec<_> = identities.iter().map(leaver).collect();
    let results = match ctx.groups.leave(&request.group_id, &leavers) {
        Ok(results) => results,
        Err(refusal) => {
            let error_code = call.refuse(refusal);
            return Ok(LeaveGroupResponse { error_code, ..Default::default() });
        }
    };
    let codes = results.into_iter().map(|result| match result {
        Ok(()) => call.refuse(ErrorCode::None),
        Err(refusal) => call.refuse(refusal),
    });
    if call.version < BATCHED_FROM {
        let error_code = codes.into_iter().next().unwrap_or_default();
        return Ok(LeaveGroupResponse { error_code, ..Default::default() });
    }
    let members = identities.into_iter().zip(codes).map(|(identity, error_code)| MemberResponse {
        member_id: identity.member_id,
        group_instance_id: identity.group_instance_id,
        error_code,
    });
    Ok(LeaveGroupResponse { members: members.collect(), ..Default::default() })
}

fn leaver(identity: &MemberIdentity) -> Leaver {
    Leaver {
        member_id: identity.member_id.to_string(),
        instance_id: identity.group_instance_id.as_ref().map(Str::to_string),
    }
}
