//! Operations on a broker: it is drained, prepared for a restart, admitted again, or removed.
//!
//! Any broker can be asked. Each operation is one change of the catalog under the caller's epoch
//! (K2); leaders and the balancer carry it out, and the answer says what is left. The same request
//! again has the same effect and shows the progress. A refusal names the shards that are in the
//! way.
//!
//! | operation | effect | refused |
//! |---|---|---|
//! | drain | its replicas move to other brokers | fewer brokers stay than a shard has replicas |
//! | prepare-restart | it gives its leaderships away, gets none | a shard would lose its majority |
//! | admit | it takes replicas and leaderships again | |
//! | DELETE | it is removed, and its id is not used again | it answers, or holds replicas |
//!
//! The preparation of a restart ends when the next start of the broker has caught up, or at the
//! deadline of the request. A broker that is away can be drained: other replicas take the place of
//! its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use ropewalk_shard::state::catalog::{BrokerInfo, Refusal, Standing};
use ropewalk_shard::{BrokerId, ShardId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::progress::{Facts, ShardFacts};
use super::report::BrokerProgress;
use crate::admin::access::Epoch;
use crate::admin::changes::{Body, PathParams};
use crate::admin::refusal::AdminError;
use crate::admin::shard_reason::ShardReason;
use crate::admin::{Admin, report};
use crate::catalog::TopicError;
use crate::clock;
use crate::cluster::report::of_leader;
use crate::handle::Context;

type Answer<T> = Result<Json<T>, AdminError>;

/// Longest time from a request to prepare a restart to its deadline, seconds.
const DEADLINE_SECONDS_MAX: u32 = 24 * 60 * 60;

/// Attempts when the standing changes concurrently.
const TRIES: usize = 5;

/// Body of `POST /v1/cluster/brokers/{id}/drain`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::admin) struct DrainBody {
    /// Whether shards may have fewer replicas afterwards.
    #[serde(default)]
    accept_fewer_replicas: bool,
}

/// Body of `POST /v1/cluster/brokers/{id}/prepare-restart`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::admin) struct PrepareBody {
    /// Time until the preparation ends by itself.
    deadline_seconds: u32,
}

/// Body of `POST /v1/cluster/brokers/{id}/admit`: an empty object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct AdmitBody {}

/// Answers `GET /v1/cluster/brokers/{id}`.
pub(in crate::admin) async fn show(
    State(admin): State<Arc<Admin>>,
    PathParams(id): PathParams<i32>,
) -> Answer<BrokerProgress> {
    shown(&admin.open()?.context, BrokerId(id)).await
}

/// Has the replicas of a broker move to others.
pub(in crate::admin) async fn drain(
    State(admin): State<Arc<Admin>>,
    PathParams(id): PathParams<i32>,
    Epoch(epoch): Epoch,
    Body(body): Body<DrainBody>,
) -> Answer<BrokerProgress> {
    let to =
        if body.accept_fewer_replicas { Standing::DrainingToFewer } else { Standing::Draining };
    change(&admin, (epoch, BrokerId(id)), |_| Ok(to)).await
}

/// Ends a drain or the preparation of a restart.
pub(in crate::admin) async fn admit(
    State(admin): State<Arc<Admin>>,
    PathParams(id): PathParams<i32>,
    Epoch(epoch): Epoch,
    Body(AdmitBody {}): Body<AdmitBody>,
) -> Answer<BrokerProgress> {
    change(&admin, (epoch, BrokerId(id)), |_| Ok(Standing::Serving)).await
}

/// Has a broker hand over its leaderships, because it is to be restarted.
pub(in crate::admin) async fn prepare_restart(
    State(admin): State<Arc<Admin>>,
    PathParams(id): PathParams<i32>,
    Epoch(epoch): Epoch,
    Body(body): Body<PrepareBody>,
) -> Answer<BrokerProgress> {
    if !(1..=DEADLINE_SECONDS_MAX).contains(&body.deadline_seconds) {
        let why = format!(
            "deadlineSeconds is {}, it must be from 1 to {DEADLINE_SECONDS_MAX}",
            body.deadline_seconds
        );
        return Err(AdminError::bad("InvalidDeadline", why));
    }
    let broker = BrokerId(id);
    let deadline_ms = clock::now_ms() + i64::from(body.deadline_seconds) * 1000;
    let context = admin.open()?.context;
    change(&admin, (epoch, broker), |info| {
        match info.standing {
            // The first deadline is kept, so that a request that is repeated does not extend it.
            prepared @ Standing::Restarting { incarnation, .. }
                if incarnation == info.incarnation =>
            {
                return Ok(prepared);
            }
            Standing::Draining | Standing::DrainingToFewer => {
                let why = format!("broker {id} is draining: admit it first");
                return Err(AdminError::conflict("Draining", why));
            }
            Standing::Serving | Standing::Restarting { .. } | Standing::NotRestarted { .. } => {}
        }
        let at_risk = facts(&context, false).at_risk(broker);
        if at_risk.is_empty() {
            return Ok(Standing::Restarting { incarnation: info.incarnation, deadline_ms });
        }
        let why = format!(
            "broker {id} cannot be restarted now: {} of its shards would have no majority meanwhile; wait until \
             their other replicas have caught up",
            at_risk.len()
        );
        Err(AdminError::conflict("MajorityAtRisk", why).with_shards(at_risk))
    })
    .await
}

