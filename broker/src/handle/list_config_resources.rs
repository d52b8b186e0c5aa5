//! ListConfigResources: the resources with configuration of their own (KIP-1142).

use std::collections::BTreeSet;
use std::sync::Arc;

use ropewalk_codec::list_config_resources_request::ListConfigResourcesRequest;
use ropewalk_codec::list_config_resources_response::{ConfigResource, ListConfigResourcesResponse};
use ropewalk_shard::command;

use super::describe_configs::{BROKER, CLIENT_METRICS, GROUP, TOPIC};
use super::{Call, Close, Context, ErrorCode};

/// Kafka's resource type of a broker's loggers.
const BROKER_LOGGER: i8 = 8;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: ListConfigResourcesRequest,
) -> Result<ListConfigResourcesResponse, Close> {
    // Version 0 lists client metrics only.
    let mut kinds: BTreeSet<i8> = request.resource_types.into_iter().collect();
    if call.version == 0 {
        kinds = BTreeSet::from([CLIENT_METRICS]);
    } else if kinds.is_empty() {
        kinds = BTreeSet::from([TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP]);
    }
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    if kinds.iter().any(|kind| !known.contains(kind)) {
        let error_code = call.refuse(ErrorCode::UnsupportedVersion);
        return Ok(ListConfigResourcesResponse { error_code, ..Default::default() });
    }
    let mut config_resources = Vec::new();
    for kind in kinds {
        let named =
            |name: String| ConfigResource { resource_name: name.into(), resource_type: kind };
        match kind {
            TOPIC => {
                let topics = ctx.view.all();
                config_resources.extend(topics.iter().map(|topic| named(topic.name.to_string())));
            }
            BROKER | BROKER_LOGGER => {
                config_resources.push(named(ctx.broker_id.to_string()));
            }
            GROUP => config_resources.extend(groups(ctx).into_iter().map(named)),
            _ => {}
        }
    }
    Ok(ListConfigResourcesResponse { config_resources, ..Default::default() })
}

/// The groups with configuration of their own.
fn groups(ctx: &Context) -> Vec<String> {
    let state = ctx.node.catalog().state();
    let configs = state.catalog.iter().flat_map(|catalog| catalog.configs.keys());
    let group = |resource: &command::ConfigResource| match resource {
        command::ConfigResource::Group(name) => Some(name.clone()),
        command::ConfigResource::Topic(_) | command::ConfigResource::Broker(_) => None,
    };
    configs.filter_map(group).collect()
}
