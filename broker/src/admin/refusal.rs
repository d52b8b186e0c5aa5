//! Error responses of the admin server: a reason for programs, a sentence for people.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use ropewalk_shard::ProposeError;
use ropewalk_shard::state::catalog;
use serde_json::{Value, json};

use super::shard_reason::ShardReason;
use crate::catalog::TopicError;

/// An error response.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdminError {
    pub(super) status: StatusCode,
    /// One CamelCase word, for programs.
    pub(super) reason: &'static str,
    /// The problem and what to do about it.
    pub(super) error: String,
    /// An additional field of the response.
    pub(super) detail: Option<(&'static str, Value)>,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, reason: &'static str, error: impl Into<String>) -> Self {
        Self { status, reason, error: error.into(), detail: None }
    }

    pub(super) fn bad(reason: &'static str, error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, error)
    }

    pub(super) fn not_ready(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", error)
    }

    pub(super) fn no_such_queue(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NoSuchQueue", format!("there is no queue '{name}'"))
    }

    pub(super) fn conflict(reason: &'static str, error: String) -> Self {
        Self::new(StatusCode::CONFLICT, reason, error)
    }

    /// With a reason for each shard that is in the way.
    pub(super) fn with_shards(self, shards: impl IntoIterator<Item = ShardReason>) -> Self {
        let shards: Vec<Value> = shards.into_iter().map(|shard| json!(shard)).collect();
        self.with("shards", shards)
    }

    pub(super) fn with(self, key: &'static str, value: impl Into<Value>) -> Self {
        Self { detail: Some((key, value.into())), ..self }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut body = json!({ "reason": self.reason, "error": self.error });
        if let Some((key, value)) = self.detail {
            body[key] = value;
        }
        (self.status, Json(body)).into_response()
    }
}

impl From<ProposeError> for AdminError {
    fn from(error: ProposeError) -> Self {
        let hint = match error {
            ProposeError::Full => "free space on the disk, or grow it",
            ProposeError::NotLeader
            | ProposeError::Stopped
            | ProposeError::Busy
            | ProposeError::Behind => "retry soon",
            ProposeError::AboveLevel { .. } => "upgrade the other brokers",
            ProposeError::Unknown => "the change may or may not be made: read the state and retry",
            ProposeError::TooLarge { .. } => return Self::bad("TooLarge", error.to_string()),
        };
        Self::not_ready(format!("{error}: {hint}"))
    }
}

impl From<TopicError> for AdminError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::InvalidName(why) => Self::bad("InvalidName", why),
            TopicError::InvalidPartitions(why) | TopicError::TooMany(why) => {
                Self::bad("InvalidPartitions", why)
            }
            TopicError::InvalidConfig(why) => Self::bad("InvalidConfig", why),
            TopicError::TooManyGroups(why) => Self::bad("TooManyGroups", why),
            TopicError::InvalidEpoch(why) => Self::bad("InvalidEpoch", why),
            TopicError::Unavailable(error) | TopicError::NotOpen(error) => error.into(),
            TopicError::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<catalog::Refusal> for AdminError {
    fn from(refusal: catalog::Refusal) -> Self {
        use catalog::Refusal;
        let text = refusal.to_string();
        match refusal {
            Refusal::StaleEpoch { newest } => {
                let error = format!("{text}: another operator took over");
                Self::conflict("StaleEpoch", error).with("epoch", newest)
            }
            Refusal::EpochTooHigh { newest, .. } => {
                Self::conflict("StaleEpoch", text).with("epoch", newest)
            }
            Refusal::OwnedByAnother { owner } => {
                let error = format!("{text}: give this queue another topic name");
                Self::conflict("NameCollision", error).with("owner", owner)
            }
            Refusal::NameCollision { .. } => Self::conflict("NameCollision", text),
            Refusal::NotOwned => {
                Self::conflict("NotOwned", format!("{text}: declare the queue first"))
            }
            Refusal::NoSuchTopic => Self::new(StatusCode::NOT_FOUND, "NoSuchQueue", text),
            Refusal::Replaced
            | Refusal::TopicExists { .. }
            | Refusal::IdUsed { .. }
            | Refusal::PartitionCountChanged { .. }
            | Refusal::StandingChanged { .. }
            | Refusal::ReplicaLeaves { .. } => Self::not_ready(format!("{text}: retry")),
            Refusal::TooFewBrokers { staying, shards, .. } => {
                let error = format!(
                    "{text}: add brokers first, or send \"acceptFewerReplicas\": true, so that shards get fewer \
                     replicas"
                );
                let shards = shards.iter().map(|(shard, replicas)| {
                    let message = format!("it has {replicas} replicas, and {staying} brokers stay");
                    ShardReason::new(*shard, "TooFewBrokers", message)
                });
                Self::conflict("TooFewBrokers", error).with_shards(shards)
            }
            Refusal::OtherRestarts { shards, .. } => {
                let error = format!("{text}: wait until they are back");
                let shards = shards.iter().map(|shard| {
                    let message = "another broker with a replica is to be restarted".to_owned();
                    ShardReason::new(*shard, "OtherRestarts", message)
                });
                Self::conflict("MajorityAtRisk", error).with_shards(shards)
            }
            Refusal::NoSuchBroker { .. } => Self::new(StatusCode::NOT_FOUND, "NoSuchBroker", text),
            Refusal::BrokerForgotten { .. } => Self::conflict("BrokerForgotten", text),
            Refusal::StaleIncarnation { .. } => Self::conflict("StaleIncarnation", text),
            Refusal::TooManyBrokers { .. } => Self::conflict("TooManyBrokers", text),
            Refusal::BrokerHoldsReplicas { .. } => Self::conflict("BrokerHoldsReplicas", text),
            Refusal::NoSuchShard { .. } => Self::new(StatusCode::NOT_FOUND, "NoSuchShard", text),
            Refusal::NoSuchReplica { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NoSuchReplica", text)
            }
            Refusal::ReplicaStays { .. }
            | Refusal::ReplicaVotes { .. }
            | Refusal::LastVoter { .. } => Self::conflict("ReplicaInUse", text),
            Refusal::OtherClaim { .. } => Self::conflict("OtherClaim", text),
        }
    }
}
