//! DeleteGroups: deletes groups without members, and their offsets.

use std::sync::Arc;

use ropewalk_codec::delete_groups_request::DeleteGroupsRequest;
use ropewalk_codec::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};

use super::{Call, Close, Context, ErrorCode};

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DeleteGroupsRequest,
) -> Result<DeleteGroupsResponse, Close> {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let code = match ctx.groups.delete(&group_id).await {
            Ok(()) => ErrorCode::None,
            Err(refusal) => refusal.into(),
        };
        results.push(DeletableGroupResult { group_id, error_code: call.refuse(code) });
    }
    Ok(DeleteGroupsResponse { results, ..Default::default() })
}
