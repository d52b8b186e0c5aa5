//! AlterConfigs and IncrementalAlterConfigs: the first replaces all configuration of a resource,
//! the second changes single keys (KIP-339).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::alter_configs_request::{AlterConfigsRequest, AlterConfigsResource};
use ropewalk_codec::alter_configs_response::{AlterConfigsResourceResponse, AlterConfigsResponse};
use ropewalk_codec::incremental_alter_configs_request::{
    self as incremental, IncrementalAlterConfigsRequest,
};
use ropewalk_codec::incremental_alter_configs_response::{
    self as incremental_response, IncrementalAlterConfigsResponse,
};
use ropewalk_shard::BrokerId;
use ropewalk_shard::command::ConfigResource;
use uuid::Uuid;

use super::create_topics::{check_configs, check_in_sync};
use super::describe_configs::{BROKER, GROUP, TOPIC};
use super::{Call, Close, Context, ErrorCode};
use crate::{limits, settings};

type ErrorMessage = (ErrorCode, String);
type Changes = Vec<(String, Option<String>)>;

/// Handles AlterConfigs requests.
pub(crate) async fn replace(
    ctx: &Arc<Context>,
    call: &Call,
    request: AlterConfigsRequest,
) -> Result<AlterConfigsResponse, Close> {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let (resource_type, resource_name) = (asked.resource_type, asked.resource_name.clone());
        let changes = resolve(ctx, resource_type, &resource_name).and_then(|resource| {
            let changes = replacement(ctx, &resource, asked)?;
            Ok((resource, changes))
        });
        let (error_code, error_message) =
            answer(call, alter(ctx, changes, request.validate_only).await);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type,
            resource_name,
        });
    }
    Ok(AlterConfigsResponse { responses, ..Default::default() })
}

/// Handles IncrementalAlterConfigs requests.
pub(crate) async fn change(
    ctx: &Arc<Context>,
    call: &Call,
    request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, Close> {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let (resource_type, resource_name) = (asked.resource_type, asked.resource_name.clone());
        let changes = resolve(ctx, resource_type, &resource_name).and_then(|resource| {
            let changes = single_changes(ctx, &resource, asked.configs)?;
            Ok((resource, changes))
        });
        let (error_code, error_message) =
            answer(call, alter(ctx, changes, request.validate_only).await);
        responses.push(incremental_response::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type,
            resource_name,
        });
    }
    Ok(IncrementalAlterConfigsResponse { responses, ..Default::default() })
}

fn answer(call: &Call, result: Result<(), ErrorMessage>) -> (i16, Option<Str>) {
    match result {
        Ok(()) => (ErrorCode::None.code(), None),
        Err((code, why)) => (call.refuse(code), Some(why.into())),
    }
}

async fn alter(
    ctx: &Context,
    changes: Result<(ConfigResource, Changes), ErrorMessage>,
    validate_only: bool,
) -> Result<(), ErrorMessage> {
    let (resource, changes) = changes?;
    check_configs(changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())))?;
    for (key, value) in &changes {
        validate(&resource, key, value.as_deref())?;
        if let (ConfigResource::Topic(_), Some(value)) = (&resource, value) {
            check_in_sync(ctx, key, value)?;
        }
    }
    check_tier(ctx, &resource, &changes)?;
    check_room(ctx, &resource)?;
    if validate_only || changes.is_empty() {
        return Ok(());
    }
    let altered = ctx.topics.alter_configs(resource, changes).await;
    altered.map_err(|error| ((&error).into(), error.to_string()))
}

