//! ListGroups: every group that this broker coordinates.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::list_groups_request::ListGroupsRequest;
use ropewalk_codec::list_groups_response::{ListGroupsResponse, ListedGroup};

use super::{Call, Close, Context};

/// The only group type that is served.
const CLASSIC: &str = "classic";

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    _call: &Call,
    request: ListGroupsRequest,
) -> Result<ListGroupsResponse, Close> {
    let wanted = |filter: &[Str], word: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(word))
    };
    let groups =
        if wanted(&request.types_filter, CLASSIC) { ctx.groups.list() } else { Vec::new() };
    let groups = groups.into_iter().filter(|group| wanted(&request.states_filter, group.state));
    let groups = groups.map(|group| ListedGroup {
        group_id: group.group.into(),
        protocol_type: group.protocol_type.into(),
        group_state: Str::from_static(group.state),
        group_type: Str::from_static(CLASSIC),
    });
    Ok(ListGroupsResponse { groups: groups.collect(), ..Default::default() })
}
