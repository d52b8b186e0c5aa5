//! DeleteTopics: by name, or since version 6 by id.

use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_codec::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use ropewalk_codec::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};

use super::{Call, Close, Context, ErrorCode};
use crate::catalog::TopicView;

/// Answers the request.
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
    if !found.is_empty() {
        let ids = found.iter().map(|(_, id)| *id).collect();
        let deleted = ctx.topics.delete(ids).await;
        for (n, (at, _)) in found.into_iter().enumerate() {
            let code = match &deleted {
                Ok(results) => results[n].as_ref().err().map(ErrorCode::from),
                Err(error) => Some((*error).into()),
            };
            responses[at].error_code = call.refuse(code.unwrap_or(ErrorCode::None));
        }
    }
    Ok(DeleteTopicsResponse { responses, ..Default::default() })
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
