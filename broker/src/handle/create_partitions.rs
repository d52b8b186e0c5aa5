//! CreatePartitions: a topic only ever grows.

use std::collections::HashSet;
use std::sync::Arc;

use ropewalk_codec::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use ropewalk_codec::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use uuid::Uuid;

use super::create_topics::check_replicas;
use super::{Call, Close, Context, ErrorCode};

/// Answers the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Close> {
    let mut seen = HashSet::new();
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        let grown = if seen.insert(name.clone()) {
            grow(ctx, &topic, request.validate_only).await
        } else {
            Err((ErrorCode::InvalidRequest, format!("topic '{name}' is named twice")))
        };
        results.push(match grown {
            Ok(()) => CreatePartitionsTopicResult { name, ..Default::default() },
            Err((code, why)) => CreatePartitionsTopicResult {
                name,
                error_code: call.refuse(code),
                error_message: Some(why.into()),
            },
        });
    }
    Ok(CreatePartitionsResponse { results, ..Default::default() })
}

async fn grow(
    ctx: &Context,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    let view = ctx
        .topic(&topic.name, Uuid::nil())
        .map_err(|code| (code, format!("there is no topic '{}'", topic.name)))?;
    if let Some(assignments) = &topic.assignments {
        let more = usize::try_from(topic.count).unwrap_or(0).saturating_sub(view.partitions.len());
        if assignments.len() != more {
            let why = format!("{more} partitions are added, {} are assigned", assignments.len());
            return Err((ErrorCode::InvalidReplicaAssignment, why));
        }
        for assignment in assignments {
            check_replicas(ctx, &assignment.broker_ids)?;
        }
    }
    let grown = ctx.topics.grow(&view, topic.count, validate_only).await;
    grown.map_err(|error| ((&error).into(), error.to_string()))
}
