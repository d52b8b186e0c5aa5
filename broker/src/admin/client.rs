//! A client of the admin HTTP API of another broker: for a broker that joins, and for commands.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::access::EPOCH;
use crate::settings::Endpoint;

/// Longest time of a call. It is above the bound of the server, which then says more.
const TIME_MAX: Duration = Duration::from_secs(15);

/// Longest body of an answer, bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection, or it has ended.
    #[error("{address}: {error}")]
    Connection {
        /// The address that was called.
        address: Endpoint,
        /// Why it failed.
        error: io::Error,
    },
    /// The answer did not come in time.
    #[error("{address} did not answer within {} s", TIME_MAX.as_secs())]
    Timeout {
        /// The address that was called.
        address: Endpoint,
    },
    /// The answer is no JSON, or too long.
    #[error("{address} did not answer as an admin server: {error}")]
    Answer {
        /// The address that was called.
        address: Endpoint,
        /// What is wrong with the answer.
        error: String,
    },
}

/// An answer: its status and its JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON of the body.
    pub body: Value,
}

impl Answer {
    /// The sentence of a refusal, or the whole answer if it has none.
    #[must_use]
    pub fn error(&self) -> String {
        match self.body["error"].as_str() {
            Some(error) => error.to_owned(),
            None => format!("status {}: {}", self.status, self.body),
        }
    }
}

/// The admin server of one broker.
#[derive(Debug, Clone)]
pub struct Client {
    address: Endpoint,
    token: Option<String>,
    epoch: Option<u64>,
}

impl Client {
    /// A client with the token of the cluster, if it has one.
    #[must_use]
    pub fn new(address: Endpoint, token: Option<String>) -> Self {
        Self { address, token, epoch: None }
    }

    /// The same client with a fencing epoch, which calls that change something need.
    #[must_use]
    pub fn under(self, epoch: u64) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    /// Calls a path with GET.
    ///
    /// # Errors
    /// When there is no answer. A refusal is an answer.
    pub async fn get(&self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::GET, path, Body::empty()).await
    }

    /// Calls a path with POST and a JSON body.
    ///
    /// # Errors
    /// When there is no answer. A refusal is an answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, CallError> {
        self.call(Method::POST, path, Body::from(body.to_string())).await
    }

    /// Calls a path with DELETE.
    ///
    /// # Errors
    /// When there is no answer. A refusal is an answer.
    pub async fn delete(&self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::DELETE, path, Body::empty()).await
    }

    async fn call(&self, method: Method, path: &str, body: Body) -> Result<Answer, CallError> {
        let call = self.exchange(method, path, body);
        let timeout = |_| CallError::Timeout { address: self.address.clone() };
        tokio::time::timeout(TIME_MAX, call).await.map_err(timeout)?
    }

    async fn exchange(&self, method: Method, path: &str, body: Body) -> Result<Answer, CallError> {
        let lost = |error| CallError::Connection { address: self.address.clone(), error };
        let broken = |error: hyper::Error| lost(io::Error::other(error));
        let host = if self.address.host.is_empty() { "localhost" } else { &self.address.host };
        let stream = TcpStream::connect((host, self.address.port)).await.map_err(lost)?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(epoch) = self.epoch {
            request = request.header(EPOCH, epoch);
        }
        let wrong = |error: String| CallError::Answer { address: self.address.clone(), error };
        let request = request.body(body).map_err(|error| wrong(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| wrong(error.to_string()))?.to_bytes()))
        };
        let mut exchange = pin!(exchange);
        let (status, body) = tokio::select! {
            biased;
            answer = &mut exchange => answer?,
            // The server may end the connection before the whole answer is read here.
            ended = connection => {
                ended.map_err(broken)?;
                exchange.await?
            }
        };
        let body = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
        Ok(Answer { status, body })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one call with these bytes, and returns what was asked.
    async fn answering(answer: &'static str) -> (Client, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("called");
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.expect("asked");
            stream.write_all(answer.as_bytes()).await.expect("taken");
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let address = Endpoint { host: "127.0.0.1".into(), port };
        (Client::new(address, Some("s3cret".into())), served)
    }

    #[tokio::test]
    async fn a_call_carries_the_token_and_a_refusal_is_an_answer() {
        let refusal = "HTTP/1.1 409 Conflict\r\nContent-Length: 33\r\n\r\n{\"reason\":\"X\",\"error\":\"it is so\"}";
        let (client, served) = answering(refusal).await;
        let answer = client.post("/v1/x", &serde_json::json!({ "a": 1 })).await.expect("answered");
        assert_eq!((answer.status, answer.error().as_str()), (409, "it is so"));
        let asked = served.await.expect("served");
        assert!(asked.starts_with("POST /v1/x HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("authorization: bearer s3cret"), "{asked}");
    }

    #[tokio::test]
    async fn a_call_under_an_epoch_says_so() {
        let removed = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let (client, served) = answering(removed).await;
        client.under(7).delete("/v1/x").await.expect("answered");
        let asked = served.await.expect("served").to_lowercase();
        assert!(asked.starts_with("delete /v1/x http/1.1\r\n"), "{asked}");
        assert!(asked.contains("ropewalk-epoch: 7\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_that_names_the_address() {
        for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "+OK POP3\r\n", ""] {
            let (client, _served) = answering(answer).await;
            let error = client.get("/").await.expect_err("no JSON").to_string();
            assert!(error.starts_with("127.0.0.1:"), "{error}");
        }
        let nobody = Client::new(Endpoint { host: "127.0.0.1".into(), port: 1 }, None);
        let error = nobody.get("/").await.expect_err("no server listens").to_string();
        assert!(error.starts_with("127.0.0.1:1: "), "{error}");
    }
}
