//! Joining a cluster over the admin API of its brokers.
//!
//! The first contact is not over QUIC, because brokers refuse connections of a broker that their
//! catalog does not list. `POST /v1/cluster/brokers` lists it. It may be repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_peer::PeerAddress;
use ropewalk_shard::BrokerId;
use ropewalk_shard::state::catalog::BrokerInfo;
use serde_json::Value;
use tracing::{info, warn};

use super::StartError;
use super::surroundings::Network;
use crate::admin::client::{Answer, Client};
use crate::admin::cluster::join::{JoinBody, JoinOutcome};
use crate::settings::Endpoint;

/// Pause before the brokers are asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a failure that stays the same is logged.
const REPORT_EVERY: u32 = 30;

/// A request to join.
pub(super) struct Join<'a> {
    /// Admin addresses of brokers of the cluster.
    pub(super) brokers: &'a [Endpoint],
    /// Id of this broker.
    pub(super) id: BrokerId,
    /// The registration of this broker in the catalog.
    pub(super) info: &'a BrokerInfo,
    /// The file with the token of the cluster, if it has one.
    pub(super) token_file: Option<PathBuf>,
    /// The network of a simulation.
    pub(super) network: Option<Arc<dyn Network>>,
}

/// The cluster that this broker belongs to from now on.
pub(super) struct Joined {
    pub(super) cluster_id: String,
    pub(super) shards: u32,
    /// Raft id of this broker's replica of the catalog; `None` until the broker has a data
    /// directory.
    pub(super) replica: Option<u64>,
    /// Where the brokers are reached.
    pub(super) brokers: BTreeMap<BrokerId, PeerAddress>,
}

/// Why a broker did not let this one join.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may in some time.
    Later(String),
    /// A person has to act first.
    Lasting(String),
}

impl Join<'_> {
    /// Asks one broker after the other until one has let this broker join. `report` receives the
    /// reason for which it still waits.
    pub(super) async fn until_joined(&self, report: impl Fn(String)) -> Result<Joined, StartError> {
        let mut said = (String::new(), 0);
        for round in 0_u32.. {
            let why = match self.once().await {
                Ok(joined) => {
                    info!(cluster_id = joined.cluster_id, "joined the cluster");
                    return Ok(joined);
                }
                Err(Failure::Lasting(why)) => return Err(StartError::Join(why)),
                Err(Failure::Later(why)) => why,
            };
            if said.0 != why || round - said.1 >= REPORT_EVERY {
                warn!("not joined to the cluster yet: {why}");
                said = (why.clone(), round);
            }
            report(format!("the broker joins the cluster: {why}"));
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("it asks for longer than a broker runs")
    }

    /// Asks each broker once. The last failure is returned if none lets this broker join.
    pub(super) async fn once(&self) -> Result<Joined, Failure> {
        let mut failure = Failure::Later("no broker is named".into());
        for broker in self.brokers {
            match self.ask(broker).await {
                Ok(joined) => return Ok(joined),
                Err(lasting @ Failure::Lasting(_)) => return Err(lasting),
                Err(later) => failure = later,
            }
        }
        Err(failure)
    }

    async fn ask(&self, broker: &Endpoint) -> Result<Joined, Failure> {
        let token = match &self.token_file {
            Some(path) => {
                let read = tokio::fs::read_to_string(path).await;
                let read = read.map_err(|error| {
                    Failure::Later(format!("admin.token.file {}: {error}", path.display()))
                })?;
                Some(read.trim().to_owned())
            }
            None => None,
        };
        let body = JoinBody::new(self.id, self.info);
        let body = serde_json::to_value(body).expect("it is plain data");
        let path = "/v1/cluster/brokers";
        let answer = match &self.network {
            Some(network) => network.post(broker, path, &body).await,
            None => {
                let answer = Client::new(broker.clone(), token).post(path, &body).await;
                answer.map_err(|error| error.to_string())
            }
        };
        let answer = answer.map_err(Failure::Later)?;
        judge(broker, answer)
    }
}

fn judge(broker: &Endpoint, answer: Answer) -> Result<Joined, Failure> {
    let said = format!("{broker}: {}", answer.error());
    match answer.status {
        200 => read(answer.body).map_err(|error| Failure::Later(format!("{broker}: {error}"))),
        400..500 => Err(Failure::Lasting(said)),
        _ => Err(Failure::Later(said)),
    }
}

fn read(body: Value) -> Result<Joined, serde_json::Error> {
    let JoinOutcome { cluster_id, shards, replica, brokers } = serde_json::from_value(body)?;
    let brokers = brokers.into_iter().map(|broker| {
        let address = PeerAddress { host: broker.peer_host, ports: broker.peer_ports };
        (BrokerId(broker.broker_id), address)
    });
    Ok(Joined { cluster_id, shards, replica, brokers: brokers.collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: Value) -> Result<Joined, String> {
        let broker = Endpoint { host: "b".into(), port: 1 };
        judge(&broker, Answer { status, body }).map_err(|failure| match failure {
            Failure::Later(why) => format!("later: {why}"),
            Failure::Lasting(why) => format!("lasting: {why}"),
        })
    }

    #[test]
    fn the_answer_names_the_cluster_and_its_brokers() {
        let peers = json!([{ "brokerId": 1, "peerHost": "h", "peerPorts": [7, 8] }]);
        let body = json!({ "clusterId": "c", "shards": 24, "replica": 5, "brokers": peers });
        let joined = answer(200, body).expect("joined");
        assert_eq!((joined.cluster_id.as_str(), joined.shards, joined.replica), ("c", 24, Some(5)));
        let address = PeerAddress { host: "h".into(), ports: [7, 8] };
        assert_eq!(joined.brokers, BTreeMap::from([(BrokerId(1), address)]));
    }

    #[test]
    fn what_a_person_has_to_settle_is_not_tried_again() {
        let refused = json!({ "reason": "StaleIncarnation", "error": "it is older" });
        assert_eq!(answer(409, refused.clone()).err(), Some("lasting: b:1: it is older".into()));
        assert_eq!(answer(503, refused).err(), Some("later: b:1: it is older".into()));
        let strange = answer(200, json!({ "hello": 1 })).err().expect("no cluster");
        assert!(strange.starts_with("later: b:1: "), "{strange}");
    }
}