/// Checks what the configuration of a topic says of its tier after the changes.
fn check_tier(
    ctx: &Context,
    resource: &ConfigResource,
    changes: &[(String, Option<String>)],
) -> Result<(), ErrorMessage> {
    let ConfigResource::Topic(id) = resource else { return Ok(()) };
    let Some(topic) = ctx.view.by_id(*id) else { return Ok(()) };
    let mut configs = current(ctx, resource);
    for (key, value) in changes {
        match value {
            Some(value) => configs.insert(key.clone(), value.clone()),
            None => configs.remove(key),
        };
    }
    let configs: Vec<(String, String)> = configs.into_iter().collect();
    let checked = ctx.topics.check_tier(&topic.name, &configs);
    checked.map_err(|error| ((&error).into(), error.to_string()))
}

/// Checks the bound on configured groups. A group need not exist to be configured.
fn check_room(ctx: &Context, resource: &ConfigResource) -> Result<(), ErrorMessage> {
    let ConfigResource::Group(_) = resource else { return Ok(()) };
    let state = ctx.node.catalog().state();
    let Some(catalog) = &state.catalog else { return Ok(()) };
    let is_group = |known: &&ConfigResource| matches!(known, ConfigResource::Group(_));
    let configured = catalog.configs.keys().filter(is_group).count();
    if !catalog.configs.contains_key(resource) && configured >= limits::CONFIGURED_GROUPS_MAX {
        let why = format!(
            "{configured} groups have configs of their own, at most {} are allowed; delete those of some groups",
            limits::CONFIGURED_GROUPS_MAX
        );
        return Err((ErrorCode::PolicyViolation, why));
    }
    Ok(())
}

fn resolve(ctx: &Context, kind: i8, name: &Str) -> Result<ConfigResource, ErrorMessage> {
    match kind {
        TOPIC => match ctx.topic(name, Uuid::nil()) {
            Ok(topic) => Ok(ConfigResource::Topic(topic.id)),
            Err(code) => Err((code, format!("there is no topic '{name}'"))),
        },
        BROKER if name.is_empty() => Ok(ConfigResource::Broker(None)),
        BROKER if **name == *ctx.broker_id.to_string() => {
            Ok(ConfigResource::Broker(Some(BrokerId(ctx.broker_id))))
        }
        BROKER => {
            let why = format!("there is no broker '{name}', only {}", ctx.broker_id);
            Err((ErrorCode::InvalidRequest, why))
        }
        GROUP if name.is_empty() => {
            Err((ErrorCode::InvalidRequest, "a group must have a name".into()))
        }
        GROUP if name.len() > limits::GROUP_ID_BYTES_MAX => {
            let (len, max) = (name.len(), limits::GROUP_ID_BYTES_MAX);
            let why = format!("the name of the group has {len} bytes, at most {max} are allowed");
            Err((ErrorCode::InvalidRequest, why))
        }
        GROUP => Ok(ConfigResource::Group(name.to_string())),
        kind => Err((
            ErrorCode::InvalidRequest,
            format!("resources of type {kind} cannot be configured"),
        )),
    }
}

fn validate(resource: &ConfigResource, key: &str, value: Option<&str>) -> Result<(), ErrorMessage> {
    let refuse = |why: String| (ErrorCode::InvalidConfig, why);
    let known = match resource {
        ConfigResource::Topic(_) => settings::topic::find(key).is_some(),
        ConfigResource::Broker(_) => settings::broker::find(key).is_some(),
        ConfigResource::Group(_) => settings::group::find(key).is_some(),
    };
    match value {
        // Clearing a key that exists is always possible.
        None if known => Ok(()),
        None => Err(refuse(format!("unknown config '{key}'"))),
        Some(value) => match resource {
            ConfigResource::Topic(_) => settings::topic::validate(key, value).map_err(refuse),
            ConfigResource::Broker(_) => {
                settings::validate_broker(key, value).map_err(|why| refuse(why.to_string()))
            }
            ConfigResource::Group(_) => {
                settings::validate_group(key, value).map_err(|why| refuse(why.to_string()))
            }
        },
    }
}

