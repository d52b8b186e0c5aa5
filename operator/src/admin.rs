//! Client of the brokers' admin APIs, the operator's only connection to brokers.
//!
//! Controllers call [`Brokers`]; [`http`] sends one request; [`fence`] keeps the epoch of each
//! cluster; `breaker` stops calls to brokers that do not answer. The types of requests and
//! answers are in `operator/plan`.
//!
//! # Invariants
//!
//! - **K2** a call that changes something carries the epoch that the cluster issued to this leader,
//!   and is not sent by a process that does not hold the Lease.
//! - A slow broker or a large answer costs bounded time and memory.
//! - A broker that does not answer does not delay calls to other brokers.
//! - Nothing is changed in a cluster that another operator claims as well.
//! - The token is read from the Secret of the cluster, is kept in memory, and is read again when a
//!   broker refuses it.

use std::collections::HashMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use ropewalk_operator_api::{BrokerCluster, names};
use ropewalk_operator_plan::queue::Refusal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster_key::ClusterKey;
use crate::lease::{Leadership, NotLeader};

pub mod http;
pub mod fence;
mod breaker;

use breaker::Breakers;
use fence::{Claimant, Conflict, Epochs};
use http::{Http, HttpError, Method};

/// Reason of conditions of objects that two operators manage.
pub const CONFLICTING_OPERATOR: &str = "ConflictingOperator";

/// Identifies one broker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Cluster of the broker.
    pub cluster: ClusterKey,
    /// Id of the broker in its cluster.
    pub broker: i32,
}

impl Target {
    /// The broker of a cluster that receives calls about queues and groups: the lowest id.
    #[must_use]
    pub fn of(cluster: &BrokerCluster) -> Self {
        let metadata = &cluster.metadata;
        let key = ClusterKey::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        );
        let brokers = cluster.status.iter().flat_map(|status| &status.brokers);
        let broker = brokers.map(|broker| broker.id).min().unwrap_or(0);
        Self { cluster: key, broker }
    }
}

/// Credentials that a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// No credentials are needed.
    Open,
    /// The token of the cluster.
    Token,
    /// The token and the epoch of the leader.
    Change,
}

/// Why a call failed, split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time: retry.
    #[error("the broker is unreachable: {0}")]
    Unreachable(String),
    /// The broker refused the call; `reason` decides what follows.
    #[error("{reason}: {message}")]
    Refused {
        /// Reason as one word, see the admin HTTP API.
        reason: String,
        /// What is wrong and what to do.
        message: String,
        /// The complete body of the answer.
        body: Value,
    },
    /// The answer could not be decoded: the releases do not fit.
    #[error("the broker's answer cannot be decoded: {0}")]
    Malformed(String),
    /// The Secret with the token could not be read; the cluster controller creates it.
    #[error("the token of the cluster cannot be read: {0}")]
    NoToken(String),
    /// This process does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Another operator manages the same cluster.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

impl CallError {
    /// Whether the broker refused for this reason.
    #[must_use]
    pub fn is_refused(&self, expected: &str) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == expected)
    }

    /// The error as reason and message of a condition.
    #[must_use]
    pub fn refused(&self) -> Refusal {
        const KNOWN: &[&str] = &[
            "NameCollision",
            "InvalidConfig",
            "InvalidPartitions",
            "InvalidName",
            "InvalidSetting",
            "NotReady",
            "StaleEpoch",
            "Unauthorized",
        ];
        let reason = match self {
            Self::Unreachable(_) => "BrokerUnreachable",
            Self::Refused { reason, .. } => {
                KNOWN.iter().find(|known| *known == reason).copied().unwrap_or("BrokerRefused")
            }
            Self::Malformed(_) => "BrokerNotUnderstood",
            Self::NoToken(_) => "TokenMissing",
            Self::NotLeader(_) => "NotLeader",
            Self::Conflict(_) => CONFLICTING_OPERATOR,
        };
        let message = match self {
            Self::Refused { message, .. } => message.clone(),
            Self::Unreachable(_)
            | Self::Malformed(_)
            | Self::NoToken(_)
            | Self::NotLeader(_)
            | Self::Conflict(_) => self.to_string(),
        };
        Refusal { reason, message }
    }
}

/// The admin APIs of all brokers.
#[derive(Debug)]
pub struct Brokers {
    http: Http,
    client: KubeClient,
    leadership: Leadership,
    address: String,
    epochs: Epochs,
    breakers: Breakers,
    tokens: Mutex<HashMap<ClusterKey, String>>,
}