/// Removes a broker that is away and holds no replicas.
pub(in crate::admin) async fn forget(
    State(admin): State<Arc<Admin>>,
    PathParams(id): PathParams<i32>,
    Epoch(epoch): Epoch,
) -> Answer<Value> {
    let context = admin.open()?.context;
    context.topics.check_epoch(epoch).await?;
    let broker = BrokerId(id);
    let placements = context.view.placements();
    let held = placements
        .iter()
        .filter(|(_, placed)| placed.values().any(|placed| placed.broker == broker));
    let held: Vec<ShardReason> = held
        .map(|(shard, _)| {
            ShardReason::new(*shard, "HoldsReplica", "the broker holds a replica of it".to_owned())
        })
        .collect();
    if !held.is_empty() {
        let why = format!("broker {id} holds {} replicas: drain it first", held.len());
        return Err(AdminError::conflict("BrokerHoldsReplicas", why).with_shards(held));
    }
    if context.view.brokers().contains_key(&broker) && context.cluster.is_alive(broker) {
        let why = format!("broker {id} answers: stop its process first");
        return Err(AdminError::conflict("BrokerAlive", why));
    }
    context.topics.forget_broker(epoch, broker).await?;
    tracing::info!(broker = id, "the broker is removed from the cluster");
    Ok(Json(json!({ "id": id, "removed": true })))
}

/// Changes the standing of a broker to what `to` says, and answers what is left to do.
async fn change(
    admin: &Admin,
    (epoch, broker): (u64, BrokerId),
    to: impl Fn(&BrokerInfo) -> Result<Standing, AdminError>,
) -> Answer<BrokerProgress> {
    let context = admin.open()?.context;
    if context.cluster.is_alone() {
        let why = "this broker is alone: there is no other one for its shards".to_owned();
        return Err(AdminError::conflict("Alone", why));
    }
    context.topics.check_epoch(epoch).await?;
    for _ in 0..TRIES {
        let info = listed(&context, broker)?;
        let (from, to) = (info.standing, to(&info)?);
        if from == to {
            return shown(&context, broker).await;
        }
        match context.topics.change_standing(epoch, broker, (from, to)).await {
            Ok(()) => {
                tracing::info!(
                    broker = broker.0,
                    ?from,
                    ?to,
                    "the standing of the broker is changed"
                );
                return shown(&context, broker).await;
            }
            Err(TopicError::Refused(Refusal::StandingChanged { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::StandingChanged { broker }.into())
}

fn listed(context: &Context, broker: BrokerId) -> Result<BrokerInfo, AdminError> {
    let info = context.view.brokers().get(&broker).cloned();
    info.ok_or_else(|| Refusal::NoSuchBroker { broker }.into())
}

async fn shown(context: &Arc<Context>, broker: BrokerId) -> Answer<BrokerProgress> {
    let context = Arc::clone(context);
    let progress = report(move || facts(&context, true).progress(broker)).await;
    let progress = progress.ok_or_else(|| AdminError::not_ready("the broker is stopping"))?;
    progress.map(Json).ok_or_else(|| Refusal::NoSuchBroker { broker }.into())
}

/// What this broker knows; the sizes of its shards only if asked for.
fn facts(context: &Context, with_sizes: bool) -> Facts {
    let (own, reports) = (context.cluster.own().id, context.cluster.reports());
    let mut brokers: BTreeMap<BrokerId, BrokerInfo> = (*context.view.brokers()).clone();
    // A directory of an earlier version lists no broker.
    brokers.entry(own).or_default();
    let alive = brokers.keys().copied().filter(|broker| context.cluster.is_alive(*broker));
    let alive = alive.collect();
    let placements = context.view.placements();
    let shards = placements.iter().map(|(id, placed)| {
        let leader = context.cluster.leader(*id);
        let led =
            leader.and_then(|leader| of_leader(&reports, *id, leader.broker, leader.term)).cloned();
        let bytes = if with_sizes { size_bytes(context, *id) } else { None };
        let leader = leader.map(|leader| leader.broker);
        let facts = ShardFacts { placed: (**placed).clone(), leader, led, bytes };
        (*id, if *id == ShardId::CATALOG { facts.without_gone(own) } else { facts })
    });
    Facts { alive, shards: shards.collect(), brokers }
}

/// Record bytes of a shard that this broker holds.
fn size_bytes(context: &Context, shard: ShardId) -> Option<u64> {
    let logs = context.node.shard(shard)?.logs();
    Some(logs.iter().map(|(_, log)| log.size_bytes()).sum())
}
