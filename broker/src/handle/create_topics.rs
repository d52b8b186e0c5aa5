//! CreateTopics: creates topics; answered once their partitions accept records.
//!
//! Replicas belong to shards, so the replication factor is the cluster's. A smaller one is accepted
//! and gets the cluster's as well, -1 is the default. A manual assignment is accepted if every
//! shard has just these replicas. Any broker creates topics: the catalog's leader is asked from
//! here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest,
};
use ropewalk_codec::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use ropewalk_shard::ShardId;

use super::{Call, Close, Context, ErrorCode, deadline};
use crate::catalog::{CreatedTopic, NewTopic, TopicError, name};
use crate::limits;
use crate::settings::describe;

/// The error code and message for one topic.
type ErrorMessage = (ErrorCode, String);

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, Close> {
    let mut named: HashMap<Str, usize> = HashMap::new();
    for topic in &request.topics {
        *named.entry(topic.name.clone()).or_default() += 1;
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut wanted = Vec::new();
    for topic in request.topics {
        let name = topic.name.clone();
        let checked = if named[&name] > 1 {
            let why = format!("topic '{name}' is named more than once in the request");
            Err((ErrorCode::InvalidRequest, why))
        } else {
            translate(ctx, topic)
        };
        topics.push(match checked {
            Ok(new) => {
                wanted.push((topics.len(), new));
                CreatableTopicResult { name, ..Default::default() }
            }
            Err(refused) => failed(call, name, refused),
        });
    }
    let (places, new): (Vec<usize>, Vec<NewTopic>) = wanted.into_iter().unzip();
    let options =
        ChangeOptions { validate_only: request.validate_only, timeout_ms: request.timeout_ms };
    let made = create(ctx, call, new.clone(), options).await;
    for ((at, new), made) in places.into_iter().zip(new).zip(made) {
        let name = topics[at].name.clone();
        topics[at] = match made {
            Ok(created) => done(ctx, name, &new, &created),
            Err((code, why)) => {
                if code == ErrorCode::InvalidTopicException {
                    ctx.log_refusal(call, &format!("topic {name}"), &why);
                }
                failed(call, name, (code, why))
            }
        };
    }
    Ok(CreateTopicsResponse { topics, ..Default::default() })
}

/// How a change of topics is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChangeOptions {
    pub(super) validate_only: bool,
    /// Time limit of the client, milliseconds.
    pub(super) timeout_ms: i32,
}

/// Creates the topics in chunks that are one catalog entry each. A topic whose outcome is not known
/// at the client's timeout may still be created.
async fn create(
    ctx: &Arc<Context>,
    call: &Call,
    wanted: Vec<NewTopic>,
    options: ChangeOptions,
) -> Vec<Result<CreatedTopic, ErrorMessage>> {
    let ChangeOptions { validate_only, timeout_ms } = options;
    let count = wanted.len();
    let made = {
        let ctx = Arc::clone(ctx);
        let all = async move {
            let mut made = Vec::with_capacity(wanted.len());
            for entry in entries(wanted) {
                made.extend(ctx.topics.create(entry, validate_only).await);
            }
            made
        };
        deadline::within(timeout_ms, call.counted(all)).await
    };
    match made {
        Ok(made) => {
            let refused = |error: TopicError| ((&error).into(), error.to_string());
            made.into_iter().map(|made| made.map_err(refused)).collect()
        }
        Err(late) => vec![Err((late.into(), late.to_string())); count],
    }
}

fn entries(wanted: Vec<NewTopic>) -> Vec<Vec<NewTopic>> {
    let mut entries: Vec<Vec<NewTopic>> = Vec::new();
    let mut size_bytes = limits::CONFIGS_BYTES_MAX;
    for topic in wanted {
        let configs = topic.configs.iter().map(|(key, value)| key.len() + value.len());
        let topic_bytes = configs.sum::<usize>() + name::NAME_LEN_MAX;
        size_bytes += topic_bytes;
        match entries.last_mut().filter(|_| size_bytes <= limits::CONFIGS_BYTES_MAX) {
            Some(entry) => entry.push(topic),
            None => {
                size_bytes = topic_bytes;
                entries.push(vec![topic]);
            }
        }
    }
    entries
}

fn translate(ctx: &Context, topic: CreatableTopic) -> Result<NewTopic, ErrorMessage> {
    let partitions = if topic.assignments.is_empty() {
        check_replication(ctx, topic.replication_factor)?;
        (topic.num_partitions != -1).then_some(topic.num_partitions)
    } else {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = format!(
                "with a manual assignment, num_partitions and replication_factor must be -1; they are {} \
                 and {}",
                topic.num_partitions, topic.replication_factor
            );
            return Err((ErrorCode::InvalidRequest, why));
        }
        Some(check_assignments(ctx, &topic.assignments)?)
    };
    let config = |config: ropewalk_codec::create_topics_request::CreatableTopicConfig| {
        let value = config.value.ok_or_else(|| {
            let why = format!("config '{}' has no value", config.name);
            (ErrorCode::InvalidConfig, why)
        })?;
        Ok((config.name.to_string(), value.to_string()))
    };
    // As in Kafka, the last value of a repeated key applies.
    let configs: BTreeMap<_, _> =
        topic.configs.into_iter().map(config).collect::<Result<_, ErrorMessage>>()?;
    let configs: Vec<_> = configs.into_iter().collect();
    check_configs(configs.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))))?;
    configs.iter().try_for_each(|(key, value)| check_in_sync(ctx, key, value))?;
    Ok(NewTopic { name: topic.name.to_string(), partitions, configs, owner: None })
}