/// The current configuration of a resource, defaults excluded.
fn current(ctx: &Context, resource: &ConfigResource) -> BTreeMap<String, String> {
    let state = ctx.node.catalog().state();
    let set = state.catalog.as_ref().and_then(|catalog| catalog.configs.get(resource));
    set.cloned().unwrap_or_default()
}

/// The change from the current configuration to exactly the requested one.
fn replacement(
    ctx: &Context,
    resource: &ConfigResource,
    asked: AlterConfigsResource,
) -> Result<Changes, ErrorMessage> {
    let mut changes = Changes::new();
    let mut named = HashSet::new();
    for config in asked.configs {
        if !named.insert(config.name.clone()) {
            return Err(named_twice(&config.name));
        }
        changes.push((config.name.to_string(), Some(required(&config.name, config.value)?)));
    }
    let unnamed = current(ctx, resource).into_keys().filter(|key| !named.contains(key.as_str()));
    changes.extend(unnamed.map(|key| (key, None)));
    Ok(changes)
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn single_changes(
    ctx: &Context,
    resource: &ConfigResource,
    configs: Vec<incremental::AlterableConfig>,
) -> Result<Changes, ErrorMessage> {
    let mut named = HashSet::new();
    let mut changes = Changes::new();
    for config in configs {
        if !named.insert(config.name.clone()) {
            return Err(named_twice(&config.name));
        }
        let value = match config.config_operation {
            DELETE => None,
            SET => Some(required(&config.name, config.value)?),
            APPEND | SUBTRACT => {
                let item = required(&config.name, config.value)?;
                let list = list_now(ctx, resource, &config.name)?;
                Some(changed_list(list, &item, config.config_operation == APPEND))
            }
            operation => {
                let why = format!("operation {operation} on config '{}' is unknown", config.name);
                return Err((ErrorCode::InvalidRequest, why));
            }
        };
        changes.push((config.name.to_string(), value));
    }
    Ok(changes)
}

/// The current elements of a list key, whether set or default.
fn list_now(
    ctx: &Context,
    resource: &ConfigResource,
    name: &str,
) -> Result<Vec<String>, ErrorMessage> {
    let key = match resource {
        ConfigResource::Topic(_) => settings::topic::find(name),
        ConfigResource::Broker(_) => settings::broker::find(name),
        ConfigResource::Group(_) => settings::group::find(name),
    };
    let key = key.ok_or_else(|| (ErrorCode::InvalidConfig, format!("unknown config '{name}'")))?;
    if key.kind != settings::key::Kind::List {
        let why = format!("config '{name}' is not a list: append and subtract need one");
        return Err((ErrorCode::InvalidConfig, why));
    }
    let set = current(ctx, resource).remove(name).or_else(|| key.default.map(str::to_owned));
    let items = set.unwrap_or_default();
    Ok(items.split(',').map(str::trim).filter(|i| !i.is_empty()).map(str::to_owned).collect())
}

fn changed_list(mut list: Vec<String>, items: &str, append: bool) -> String {
    for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        list.retain(|present| present != item);
        if append {
            list.push(item.to_owned());
        }
    }
    list.join(",")
}

fn required(name: &Str, value: Option<Str>) -> Result<String, ErrorMessage> {
    let missing = || (ErrorCode::InvalidRequest, format!("config '{name}' has no value"));
    value.map(|value| value.to_string()).ok_or_else(missing)
}

fn named_twice(name: &Str) -> ErrorMessage {
    (ErrorCode::InvalidRequest, format!("config '{name}' is named more than once"))
}

#[cfg(test)]
mod tests {
    use super::changed_list;

    #[test]
    fn lists_grow_and_shrink_without_repeats() {
        let list = || vec!["delete".to_owned()];
        assert_eq!(changed_list(list(), "compact", true), "delete,compact");
        assert_eq!(changed_list(list(), "delete", true), "delete");
        assert_eq!(changed_list(list(), "delete", false), "");
        assert_eq!(changed_list(list(), "compact, delete", true), "compact,delete");
    }
}
