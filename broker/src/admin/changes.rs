//! Calls that change something: an operator claims an epoch, declares queues, binds groups to them.
//!
//! [`super::access`] has checked the token. Every decision is made in the catalog. Every answer
//! reports the resulting state, so that a call can be repeated safely.
//!
//! Invariant: every call but the claim itself carries an epoch, and is refused if a newer one was
//! claimed (K2).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Json;
use ropewalk_shard::command::StartPosition;
use ropewalk_shard::state::catalog::{Binding, Fence};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use super::access::Epoch;
use super::refusal::AdminError;
use crate::catalog::{Declaration, TopicView};
use crate::limits;
use crate::settings::{Invalid, ReplaceOutcome};

type Answer<T> = Result<Json<T>, AdminError>;

/// A JSON body, or a refusal as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|rejection: JsonRejection| {
            let status = rejection.status();
            let why = if status == StatusCode::PAYLOAD_TOO_LARGE {
                format!("the body is longer than {} bytes", limits::ADMIN_BODY_BYTES_MAX)
            } else {
                rejection.body_text()
            };
            AdminError::new(status, "InvalidBody", why)
        })
    }
}

/// The query of the URL, or a refusal as JSON.
pub(super) struct QueryParams<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(asked)| Self(asked)).map_err(|rejection: QueryRejection| {
            AdminError::new(rejection.status(), "InvalidQuery", rejection.body_text())
        })
    }
}

/// The path parameters, or a refusal as JSON.
pub(super) struct PathParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(named)| Self(named)).map_err(|rejection: PathRejection| {
            AdminError::new(rejection.status(), "InvalidPath", rejection.body_text())
        })
    }
}

/// Body of `POST /v1/fence`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClaimBody {
    holder: String,
    lease_uid: String,
}

pub(super) async fn claim_fence(
    State(admin): State<Arc<Admin>>,
    Body(claim): Body<ClaimBody>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    let (holder, lease_uid) = (claim.holder, claim.lease_uid);
    check_length("holder", &holder, limits::OWNER_BYTES_MAX, "InvalidBody")?;
    check_length("leaseUid", &lease_uid, limits::OWNER_BYTES_MAX, "InvalidBody")?;
    let (epoch, previous) = context.topics.claim_fence(holder.clone(), lease_uid).await?;
    tracing::info!(holder, epoch, ?previous, "fencing epoch claimed");
    let previous = previous.map(|Fence { holder, lease_uid, epoch }| {
        json!({ "epoch": epoch, "holder": holder, "leaseUid": lease_uid })
    });
    Ok(Json(json!({ "epoch": epoch, "previous": previous })))
}

/// Body of `PUT /v1/queues/{topic}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeclareBody {
    owner: String,
    partitions: Option<i32>,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

/// The resulting state of the topic.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeclareOutcome {
    topic_id: String,
    partitions: usize,
    created: bool,
    adopted: bool,
    changed: Vec<String>,
    /// Parts of the declaration that were not applied.
    warnings: Vec<String>,
}

pub(super) async fn declare(
    State(admin): State<Arc<Admin>>,
    PathParams(name): PathParams<String>,
    Epoch(epoch): Epoch,
    Body(declare): Body<DeclareBody>,
) -> Answer<DeclareOutcome> {
    let context = admin.open()?.context;
    let DeclareBody { owner, partitions, config } = declare;
    check_owner(&owner)?;
    let configs = config.into_iter().collect();
    let wanted = Declaration { name, owner, partitions, configs };
    let declared = context.topics.declare(epoch, &wanted).await?;
    let there = declared.partitions;
    Ok(Json(DeclareOutcome {
        topic_id: declared.id.to_string(),
        partitions: declared.partitions,
        created: declared.created,
        adopted: declared.adopted,
        changed: declared.changed,
        warnings: partitions.and_then(|asked| kept_partitions(asked, there)).into_iter().collect(),
    }))
}

/// A warning if fewer partitions are declared than the queue has. A queue never loses partitions,
/// so this is not an error.
fn kept_partitions(asked: i32, there: usize) -> Option<String> {
    let is_fewer = usize::try_from(asked).is_ok_and(|asked| asked < there);
    is_fewer.then(|| {
        format!(
            "{asked} partitions were declared and the queue keeps its {there}: partitions cannot be removed, \
             delete and recreate the queue to have fewer"
        )
    })
}

/// Query of `DELETE /v1/queues/{topic}?owner=UID&data=…`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseQuery {
    owner: String,
    data: Data,
}

/// What happens to the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    Keep,
    Delete,
}