/// A [`Client`] with `Debug`, which kube's client lacks.
struct KubeClient(Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

impl Brokers {
    /// `address` is the address template of a broker's admin API, with `{service}` and
    /// `{namespace}`.
    #[must_use]
    pub fn new(client: Client, leadership: Leadership, address: String) -> Self {
        Self {
            http: Http::default(),
            client: KubeClient(client),
            leadership,
            address,
            epochs: Epochs::default(),
            breakers: Breakers::default(),
            tokens: Mutex::default(),
        }
    }

    /// Reads a resource that needs no token.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub async fn ask<T: DeserializeOwned>(&self, at: &Target, path: &str) -> Result<T, CallError> {
        let call = Call { at, method: Method::Get, path, body: None };
        self.send(&call, Right::Open).await
    }

    /// Closes the circuit breaker of a broker, so that the next call is sent.
    pub fn try_again(&self, at: &Target) {
        self.breakers.close(at);
    }

    /// Reads a resource that needs the token.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    pub async fn read<T: DeserializeOwned>(&self, at: &Target, path: &str) -> Result<T, CallError> {
        let call = Call { at, method: Method::Get, path, body: None };
        self.send(&call, Right::Token).await
    }

    /// Sends a change with the leader's token and epoch.
    ///
    /// # Errors
    ///
    /// [`CallError`] if the change was not confirmed.
    pub async fn put<T: DeserializeOwned>(
        &self,
        at: &Target,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_value(body).map_err(|e| CallError::Malformed(e.to_string()))?;
        self.change(&Call { at, method: Method::Put, path, body: Some(body) }).await
    }

    /// Sends a deletion with the leader's token and epoch.
    ///
    /// # Errors
    ///
    /// [`CallError`] if the deletion was not confirmed.
    pub async fn delete<T: DeserializeOwned>(
        &self,
        at: &Target,
        path: &str,
    ) -> Result<T, CallError> {
        self.change(&Call { at, method: Method::Delete, path, body: None }).await
    }

    /// Checks that this leader's epoch is the newest, before an action that brokers cannot fence. A
    /// broker that does not answer does not prevent the action.
    ///
    /// # Errors
    ///
    /// When a newer leader has claimed the cluster, or this process no longer holds the Lease.
    pub async fn assure_epoch(&self, at: &Target) -> Result<(), CallError> {
        self.leadership.check()?;
        // The broker is called even if it did not answer before.
        self.breakers.close(at);
        let ours = match self.epoch(at).await {
            Ok(epoch) => epoch,
            Err(CallError::Unreachable(_) | CallError::NoToken(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let answer = self.ask::<ropewalk_operator_plan::cluster::Answer>(at, "/v1/broker").await;
        match answer {
            Ok(answer) if answer.epoch > ours => {
                self.epochs.discard(&at.cluster);
                Err(CallError::NotLeader(NotLeader))
            }
            Ok(_) | Err(CallError::Unreachable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens the signal stream of a cluster.
    ///
    /// # Errors
    ///
    /// [`CallError`] if the stream cannot be opened.
    pub async fn signals(&self, at: &Target) -> Result<http::Lines, CallError> {
        let token = self.token(&at.cluster).await?;
        let url = self.url(at, "/v1/signals");
        match self.http.stream(&url, &token).await {
            Ok(lines) => {
                self.breakers.close(at);
                Ok(lines)
            }
            Err(error) => {
                self.tokens.lock().remove(&at.cluster);
                Err(error.into())
            }
        }
    }

    /// Discards epoch and token of a cluster that is gone or was replaced by another of its name.
    pub fn discard(&self, cluster: &ClusterKey) {
        self.epochs.discard_cluster(cluster);
        self.tokens.lock().remove(cluster);
    }

    /// The conflict with another operator that manages the cluster as well, if there is one.
    #[must_use]
    pub fn conflict(&self, cluster: &ClusterKey) -> Option<Conflict> {
        self.epochs.conflict(cluster, Instant::now())
    }

    async fn change<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, CallError> {
        let first = self.send(call, Right::Change).await;
        match first {
            Err(error) if error.is_refused("StaleEpoch") => {
                // Another process claimed a newer epoch. The next call claims again, if this
                // process still holds the Lease.
                self.epochs.discard(&call.at.cluster);
                self.send(call, Right::Change).await
            }
            other => other,
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
        right: Right,
    ) -> Result<T, CallError> {
        let first = self.send_once(call, right).await;
        match first {
            Err(error) if right != Right::Open && error.is_refused("Unauthorized") => {
                self.tokens.lock().remove(&call.at.cluster);
                self.send_once(call, right).await
            }
            other => other,
        }
    }

    async fn send_once<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
        right: Right,
    ) -> Result<T, CallError> {
        let mut headers = Vec::new();
        if right == Right::Change {
            self.leadership.check()?;
            let epoch = Box::pin(self.epoch(call.at)).await?;
            headers.push(("ropewalk-epoch", epoch.to_string()));
        }
        if right != Right::Open {
            let token = self.token(&call.at.cluster).await?;
            headers.push(("authorization", format!("Bearer {token}")));
        }
        let url = self.url(call.at, call.path);
        self.breakers.enter(call.at, Instant::now()).map_err(CallError::Unreachable)?;
        let answer = self.http.send(call.method, &url, &headers, call.body.as_ref()).await;
        match &answer {
            Err(HttpError::Unreachable(why)) => {
                self.breakers.failed(call.at, why, Instant::now());
            }
            Ok(_) | Err(HttpError::Status(..) | HttpError::Malformed(_)) => {
                self.breakers.close(call.at);
            }
        }
        let answer = answer?;
        serde_json::from_value(answer).map_err(|error| CallError::Malformed(error.to_string()))
    }

    /// The epoch of this leader in a cluster; claims one if there is none yet.
    async fn epoch(&self, at: &Target) -> Result<u64, CallError> {
        if let Some(conflict) = self.conflict(&at.cluster) {
            return Err(conflict.into());
        }
        let slot = self.epochs.slot(&at.cluster);
        // One claim at a time for each cluster; concurrent calls wait for its result.
        let mut epoch = slot.lock().await;
        if let Some(epoch) = *epoch {
            return Ok(epoch);
        }
        self.leadership.check()?;
        let ours =
            Claimant { holder: self.leadership.identity(), lease_uid: self.leadership.lease_uid() };
        let body = json!({"holder": ours.holder, "leaseUid": ours.lease_uid});
        let call = Call { at, method: Method::Post, path: "/v1/fence", body: Some(body) };
        let claimed: fence::ClaimResponse = self.send(&call, Right::Token).await?;
        tracing::info!(cluster = %at.cluster, epoch = claimed.epoch, "epoch claimed");
        if let Err(conflict) =
            self.epochs.claimed(&at.cluster, ours, claimed.previous, Instant::now())
        {
            tracing::error!(cluster = %at.cluster, %conflict, "changes to the cluster paused: two operators manage it; stop one of them, the other continues by itself");
            return Err(conflict.into());
        }
        *epoch = Some(claimed.epoch);
        Ok(claimed.epoch)
    }

    async fn token(&self, cluster: &ClusterKey) -> Result<String, CallError> {
        if let Some(token) = self.tokens.lock().get(cluster) {
            return Ok(token.clone());
        }
        let name = names::admin_secret(&cluster.name);
        let api: Api<Secret> = Api::namespaced(self.client.0.clone(), &cluster.namespace);
        let secret = api.get(&name).await.map_err(|error| CallError::NoToken(error.to_string()))?;
        let token = secret.data.and_then(|mut data| data.remove("token")).map(|bytes| bytes.0);
        let token = token.and_then(|bytes| String::from_utf8(bytes).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let missing = || CallError::NoToken(format!("the Secret {name} has no `token`"));
        let token = token.ok_or_else(missing)?;
        self.tokens.lock().insert(cluster.clone(), token.clone());
        Ok(token)
    }

    fn url(&self, at: &Target, path: &str) -> String {
        let service = names::broker(&at.cluster.name, at.broker);
        let address = self.address.replace("{service}", &service);
        format!("http://{}{path}", address.replace("{namespace}", &at.cluster.namespace))
    }
}

/// One call to the admin API.
#[derive(Debug)]
struct Call<'a> {
    at: &'a Target,
    method: Method,
    path: &'a str,
    body: Option<Value>,
}

impl From<HttpError> for CallError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable(why) => Self::Unreachable(why),
            HttpError::Malformed(why) => Self::Malformed(why),
            HttpError::Status(status, body) => {
                let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
                let reason = text("reason").unwrap_or_else(|| format!("Status{status}"));
                let message = text("error").unwrap_or_else(|| format!("HTTP status {status}"));
                Self::Refused { reason, message, body }
            }
        }
    }
}

/// Percent-encodes a path segment.
#[must_use]
pub fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
