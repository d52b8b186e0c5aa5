//! HTTP requests to brokers, bounded in time and size.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Time-out of a request with its answer.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Time-out of opening a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Maximum length of an answer: the metrics of 100,000 queues fit.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Maximum length of a line of a stream: a group of 10,000 partitions fits.
const LINE_BYTES_MAX: usize = 8 << 20;
/// A stream that is silent for this long is closed. A tick comes every second, less often from a
/// broker that is short of CPU; its signals count as unknown before that.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const _: () = assert!(SILENCE_MAX.as_secs() > crate::signals::SILENCE_MAX.as_secs());

/// HTTP methods of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads a resource of the broker.
    Get,
    /// Declares a queue, a group binding, or settings.
    Put,
    /// Claims an epoch for the leader.
    Post,
    /// Deletes a queue or a group binding.
    Delete,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No complete answer in time.
    #[error("{0}")]
    Unreachable(String),
    /// The answer has a status other than 2xx.
    #[error("status {0}")]
    Status(u16, Value),
    /// The answer could not be decoded.
    #[error("{0}")]
    Malformed(String),
}

/// HTTP client with a connection pool.
#[derive(Debug)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIME_MAX));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .build(connector);
        Self(client)
    }
}

impl Http {
    /// Sends a request and waits for the complete answer.
    ///
    /// # Errors
    ///
    /// [`HttpError`] if there is no answer with status 2xx and a JSON body.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: Option<&Value>,
    ) -> Result<Value, HttpError> {
        let answer = async {
            let response = self.begin(method, url, headers, body).await?;
            let status = response.status().as_u16();
            let limited = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let collected = limited.collect().await;
            let bytes = collected.map_err(|error| HttpError::Unreachable(error.to_string()))?;
            Ok((status, bytes.to_bytes()))
        };
        let late = |_| HttpError::Unreachable(format!("no answer within {} s", TIME_MAX.as_secs()));
        let (status, bytes) = tokio::time::timeout(TIME_MAX, answer).await.map_err(late)??;
        let value = serde_json::from_slice::<Value>(&bytes);
        match (status, value) {
            (200..=299, Ok(value)) => Ok(value),
            (200..=299, Err(error)) => Err(HttpError::Malformed(error.to_string())),
            (status, value) => Err(HttpError::Status(status, value.unwrap_or_default())),
        }
    }

    /// Opens a stream of lines.
    ///
    /// # Errors
    ///
    /// [`HttpError`] if there is no answer with status 200 in time.
    pub async fn stream(&self, url: &str, token: &str) -> Result<Lines, HttpError> {
        let headers = [("authorization", format!("Bearer {token}"))];
        let begun = self.begin(Method::Get, url, &headers, None);
        let late = |_| HttpError::Unreachable(format!("no answer within {} s", TIME_MAX.as_secs()));
        let response = tokio::time::timeout(TIME_MAX, begun).await.map_err(late)??;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(HttpError::Status(status, Value::Null));
        }
        Ok(Lines { body: response.into_body(), held: BytesMut::new(), scanned: 0 })
    }

    async fn begin(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, HttpError> {
        let method = match method {
            Method::Get => hyper::Method::GET,
            Method::Put => hyper::Method::PUT,
            Method::Post => hyper::Method::POST,
            Method::Delete => hyper::Method::DELETE,
        };
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes));
        let request = request.map_err(|error| HttpError::Malformed(error.to_string()))?;
        self.0.request(request).await.map_err(|error| HttpError::Unreachable(reason(&error)))
    }
}

/// The whole chain of causes: hyper's outermost error only says that the client failed.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Reads a stream line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    held: BytesMut,
    /// Length of the prefix of `held` that was searched for a line end already.
    scanned: usize,
}

impl Lines {
    /// The next line, without its line end; `None` when the stream has ended.
    ///
    /// # Errors
    ///
    /// When the connection broke, a line is too long, or the stream was silent for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let fresh = &self.held[self.scanned..];
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.scanned + end).freeze();
                self.held.advance(1);
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.held.len();
            if self.held.len() > LINE_BYTES_MAX {
                return Err(HttpError::Malformed(
                    "a line of the stream is longer than 8 MiB".to_owned(),
                ));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let silent = |_| HttpError::Unreachable("the stream was silent for 15 s".to_owned());
            match frame.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Unreachable(reason(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