pub(super) async fn release(
    State(admin): State<Arc<Admin>>,
    PathParams(name): PathParams<String>,
    Epoch(epoch): Epoch,
    QueryParams(release): QueryParams<ReleaseQuery>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&release.owner)?;
    let delete = release.data == Data::Delete;
    let deleted = context.topics.release(epoch, &name, release.owner, delete).await?;
    Ok(Json(json!({ "deleted": deleted })))
}

/// Body of `PUT /v1/queues/{topic}/groups/{group}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BindBody {
    owner: String,
    start_position: Start,
}

/// The start position of a group in JSON.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Start {
    Earliest,
    Latest,
}

impl From<Start> for StartPosition {
    fn from(start: Start) -> Self {
        match start {
            Start::Earliest => Self::Earliest,
            Start::Latest => Self::Latest,
        }
    }
}

pub(super) async fn bind(
    State(admin): State<Arc<Admin>>,
    PathParams((name, group)): PathParams<(String, String)>,
    Epoch(epoch): Epoch,
    Body(bind): Body<BindBody>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&bind.owner)?;
    check_length("the name of the group", &group, limits::GROUP_BYTES_MAX, "InvalidGroup")?;
    let begins = (group, bind.start_position.into());
    let committed = context.topics.bind(epoch, &name, bind.owner, begins).await?;
    Ok(Json(json!({ "bound": true, "committed": committed })))
}

/// Query of `DELETE /v1/queues/{topic}/groups/{group}?owner=UID`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnbindQuery {
    owner: String,
}

pub(super) async fn unbind(
    State(admin): State<Arc<Admin>>,
    PathParams((name, group)): PathParams<(String, String)>,
    Epoch(epoch): Epoch,
    QueryParams(unbind): QueryParams<UnbindQuery>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&unbind.owner)?;
    context.topics.unbind(epoch, &name, unbind.owner, group).await?;
    Ok(Json(json!({ "bound": false })))
}

/// Body of `PUT /v1/settings`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    settings: BTreeMap<String, String>,
}

/// The result of `PUT /v1/settings`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SettingsOutcome {
    applied: Vec<String>,
    needs_restart: Vec<String>,
}

pub(super) async fn replace_settings(
    State(admin): State<Arc<Admin>>,
    Epoch(epoch): Epoch,
    Body(file): Body<File>,
) -> Answer<SettingsOutcome> {
    let context = admin.open()?.context;
    context.topics.check_epoch(epoch).await?;
    let replaced = context.settings.replace(file.settings).map_err(invalid_settings)?;
    // The defaults of every topic may have changed.
    if let Some(catalog) = &context.node.catalog().state().catalog {
        context.view.reload(catalog);
    }
    let ReplaceOutcome { applied, needs_restart } = replaced;
    tracing::info!(?applied, ?needs_restart, "settings replaced");
    Ok(Json(SettingsOutcome { applied, needs_restart }))
}

fn invalid_settings(all: Vec<Invalid>) -> AdminError {
    let key = all.first().map(|invalid| invalid.key().to_owned());
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    AdminError::bad("InvalidSetting", lines.join("; ")).with("key", key)
}

/// `GET /v1/owners/{owner}`: read behind a barrier, because operators reconcile against it.
pub(super) async fn owned(
    State(admin): State<Arc<Admin>>,
    PathParams(owner): PathParams<String>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&owner)?;
    let topics = context.topics.owned_by(&owner).await?;
    let queues: Vec<Value> = topics.iter().map(|topic| owned_queue(topic)).collect();
    Ok(Json(json!({ "owner": owner, "queues": queues })))
}

fn owned_queue(topic: &TopicView) -> Value {
    let group = |(group, binding): (&String, &Binding)| {
        let start = match binding.start {
            StartPosition::Earliest => "Earliest",
            StartPosition::Latest => "Latest",
        };
        json!({ "group": group, "startPosition": start })
    };
    json!({
        "name": &*topic.name,
        "topicId": topic.id.to_string(),
        "partitions": topic.partitions.len(),
        "groups": topic.bindings.iter().map(group).collect::<Vec<_>>(),
    })
}

/// Checks the owner. An empty owner would mean both none and any.
fn check_owner(owner: &str) -> Result<(), AdminError> {
    check_length(
        "owner (the uid of the queue's object)",
        owner,
        limits::OWNER_BYTES_MAX,
        "InvalidOwner",
    )
}

/// Checks a length, because values stored in the catalog are bounded (R1).
fn check_length(
    what: &str,
    text: &str,
    bytes_max: usize,
    reason: &'static str,
) -> Result<(), AdminError> {
    if (1..=bytes_max).contains(&text.len()) {
        return Ok(());
    }
    let why = format!("{what} has {} bytes, it must have from 1 to {bytes_max}", text.len());
    Err(AdminError::bad(reason, why))
}
