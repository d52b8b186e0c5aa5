//! Calls that change something: an operator claims an epoch, declares queues, binds groups to them.
//!
//! Place in the walk: [`super::access`] has let the caller in; what is decided, is decided in the
//! catalog. Every answer tells what is now, so that a call can be made again without harm.
//!
//! Invariant: everything but the claim itself carries an epoch, and is refused under an older one than the
//! newest that was claimed (K2).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::response::Json;
use ropewalk_shard::command::StartPosition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use super::access::Epoch;
use super::refusal::Refused;
use crate::catalog::Declaration;
use crate::settings::{Invalid, Replaced};

type Answer<T> = Result<Json<T>, Refused>;

/// A body in JSON, or a refusal in it.
pub(super) struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|rejection: JsonRejection| {
            Refused::new(rejection.status(), "InvalidBody", rejection.body_text())
        })
    }
}

/// What stands behind the question mark, or a refusal.
pub(super) struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(asked)| Self(asked)).map_err(|rejection: QueryRejection| {
            Refused::new(rejection.status(), "InvalidQuery", rejection.body_text())
        })
    }
}

/// `POST /v1/fence`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Claim {
    holder: String,
    lease_uid: String,
}

pub(super) async fn claim_fence(
    State(admin): State<Arc<Admin>>,
    Body(claim): Body<Claim>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    let (holder, lease_uid) = (claim.holder, claim.lease_uid);
    let epoch = context.topics.claim_fence(holder.clone(), lease_uid).await?;
    tracing::info!(holder, epoch, "an operator claimed a new epoch");
    Ok(Json(json!({ "epoch": epoch })))
}

/// `PUT /v1/queues/{topic}`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Declare {
    owner: String,
    partitions: Option<i32>,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

/// The topic as it is now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Declared {
    topic_id: String,
    partitions: usize,
    created: bool,
    adopted: bool,
    changed: Vec<String>,
}

pub(super) async fn declare(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    Epoch(epoch): Epoch,
    Body(declare): Body<Declare>,
) -> Answer<Declared> {
    let context = admin.open()?.context;
    let Declare { owner, partitions, config } = declare;
    check_owner(&owner)?;
    let configs = config.into_iter().collect();
    let wanted = Declaration { name, owner, partitions, configs };
    let declared = context.topics.declare(epoch, &wanted).await?;
    Ok(Json(Declared {
        topic_id: declared.id.to_string(),
        partitions: declared.partitions,
        created: declared.created,
        adopted: declared.adopted,
        changed: declared.changed,
    }))
}

/// `DELETE /v1/queues/{topic}?owner=UID&data=…`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    owner: String,
    data: Data,
}

/// What becomes of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    Keep,
    Delete,
}

pub(super) async fn release(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    Epoch(epoch): Epoch,
    Asked(release): Asked<Release>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&release.owner)?;
    let delete = release.data == Data::Delete;
    let deleted = context.topics.release(epoch, &name, release.owner, delete).await?;
    Ok(Json(json!({ "deleted": deleted })))
}

/// `PUT /v1/queues/{topic}/groups/{group}`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Bind {
    owner: String,
    start_position: Start,
}

/// Where the group begins, as it is written here.
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
    Path((name, group)): Path<(String, String)>,
    Epoch(epoch): Epoch,
    Body(bind): Body<Bind>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&bind.owner)?;
    let begins = (group, bind.start_position.into());
    let committed = context.topics.bind(epoch, &name, bind.owner, begins).await?;
    Ok(Json(json!({ "bound": true, "committed": committed })))
}

/// `DELETE /v1/queues/{topic}/groups/{group}?owner=UID`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unbind {
    owner: String,
}

pub(super) async fn unbind(
    State(admin): State<Arc<Admin>>,
    Path((name, group)): Path<(String, String)>,
    Epoch(epoch): Epoch,
    Asked(unbind): Asked<Unbind>,
) -> Answer<Value> {
    let context = admin.open()?.context;
    check_owner(&unbind.owner)?;
    context.topics.unbind(epoch, &name, unbind.owner, group).await?;
    Ok(Json(json!({ "bound": false })))
}

/// `PUT /v1/settings`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    settings: BTreeMap<String, String>,
}

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Taken {
    applied: Vec<String>,
    needs_restart: Vec<String>,
}

pub(super) async fn replace_settings(
    State(admin): State<Arc<Admin>>,
    Epoch(epoch): Epoch,
    Body(file): Body<File>,
) -> Answer<Taken> {
    let context = admin.open()?.context;
    context.topics.check_epoch(epoch).await?;
    let replaced = context.settings.replace(file.settings).map_err(invalid_settings)?;
    // The defaults of every topic may be others now.
    if let Some(catalog) = &context.node.catalog().state().catalog {
        context.view.reload(catalog);
    }
    let Replaced { applied, needs_restart } = replaced;
    tracing::info!(?applied, ?needs_restart, "settings were replaced");
    Ok(Json(Taken { applied, needs_restart }))
}

fn invalid_settings(all: Vec<Invalid>) -> Refused {
    let key = all.first().map(|invalid| invalid.key().to_owned());
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    Refused::bad("InvalidSetting", lines.join("; ")).with("key", key)
}

/// An empty owner would be nobody, and everybody.
fn check_owner(owner: &str) -> Result<(), Refused> {
    if owner.is_empty() {
        return Err(Refused::bad(
            "InvalidBody",
            "owner is empty: it is the uid of the queue's object",
        ));
    }
    Ok(())
}
