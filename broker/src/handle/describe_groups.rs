//! DescribeGroups: the members of a group and their assignments.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_groups_request::DescribeGroupsRequest;
use ropewalk_codec::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};

use super::{Call, Close, Context, operations};
use crate::group::Refusal;
use crate::group::classic::{Description, MemberDescription};

/// First version in which an unknown group is an error; before, it is reported as dead (KIP-1043).
const UNKNOWN_GROUP_FROM: i16 = 6;

const DEAD: Str = Str::from_static("Dead");

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, Close> {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group_id in request.groups {
        let mut described = match ctx.groups.describe(&group_id).await {
            Ok(description) => described(group_id, description),
            Err(Refusal::NoSuchGroup) => unknown(call, group_id),
            Err(refusal) => {
                let error_code = call.refuse(refusal);
                DescribedGroup { error_code, group_id, ..Default::default() }
            }
        };
        if request.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = operations::GROUP;
        }
        groups.push(described);
    }
    Ok(DescribeGroupsResponse { groups, ..Default::default() })
}

fn described(group_id: Str, description: Description) -> DescribedGroup {
    DescribedGroup {
        group_id,
        group_state: Str::from_static(description.state),
        protocol_type: description.protocol_type.into(),
        protocol_data: description.protocol.into(),
        members: description.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: member.member_id.into(),
        group_instance_id: member.instance_id.map(Str::from),
        client_id: member.client_id.into(),
        client_host: member.client_host.into(),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}

fn unknown(call: &Call, group_id: Str) -> DescribedGroup {
    if call.version < UNKNOWN_GROUP_FROM {
        return DescribedGroup { group_id, group_state: DEAD, ..Default::default() };
    }
    DescribedGroup {
        error_code: call.refuse(Refusal::NoSuchGroup),
        error_message: Some(Str::from(format!("Group {group_id} not found."))),
        group_id,
        group_state: DEAD,
        ..Default::default()
    }
}
