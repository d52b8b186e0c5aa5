//! Keeps what the catalog says of this broker true: its addresses, and the number of its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_shard::command::{CatalogCommand, Command};
use ropewalk_shard::state::catalog::{Answer, BrokerInfo};
use ropewalk_shard::{BrokerId, Outcome, ShardId};
use tracing::{debug, error, info};

use super::join::{Failure, Join};
use super::open::Others;
use crate::catalog::View;
use crate::cluster::Cluster;

/// Pause after a registration that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause after one that was refused, which only a person can change.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// After as many failures the brokers of `ropewalk.cluster.join` are asked: perhaps all addresses
/// in the catalog are outdated.
const FAILURES_MAX: u32 = 3;

/// Registers a broker whenever the catalog does not list what it is.
pub(super) struct Registration {
    pub(super) cluster: Arc<Cluster>,
    pub(super) view: Arc<View>,
    pub(super) id: BrokerId,
    pub(super) others: Others,
    /// The file with the token of the cluster, if it has one.
    pub(super) token_file: Option<PathBuf>,
}

impl Registration {
    /// Registers the broker until the task is aborted.
    pub(super) async fn run(self) {
        let mut changed = self.view.changed();
        let mut failures = 0;
        loop {
            changed.borrow_and_update();
            if is_listed(self.view.brokers().get(&self.id), &self.others.info) {
                failures = 0;
                // The view never ends before its broker.
                let _ = changed.changed().await;
                continue;
            }
            let pause = self.register(&mut failures).await;
            let _ = tokio::time::timeout(pause, changed.changed()).await;
        }
    }

    /// Registers the broker once. Returns how long to wait for the catalog to list it.
    async fn register(&self, failures: &mut u32) -> Duration {
        let command =
            CatalogCommand::RegisterBroker { broker: self.id, info: self.others.info.clone() };
        match self.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await {
            Ok(Outcome::Catalog { answer: Answer::Refused(refusal), .. }) => {
                error!("this broker is not registered: {refusal}");
                return REFUSED_PAUSE;
            }
            Ok(_) => {
                info!(incarnation = self.others.info.incarnation, "registered in the catalog");
                *failures = 0;
            }
            Err(error) => {
                debug!(%error, "not registered in the catalog yet");
                *failures += 1;
                if *failures >= FAILURES_MAX {
                    return self.ask_seeds().await;
                }
            }
        }
        PAUSE
    }

    /// Asks the brokers of the settings. Returns how long to wait before the next attempt.
    async fn ask_seeds(&self) -> Duration {
        let join = Join {
            brokers: &self.others.settings.join,
            id: self.id,
            info: &self.others.info,
            token_file: self.token_file.clone(),
            network: self.others.network.clone(),
        };
        match join.once().await {
            Ok(joined) => self.cluster.seed(joined.brokers),
            Err(Failure::Later(why)) => debug!(why, "no other broker registers this one"),
            Err(Failure::Lasting(why)) => {
                error!("this broker is not registered, the others refuse it: {why}");
                return REFUSED_PAUSE;
            }
        }
        PAUSE
    }
}

/// Whether the catalog lists the broker as it is. The standing is not the broker's to say.
fn is_listed(listed: Option<&BrokerInfo>, own: &BrokerInfo) -> bool {
    listed.is_some_and(|listed| BrokerInfo { standing: own.standing, ..listed.clone() } == *own)
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::state::catalog::Standing;

    use super::*;

    #[test]
    fn a_broker_is_listed_with_its_addresses_and_any_standing() {
        let own = BrokerInfo { incarnation: 3, admin: Some("a:1".into()), ..BrokerInfo::default() };
        assert!(!is_listed(None, &own));
        assert!(is_listed(Some(&own), &own));
        assert!(is_listed(Some(&BrokerInfo { standing: Standing::Draining, ..own.clone() }), &own));
        assert!(!is_listed(Some(&BrokerInfo { incarnation: 2, ..own.clone() }), &own));
        assert!(!is_listed(Some(&BrokerInfo { admin: Some("a:2".into()), ..own.clone() }), &own));
    }
}
