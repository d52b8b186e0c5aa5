//! SyncGroup: the leader sends the assignment of all members, each member receives its own.

use std::sync::Arc;

use bytes::Bytes;
use ropewalk_codec::Str;
use ropewalk_codec::sync_group_request::SyncGroupRequest;
use ropewalk_codec::sync_group_response::SyncGroupResponse;
use ropewalk_shard::command::MemberClaim;

use super::{Call, Close, Context};
use crate::group::Refusal;
use crate::group::classic::{Reply, SyncRequest};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: SyncGroupRequest,
) -> Result<SyncGroupResponse, Close> {
    let group = request.group_id.to_string();
    let refused = |refusal: Refusal| SyncGroupResponse {
        error_code: call.refuse(refusal),
        ..Default::default()
    };
    let sync = sync(request);
    // The request waits for the leader's assignment.
    call.release_frame();
    Ok(match ctx.groups.sync(&group, sync).await {
        Reply::Synced(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type.map(Str::from),
            protocol_name: synced.protocol.map(Str::from),
            assignment: synced.assignment,
            ..Default::default()
        },
        Reply::NotSynced(refusal) => {
            ctx.log_group_refusal(call, &group, refusal);
            refused(refusal)
        }
        Reply::Joined(_) | Reply::NotJoined { .. } => refused(Refusal::NotAvailable),
    })
}

/// Converts the request for the state machine. Everything that the group keeps is copied out of the
/// frame.
fn sync(request: SyncGroupRequest) -> SyncRequest {
    let assignments = request.assignments.iter();
    SyncRequest {
        claim: MemberClaim {
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.map(|id| id.to_string()),
            generation: request.generation_id,
        },
        protocol_type: request.protocol_type.map(|name| name.to_string()),
        protocol: request.protocol_name.map(|name| name.to_string()),
        assignments: assignments
            .map(|a| (a.member_id.to_string(), Bytes::copy_from_slice(&a.assignment)))
            .collect(),
    }
}
