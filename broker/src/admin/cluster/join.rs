//! `POST /v1/cluster/brokers`: a broker joins the cluster, or registers its addresses again.
//!
//! A broker asks any member, which proposes to the leader of the catalog. The first call of a
//! broker that has no data directory yet carries the incarnation 0, and says only which cluster it
//! is. With the number of its first start it gets its replica of the catalog. So the id of a broker
//! whose directory is lost is refused, because the votes in it are lost as well (D4).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use ropewalk_shard::command::{CatalogCommand, Command};
use ropewalk_shard::state::catalog::{
    Answer as CatalogAnswer, BrokerInfo, PeerEndpoint, Refusal, Standing,
};
use ropewalk_shard::{BrokerId, Outcome, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::changes::Body;
use crate::admin::client::Answer;
use crate::admin::refusal::AdminError;
use crate::handle::Context;

/// Longest host name, listener name, rack or address, bytes.
const NAME_BYTES_MAX: usize = 255;

/// Most listeners of a broker.
const LISTENERS_MAX: usize = 16;

/// A broker that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinBody {
    broker_id: i32,
    rack: Option<String>,
    peer_host: String,
    /// UDP ports of messages and of files.
    peer_ports: [u16; 2],
    /// Host and port of each Kafka listener, by its name.
    endpoints: BTreeMap<String, (String, u16)>,
    admin_address: Option<String>,
    /// Number of the start of the broker; 0 before its data directory is formatted.
    incarnation: u64,
}

/// The cluster that the broker belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinOutcome {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Number of its shards, without the catalog.
    pub shards: u32,
    /// Raft id of the broker's replica of the catalog; null for the incarnation 0.
    pub replica: Option<u64>,
    /// The brokers of the cluster and their addresses.
    pub brokers: Vec<JoinedBroker>,
}

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinedBroker {
    /// Id of the broker.
    pub broker_id: i32,
    /// Host for the other brokers.
    pub peer_host: String,
    /// UDP ports of messages and of files.
    pub peer_ports: [u16; 2],
}

impl JoinBody {
    /// What a broker says of itself.
    ///
    /// # Panics
    /// When the broker has no address for the others.
    #[must_use]
    pub fn new(id: BrokerId, info: &BrokerInfo) -> Self {
        let peer = info.peer.clone().expect("a broker that joins has an address for the others");
        Self {
            broker_id: id.0,
            rack: info.rack.clone(),
            peer_host: peer.host,
            peer_ports: peer.ports,
            endpoints: info.endpoints.clone(),
            admin_address: info.admin.clone(),
            incarnation: info.incarnation,
        }
    }

    /// Checks what the catalog would store (R1).
    fn check(self) -> Result<(BrokerId, BrokerInfo), AdminError> {
        if let Some(why) = self.wrong() {
            return Err(AdminError::bad("InvalidBroker", why));
        }
        let info = BrokerInfo {
            rack: self.rack,
            peer: Some(PeerEndpoint { host: self.peer_host, ports: self.peer_ports }),
            endpoints: self.endpoints,
            admin: self.admin_address,
            incarnation: self.incarnation,
            standing: Standing::Serving,
        };
        Ok((BrokerId(self.broker_id), info))
    }

    fn wrong(&self) -> Option<String> {
        if self.broker_id < 0 {
            return Some(format!("brokerId {} is negative", self.broker_id));
        }
        if self.endpoints.len() > LISTENERS_MAX {
            return Some(format!(
                "{} endpoints are more than {LISTENERS_MAX}",
                self.endpoints.len()
            ));
        }
        let hosts = self.endpoints.values().map(|(host, _)| host);
        let names = self.endpoints.keys().chain(hosts).chain([&self.peer_host]);
        let mut names = names.chain(&self.rack).chain(&self.admin_address);
        if let Some(name) = names.find(|name| !(1..=NAME_BYTES_MAX).contains(&name.len())) {
            let length = name.len();
            return Some(format!(
                "a name or address has {length} bytes, it must have from 1 to {NAME_BYTES_MAX}"
            ));
        }
        let mut ports = self.endpoints.values().map(|(_, port)| port).chain(&self.peer_ports);
        let is_zero = ports.any(|port| *port == 0);
        is_zero.then(|| "port 0 is no port that others can connect to".to_owned())
    }
}

/// Registers the broker of the body in the catalog, and answers which cluster it joins.
pub(in crate::admin) async fn join(
    State(admin): State<Arc<Admin>>,
    Body(body): Body<JoinBody>,
) -> Result<Json<JoinOutcome>, AdminError> {
    joined(&admin.open()?.context, body).await.map(Json)
}

