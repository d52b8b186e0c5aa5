//! ApiVersions (key 18): the served APIs with their versions.
//!
//! It is the first request of nearly every client, sent before the client knows the broker's
//! versions. An unknown version is therefore answered in version 0 with the version range of
//! ApiVersions only (KIP-511), and the client sends the request again in a common version.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::ready;
use ropewalk_codec::api_versions_request::ApiVersionsRequest;
use ropewalk_codec::api_versions_response::{ApiVersion, ApiVersionsResponse};
use ropewalk_codec::{ApiKey, Str};

use crate::handle::{Answer, Call, Close, Context, ErrorCode, ROUTES, Route};
use crate::listen::{Lane, Request, Turn};

/// No finalized feature is advertised, because no client that is served here needs one. Their epoch
/// stays at its "unknown" value.
pub(super) async fn handle(
    _ctx: &Arc<Context>,
    call: &Call,
    request: ApiVersionsRequest,
) -> Result<ApiVersionsResponse, Close> {
    let named = [&request.client_software_name, &request.client_software_version];
    if call.version >= 3 && !named.into_iter().all(is_software_name) {
        let error_code = call.refuse(ErrorCode::InvalidRequest);
        return Ok(ApiVersionsResponse { error_code, ..ApiVersionsResponse::default() });
    }
    let api_keys = ROUTES.iter().map(row).collect();
    Ok(ApiVersionsResponse { api_keys, ..ApiVersionsResponse::default() })
}

/// The response to an unknown version.
pub(super) fn answer_unknown_version(call: Call) -> Request {
    let itself = ROUTES.iter().filter(|route| route.key == ApiKey::ApiVersions);
    let response = ApiVersionsResponse {
        error_code: call.refuse(ErrorCode::UnsupportedVersion),
        api_keys: itself.map(row).collect(),
        ..ApiVersionsResponse::default()
    };
    let answer = async move { call.reply_in(0, &response) };
    let begin = ready(Ok(Box::pin(answer) as Answer)).boxed();
    Request { turn: Turn::Alone, lane: Lane::Small, begin }
}

fn row(route: &Route) -> ApiVersion {
    ApiVersion {
        api_key: route.key.as_i16(),
        min_version: *route.advertised.start(),
        max_version: *route.advertised.end(),
    }
}

/// Kafka's rule: letters and digits, inside also dots and dashes.
fn is_software_name(name: &Str) -> bool {
    let is_edge = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|byte| is_edge(byte) || matches!(byte, b'.' | b'-'))
}
