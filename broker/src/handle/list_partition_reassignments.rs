//! ListPartitionReassignments: none is ever in progress.

use std::sync::Arc;

use ropewalk_codec::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use ropewalk_codec::list_partition_reassignments_response::ListPartitionReassignmentsResponse;

use super::{Call, Close, Context};

/// Handles the request.
pub(crate) async fn handle(
    _ctx: &Arc<Context>,
    _call: &Call,
    _request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, Close> {
    Ok(ListPartitionReassignmentsResponse::default())
}