/// The answer to a call that did not come through the server.
pub(crate) async fn answer(context: &Context, body: Value) -> Answer {
    let joined = match serde_json::from_value(body) {
        Ok(body) => joined(context, body).await,
        Err(error) => Err(AdminError::bad("BadBody", error.to_string())),
    };
    match joined {
        Ok(outcome) => {
            let body = serde_json::to_value(outcome).expect("it is plain data");
            Answer { status: 200, body }
        }
        Err(error) => {
            let body = json!({ "reason": error.reason, "error": error.error });
            Answer { status: error.status.as_u16(), body }
        }
    }
}

async fn joined(context: &Context, body: JoinBody) -> Result<JoinOutcome, AdminError> {
    if context.settings.peers().is_ok_and(|peers| peers.is_none()) {
        let why = "this broker is alone: set ropewalk.peer.listener and its certificate files, and restart it, so \
                   that others can join it";
        return Err(AdminError::conflict("Alone", why.to_owned()));
    }
    let (broker, info) = body.check()?;
    let has_directory = info.incarnation > 0;
    tracing::info!(broker = broker.0, incarnation = info.incarnation, "a broker joins");
    let registered = catalog(context, CatalogCommand::RegisterBroker { broker, info }).await?;
    if let CatalogAnswer::Refused(refusal) = registered {
        if let Refusal::StaleIncarnation { newest, .. } = refusal
            && !has_directory
        {
            let id = broker.0;
            let text = format!(
                "broker {id} has run {newest} times in this cluster, and its data directory is empty: its votes are \
                 lost with it. Restore the directory; or start this broker with a node.id that was never used \
                 here, so that it can take the replicas of broker {id}: drain that one with `cluster drain {id}`, \
                 then remove it with `cluster remove {id}`"
            );
            return Err(AdminError::conflict("DirectoryLost", text));
        }
        return Err(refusal.into());
    }
    let mut replica = None;
    if has_directory {
        let place = CatalogCommand::PlaceReplica { shard: ShardId::CATALOG, broker };
        let placed = catalog(context, place).await?;
        if let CatalogAnswer::Refused(refusal) = placed {
            return Err(refusal.into());
        }
        let CatalogAnswer::Replica(ReplicaId(placed)) = placed else {
            unreachable!("the outcome matches the command")
        };
        replica = Some(placed);
    }
    let identity = context.node.identity();
    let brokers = context.view.brokers();
    let brokers = brokers.iter().filter_map(|(id, info)| {
        let PeerEndpoint { host, ports } = info.peer.clone()?;
        Some(JoinedBroker { broker_id: id.0, peer_host: host, peer_ports: ports })
    });
    Ok(JoinOutcome {
        cluster_id: identity.cluster_id.clone(),
        shards: identity.shards,
        replica,
        brokers: brokers.collect(),
    })
}

async fn catalog(context: &Context, command: CatalogCommand) -> Result<CatalogAnswer, AdminError> {
    let outcome = context.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await?;
    if let Outcome::Catalog { answer, .. } = outcome {
        Ok(answer)
    } else {
        Err(AdminError::not_ready(format!("unexpected outcome {outcome:?}: retry")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> JoinBody {
        JoinBody {
            broker_id: 2,
            rack: Some("a".into()),
            peer_host: "h".into(),
            peer_ports: [1, 2],
            endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), ("h".to_owned(), 9092))]),
            admin_address: Some("h:9644".into()),
            incarnation: 3,
        }
    }

    #[test]
    fn what_is_sent_is_what_the_catalog_stores() {
        let (id, info) = body().check().expect("valid");
        assert_eq!((id, info.incarnation), (BrokerId(2), 3));
        assert_eq!(JoinBody::new(id, &info), body());
    }

    #[test]
    fn r1_names_and_ports_have_bounds() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let many = (0..=LISTENERS_MAX).map(|n| (n.to_string(), ("h".to_owned(), 1))).collect();
        for wrong in [
            JoinBody { broker_id: -1, ..body() },
            JoinBody { peer_host: String::new(), ..body() },
            JoinBody { rack: Some(long.clone()), ..body() },
            JoinBody { admin_address: Some(long), ..body() },
            JoinBody { peer_ports: [1, 0], ..body() },
            JoinBody { endpoints: many, ..body() },
        ] {
            assert_eq!(wrong.check().expect_err("refused").reason, "InvalidBroker");
        }
    }
}