/// Checks the total size of the configuration of one resource. Each value is checked with its key.
pub(super) fn check_configs<'a>(
    configs: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<(), ErrorMessage> {
    let mut size_bytes = 0;
    for (key, value) in configs {
        size_bytes += key.len() + value.map_or(0, str::len);
    }
    if size_bytes > limits::CONFIGS_BYTES_MAX {
        let why = format!(
            "the configs of one resource have {size_bytes} bytes together, at most {} are allowed in \
             one request",
            limits::CONFIGS_BYTES_MAX
        );
        return Err((ErrorCode::InvalidConfig, why));
    }
    Ok(())
}

/// Refuses a value that is not possible here; see
/// [`Topics::check_in_sync`](crate::catalog::Topics::check_in_sync).
pub(super) fn check_in_sync(ctx: &Context, key: &str, value: &str) -> Result<(), ErrorMessage> {
    let refused = |error: TopicError| ((&error).into(), error.to_string());
    ctx.topics.check_in_sync(key, value).map_err(refused)
}

fn check_replication(ctx: &Context, factor: i16) -> Result<(), ErrorMessage> {
    if matches!(factor, -1 | 1) {
        return Ok(());
    }
    let code = ErrorCode::InvalidReplicationFactor;
    if factor < 1 {
        let why =
            format!("replication factor is {factor}, must be larger than 0, or -1 for the default");
        return Err((code, why));
    }
    let (brokers, in_use) = (ctx.cluster.brokers().len(), ctx.replication_factor());
    if usize::try_from(factor).is_ok_and(|factor| factor > brokers) {
        let why =
            format!("replication factor {factor} is larger than the number of brokers, {brokers}");
        return Err((code, why));
    }
    if factor > in_use {
        let why = format!(
            "replication factor {factor} is larger than that of the cluster: {brokers} brokers keep \
             {in_use} replicas of each partition"
        );
        return Err((code, why));
    }
    Ok(())
}

/// The number of partitions, if every one is assigned to the replicas that each shard has.
pub(super) fn check_assignments(
    ctx: &Context,
    assignments: &[CreatableReplicaAssignment],
) -> Result<i32, ErrorMessage> {
    let mut indexes: Vec<i32> = assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    let gap = indexes.iter().zip(0_i32..).find(|(index, wanted)| *index != wanted);
    if let Some((index, wanted)) = gap {
        let why = format!(
            "the partitions of a manual assignment must be 0, 1, 2 … without a gap; {index} is where \
             {wanted} should be"
        );
        return Err((ErrorCode::InvalidReplicaAssignment, why));
    }
    for assignment in assignments {
        check_replicas(ctx, &assignment.broker_ids)?;
    }
    i32::try_from(assignments.len()).map_err(|_| {
        (ErrorCode::InvalidPartitions, "a topic has at most 2147483647 partitions".into())
    })
}

/// Whether every shard has just these replicas. The shard of a new partition is not the client's to
/// choose.
pub(super) fn check_replicas(ctx: &Context, broker_ids: &[i32]) -> Result<(), ErrorMessage> {
    let shards = ctx.topics.data_shards();
    if !shards.is_empty() && shards.iter().all(|shard| has_replicas(ctx, *shard, broker_ids)) {
        return Ok(());
    }
    let brokers: Vec<i32> = ctx.cluster.brokers().iter().map(|broker| broker.id.0).collect();
    let why = format!(
        "replicas {broker_ids:?} are not possible: not every shard has just this replica set; brokers \
         are {brokers:?}"
    );
    Err((ErrorCode::InvalidReplicaAssignment, why))
}

/// Whether a shard has just these replicas, in any order.
pub(super) fn has_replicas(ctx: &Context, shard: ShardId, broker_ids: &[i32]) -> bool {
    let mut replicas = ctx.replicas(shard);
    let mut asked = broker_ids.to_vec();
    replicas.sort_unstable();
    asked.sort_unstable();
    replicas == asked
}

fn done(ctx: &Context, name: Str, new: &NewTopic, created: &CreatedTopic) -> CreatableTopicResult {
    let configs = describe::topic(&ctx.settings, &new.configs);
    let configs = configs.into_iter().map(|row| CreatableTopicConfigs {
        name: row.name.into(),
        value: row.value.map(Str::from),
        read_only: row.read_only,
        config_source: row.source.code(),
        is_sensitive: row.sensitive,
    });
    CreatableTopicResult {
        name,
        topic_id: created.id.0,
        num_partitions: created.partitions,
        replication_factor: ctx.replication_factor(),
        configs: Some(configs.collect()),
        ..Default::default()
    }
}

fn failed(call: &Call, name: Str, (code, message): ErrorMessage) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: call.refuse(code),
        error_message: Some(message.into()),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}
