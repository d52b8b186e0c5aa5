//! DescribeConfigs: every key of a topic, a broker or a group, with the source of its value.

use std::collections::HashSet;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use ropewalk_codec::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use ropewalk_shard::command::ConfigResource;
use uuid::Uuid;

use super::{Call, Close, Context, ErrorCode};
use crate::settings::describe::{self, Row, SettingValue, Source};

/// Kafka's numbers of resource types.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Close> {
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    let describe = |resource: DescribeConfigsResource| {
        let mut result = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match rows(ctx, &resource) {
            Ok(rows) => {
                let wanted: Option<HashSet<Str>> =
                    resource.configuration_keys.map(|keys| keys.into_iter().collect());
                let rows = rows.into_iter();
                let rows = rows.filter(|row| wanted.as_ref().is_none_or(|w| w.contains(row.name)));
                result.configs = rows.map(|row| config(row, synonyms, documentation)).collect();
            }
            Err((code, why)) => {
                result.error_code = call.refuse(code);
                result.error_message = Some(why.into());
            }
        }
        result
    };
    let results = request.resources.into_iter().map(describe).collect();
    Ok(DescribeConfigsResponse { results, ..Default::default() })
}

fn rows(
    ctx: &Context,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Row>, (ErrorCode, String)> {
    let name = &resource.resource_name;
    match resource.resource_type {
        TOPIC => {
            crate::catalog::name::check(name)
                .map_err(|why| (ErrorCode::InvalidTopicException, why))?;
            let topic = ctx
                .topic(name, Uuid::nil())
                .map_err(|code| (code, format!("there is no topic '{name}'")))?;
            let catalog = ctx.node.catalog().state();
            let resource = ConfigResource::Topic(topic.id);
            let overrides: Vec<(String, String)> = catalog
                .catalog
                .iter()
                .flat_map(|catalog| catalog.configs(&resource))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            drop(catalog);
            Ok(describe::topic(&ctx.settings, &overrides))
        }
        BROKER if name.is_empty() => Ok(describe::all_brokers(&ctx.settings)),
        BROKER if **name == *ctx.broker_id.to_string() => {
            Ok(with_advertised(ctx, describe::broker(&ctx.settings)))
        }
        BROKER => {
            let why = format!("there is no broker '{name}', only {}", ctx.broker_id);
            Err((ErrorCode::InvalidRequest, why))
        }
        GROUP => Ok(describe::group(&ctx.settings, name)),
        CLIENT_METRICS => Ok(Vec::new()),
        kind => Err((
            ErrorCode::InvalidRequest,
            format!("resources of type {kind} have no configuration"),
        )),
    }
}

/// Adds the advertised listeners. They have a value even if no setting names them (derived from the
/// listeners), and Kafka shows that value as set.
fn with_advertised(ctx: &Context, mut rows: Vec<Row>) -> Vec<Row> {
    let mut listeners: Vec<String> = ctx
        .cluster
        .own()
        .endpoints
        .iter()
        .map(|(name, (host, port))| format!("{name}://{host}:{port}"))
        .collect();
    listeners.sort_unstable();
    let is_unset = |row: &&mut Row| row.name == "advertised.listeners" && row.value.is_none();
    for row in rows.iter_mut().filter(is_unset) {
        let value = Some(listeners.join(","));
        row.value.clone_from(&value);
        row.source = Source::File;
        row.synonyms = vec![SettingValue { name: row.name, value, source: Source::File }];
    }
    rows
}

fn config(row: Row, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let synonym = |found: SettingValue| DescribeConfigsSynonym {
        name: found.name.into(),
        value: found.value.filter(|_| !row.sensitive).map(Str::from),
        source: found.source.code(),
    };
    DescribeConfigsResourceResult {
        name: row.name.into(),
        value: row.value.filter(|_| !row.sensitive).map(Str::from),
        read_only: row.read_only,
        config_source: row.source.code(),
        is_sensitive: row.sensitive,
        synonyms: if synonyms { row.synonyms.into_iter().map(synonym).collect() } else { vec![] },
        config_type: row.kind.code(),
        documentation: documentation.then(|| Str::from(row.doc)),
    }
}
