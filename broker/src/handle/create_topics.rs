//! CreateTopics: makes topics; answered once their partitions take records.
//!
//! The replication factor is the cluster's: 1, or "the default", or a manual assignment to just
//! this broker.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest,
};
use ropewalk_codec::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::{Created, NewTopic};
use crate::settings::describe;

/// What was wrong, for one topic.
type Refused = (ErrorCode, String);

/// Answers the request.
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
    let made = ctx.topics.create(new.clone(), request.validate_only).await;
    for ((at, new), made) in places.into_iter().zip(new).zip(made) {
        let name = topics[at].name.clone();
        topics[at] = match made {
            Ok(created) => done(ctx, name, &new, &created),
            Err(error) => failed(call, name, ((&error).into(), error.to_string())),
        };
    }
    Ok(CreateTopicsResponse { topics, ..Default::default() })
}

fn translate(ctx: &Context, topic: CreatableTopic) -> Result<NewTopic, Refused> {
    let partitions = if topic.assignments.is_empty() {
        check_replication(topic.replication_factor)?;
        (topic.num_partitions != -1).then_some(topic.num_partitions)
    } else {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = "with a manual assignment, num_partitions and replication_factor must be -1";
            return Err((ErrorCode::InvalidRequest, why.into()));
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
    Ok(NewTopic {
        name: topic.name.to_string(),
        partitions,
        configs: topic.configs.into_iter().map(config).collect::<Result<_, Refused>>()?,
        owner: None,
    })
}

fn check_replication(factor: i16) -> Result<(), Refused> {
    match factor {
        -1 | 1 => Ok(()),
        factor if factor < 1 => Err((
            ErrorCode::InvalidReplicationFactor,
            "replication factor must be larger than 0".into(),
        )),
        factor => Err((
            ErrorCode::InvalidReplicationFactor,
            format!("replication factor {factor} is larger than the number of brokers, 1"),
        )),
    }
}

/// The number of partitions, if every one is assigned to just this broker.
pub(super) fn check_assignments(
    ctx: &Context,
    assignments: &[CreatableReplicaAssignment],
) -> Result<i32, Refused> {
    let mut indexes: Vec<i32> = assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    if indexes.iter().zip(0_i32..).any(|(index, wanted)| *index != wanted) {
        let why = "the partitions of a manual assignment must be 0, 1, 2 … without a gap";
        return Err((ErrorCode::InvalidReplicaAssignment, why.into()));
    }
    for assignment in assignments {
        check_replicas(ctx, &assignment.broker_ids)?;
    }
    i32::try_from(assignments.len())
        .map_err(|_| (ErrorCode::InvalidPartitions, "too many partitions".into()))
}

/// Whether these replicas are what this cluster has: just this broker.
pub(super) fn check_replicas(ctx: &Context, broker_ids: &[i32]) -> Result<(), Refused> {
    if broker_ids == [ctx.broker_id] {
        return Ok(());
    }
    let why = format!(
        "replicas {broker_ids:?} are not possible: no shard has just this replica set; brokers are [{}]",
        ctx.broker_id
    );
    Err((ErrorCode::InvalidReplicaAssignment, why))
}

fn done(ctx: &Context, name: Str, new: &NewTopic, created: &Created) -> CreatableTopicResult {
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
        replication_factor: 1,
        configs: Some(configs.collect()),
        ..Default::default()
    }
}

fn failed(call: &Call, name: Str, (code, message): Refused) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: call.refuse(code),
        error_message: Some(message.into()),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}
