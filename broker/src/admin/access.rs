//! Access control of the admin server: metrics and reports are open, everything else needs the
//! token, or, where no token is set, a caller on the same machine.
//!
//! It is a layer in front of the routes under `/v1/`.
//!
//! # Invariants
//!
//! - A path under `/v1/` is protected unless it is listed as open here: a new one begins protected.
//! - A token file that cannot be read rejects every caller.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;
use tokio::io::AsyncReadExt as _;

use super::Admin;
use super::connection_limit::{ConnectionLimit, ConnectionState};
use super::refusal::AdminError;
use crate::limits;

/// The header with the epoch that an operator acts under.
pub(super) const EPOCH: &str = "ropewalk-epoch";

/// JSON readers disagree about numbers above this; a real epoch is far below.
const EPOCH_MAX: u64 = (1 << 53) - 1;

/// The caller's address and connection.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    connection: Arc<ConnectionState>,
}

impl Connected<IncomingStream<'_, ConnectionLimit>> for Caller {
    fn connect_info(stream: IncomingStream<'_, ConnectionLimit>) -> Self {
        Self { address: *stream.remote_addr(), connection: Arc::clone(stream.io().connection()) }
    }
}

/// The layer that checks every request.
pub(super) async fn guard(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    if is_guarded(request.method(), request.uri().path()) {
        let token = match &admin.token_file {
            Some(path) => match read_token(path).await {
                Ok(token) => Some(token),
                Err(refused) => return refused.into_response(),
            },
            None => None,
        };
        if let Err(refused) = check(token.as_deref(), caller.address.ip(), request.headers()) {
            return refused.into_response();
        }
        caller.connection.trust();
    }
    next.run(request).await
}

fn is_guarded(method: &Method, path: &str) -> bool {
    let is_looking = matches!(*method, Method::GET | Method::HEAD);
    let is_free = matches!(path, "/v1/broker" | "/v1/cluster" | "/v1/queues")
        || path.starts_with("/v1/queues/")
        || path.starts_with("/v1/cluster/brokers/");
    path.starts_with("/v1/") && !(is_looking && is_free)
}

/// Checks the token. `token` is the configured one, if any.
fn check(token: Option<&str>, caller: IpAddr, headers: &HeaderMap) -> Result<(), AdminError> {
    let Some(token) = token else {
        if caller.to_canonical().is_loopback() {
            return Ok(());
        }
        let why = "no token is set (admin.token.file), so this call is accepted only from the broker's own machine";
        return Err(AdminError::new(StatusCode::FORBIDDEN, "NoToken", why));
    };
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer "));
    if sent.is_some_and(|sent| is_same(sent.trim().as_bytes(), token.as_bytes())) {
        return Ok(());
    }
    let why = "this call needs the header 'Authorization: Bearer TOKEN' with the cluster's token";
    Err(AdminError::new(StatusCode::UNAUTHORIZED, "Unauthorized", why))
}

/// Compares every byte, so that the time does not depend on the position of the first difference.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0 && a.len() == b.len()
}

/// Reads the token file for every protected call: calls are rare, and a replaced token takes effect
/// at once.
async fn read_token(path: &PathBuf) -> Result<String, AdminError> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(limits::TOKEN_BYTES_MAX).read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let refuse = |why: String| {
        let why = format!("admin.token.file {}: {why}", path.display());
        AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "TokenUnreadable", why)
    };
    let text = read.await.map_err(|error| refuse(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() { Err(refuse("it is empty".into())) } else { Ok(token.to_owned()) }
}

/// The epoch of a changing call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch(pub(super) u64);

impl<S: Send + Sync> FromRequestParts<S> for Epoch {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        let Some(sent) = parts.headers.get(EPOCH) else {
            let why = "a call with changes needs the header 'Ropewalk-Epoch: N' with the epoch that POST \
                       /v1/fence answered";
            return Err(AdminError::bad("EpochMissing", why));
        };
        let text = String::from_utf8_lossy(sent.as_bytes());
        let epoch = text.trim().parse().ok().filter(|epoch| *epoch <= EPOCH_MAX);
        epoch.map(Self).ok_or_else(|| {
            let why = format!(
                "the header 'Ropewalk-Epoch: {text}' is not a number from 0 to {EPOCH_MAX}: send the epoch that \
                 POST /v1/fence answered"
            );
            AdminError::bad("InvalidEpoch", why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_sent(
        token: Option<&str>,
        caller: &str,
        sent: Option<&str>,
    ) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(header::AUTHORIZATION, sent.parse().expect("a header"));
        }
        check(token, caller.parse().expect("an address"), &headers).map_err(|r| r.reason)
    }

    #[test]
    fn without_a_token_only_this_machine_may() {
        for near in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(check_sent(None, near, None), Ok(()), "{near}");
        }
        for far in ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1"] {
            assert_eq!(check_sent(None, far, Some("Bearer x")), Err("NoToken"), "{far}");
        }
    }

    #[test]
    fn with_a_token_everybody_needs_it_also_on_this_machine() {
        assert_eq!(check_sent(Some("s3cret"), "10.0.0.1", Some("Bearer s3cret")), Ok(()));
        for sent in
            [None, Some("s3cret"), Some("Bearer s3cre"), Some("Bearer s3crett"), Some("Bearer ")]
        {
            assert_eq!(
                check_sent(Some("s3cret"), "127.0.0.1", sent),
                Err("Unauthorized"),
                "{sent:?}"
            );
        }
    }

    #[test]
    fn looking_is_free_and_all_else_is_guarded() {
        for path in
            ["/v1/queues", "/v1/queues/orders", "/v1/broker", "/v1/cluster", "/live", "/metrics"]
        {
            assert!(!is_guarded(&Method::GET, path), "{path}");
        }
        assert!(!is_guarded(&Method::GET, "/v1/cluster/brokers/2"));
        for (method, path) in [
            (Method::GET, "/v1/signals"),
            (Method::PUT, "/v1/queues/orders"),
            (Method::DELETE, "/v1/queues/orders/groups/g"),
            (Method::POST, "/v1/fence"),
            (Method::POST, "/v1/cluster/brokers"),
            (Method::POST, "/v1/cluster/brokers/2/drain"),
            (Method::DELETE, "/v1/cluster/brokers/2"),
            (Method::PUT, "/v1/settings"),
            (Method::GET, "/v1/whatever-comes"),
        ] {
            assert!(is_guarded(&method, path), "{method} {path}");
        }
    }
}
