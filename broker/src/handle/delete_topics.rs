//! DeleteTopics: by name, or since version 6 by id.

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use ropewalk_codec::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use ropewalk_shard::TopicId;

use super::{Call, Close, Context, ErrorCode, deadline};
use crate::catalog::{TopicError, TopicView};
use crate::limits;

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: DeleteTopicsRequest,
) -> Result<DeleteTopicsResponse, Close> {
    let by_name = |name: Str| DeleteTopicState { name: Some(name), ..Default::default() };
    let asked = request.topic_names.into_iter().map(by_name).chain(request.topics);
    let mut responses = Vec::new();
    let mut found = Vec::new();
    for topic in asked {
        let id = topic.topic_id;
        let (answer, view) = match look_up(ctx, &topic) {
            Ok(view) => {
                let name = Some(Str::from(&*view.name));
                let answer =
                    DeletableTopicResult { name, topic_id: view.id.0, ..Default::default() };
                (answer, Some(view))
            }
            Err((code, why)) => {
                let answer = DeletableTopicResult {
                    name: topic.name,
                    topic_id: id,
                    error_code: call.refuse(code),
                    error_message: Some(why.into()),
                };
                (answer, None)
            }
        };
        if let Some(view) = view {
            found.push((responses.len(), view.id));
        }
        responses.push(answer);
    }
    let mut named: HashMap<TopicId, usize> = HashMap::new();
    for (_, id) in &found {
        *named.entry(*id).or_default() += 1;
    }
    found.retain(|(at, id)| {
        let is_named_once = named[id] == 1;
        if !is_named_once {
            let why = "the topic is named more than once in the request";
            responses[*at].error_code = call.refuse(ErrorCode::InvalidRequest);
            responses[*at].error_message = Some(why.into());
        }
        is_named_once
    });
    for found in found.chunks(limits::ENTRY_PARTITIONS_MAX) {
        delete(ctx, call, found, request.timeout_ms, &mut responses).await;
    }
    Ok(DeleteTopicsResponse { responses, ..Default::default() })
}

/// Deletes the topics, and writes each result to its place in the response.
async fn delete(
    ctx: &Arc<Context>,
    call: &Call,
    found: &[(usize, TopicId)],
    timeout_ms: i32,
    responses: &mut [DeletableTopicResult],
) {
    let ids: Vec<TopicId> = found.iter().map(|(_, id)| *id).collect();
    let deleted = {
        let ctx = Arc::clone(ctx);
        let delete = call.counted(async move { ctx.topics.delete(ids).await });
        deadline::within(timeout_ms, delete).await
    };
    for (n, (at, _)) in found.iter().enumerate() {
        let refused: Option<(ErrorCode, String)> = match &deleted {
            Ok(Ok(results)) => results[n].as_ref().err().map(|why| (why.into(), why.to_string())),
            Ok(Err(error)) => {
                let error = TopicError::from(*error);
                Some(((&error).into(), error.to_string()))
            }
            Err(late) => Some(((*late).into(), late.to_string())),
        };
        if let Some((code, why)) = refused {
            responses[*at].error_code = call.refuse(code);
            responses[*at].error_message = Some(why.into());
        }
    }
}

fn look_up(ctx: &Context, topic: &DeleteTopicState) -> Result<Arc<TopicView>, (ErrorCode, String)> {
    if !ctx.settings.delete_topics() {
        let why = "deleting topics is switched off by delete.topic.enable";
        return Err((ErrorCode::TopicDeletionDisabled, why.into()));
    }
    match &topic.name {
        Some(_) if !topic.topic_id.is_nil() => Err((
            ErrorCode::InvalidRequest,
            "a topic is named by name or by id, not by both".into(),
        )),
        None if topic.topic_id.is_nil() => {
            Err((ErrorCode::InvalidRequest, "neither a name nor an id".into()))
        }
        name => {
            let name = name.clone().unwrap_or_default();
            ctx.topic(&name, topic.topic_id).map_err(|code| {
                let what =
                    if name.is_empty() { topic.topic_id.to_string() } else { name.to_string() };
                (code, format!("there is no topic '{what}'"))
            })
        }
    }
}
