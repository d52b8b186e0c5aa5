//! CreatePartitions: adds partitions to a topic; a topic never loses any.

use std::collections::HashSet;
use std::sync::Arc;

use ropewalk_codec::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use ropewalk_codec::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use uuid::Uuid;

use super::create_topics::{ChangeOptions, check_replicas};
use super::{Call, Close, Context, ErrorCode, deadline};

/// Handles the request.
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
            let (validate_only, timeout_ms) = (request.validate_only, request.timeout_ms);
            grow(ctx, call, &topic, ChangeOptions { validate_only, timeout_ms }).await
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
    ctx: &Arc<Context>,
    call: &Call,
    topic: &CreatePartitionsTopic,
    options: ChangeOptions,
) -> Result<(), (ErrorCode, String)> {
    let ChangeOptions { validate_only, timeout_ms } = options;
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
    let grown = {
        let (ctx, count) = (Arc::clone(ctx), topic.count);
        let grow = async move { ctx.topics.grow(&view, count, validate_only).await };
        deadline::within(timeout_ms, call.counted(grow)).await
    };
    match grown {
        Ok(grown) => grown.map_err(|error| ((&error).into(), error.to_string())),
        Err(late) => Err((late.into(), late.to_string())),
    }
}
