//! The tasks of the peers: two ports, two tasks that dial for each peer, one that watches the
//! certificate files.

use std::collections::BTreeMap;
use std::sync::Arc;

use quinn::Endpoint;
use ropewalk_shard::BrokerId;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::accept::Port;
use crate::dial::Dial;
use crate::hello::Class;
use crate::limits;
use crate::local::Local;
use crate::peer::{Close, Peer};
use crate::tasks::Tasks;

/// Serves the peers while it runs. The caller supervises it: without it no message is sent or
/// received.
#[must_use = "messages are sent and received only while it runs"]
pub struct Service {
    pub(crate) local: Arc<Local>,
    /// Indexed by [`Class::index`].
    pub(crate) endpoints: [Endpoint; 2],
    pub(crate) stopping: Arc<Notify>,
}

/// A task of the service has ended, which none does while the service runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connections to other brokers are no longer served: {0}")]
pub struct ServiceError(String);

impl Service {
    /// Serves the peers until [`crate::Peers::stop`] is called. Dropping the future closes all
    /// connections.
    ///
    /// # Errors
    /// When a task panics, or a UDP socket fails.
    pub async fn run(self) -> Result<(), ServiceError> {
        let mut tasks = Tasks::default();
        // Dropped before the tasks, so that their connections are closed first.
        let ports = Ports(self.endpoints.clone());
        for class in Class::ALL {
            let endpoint = self.endpoints[class.index()].clone();
            let port = Port { local: self.local.clone(), endpoint, class };
            tasks.start(port.run());
        }
        tasks.start(watch(self.local.clone()));
        let mut dialling = BTreeMap::new();
        loop {
            self.dial(&mut tasks, &mut dialling);
            tokio::select! {
                () = self.local.peers_changed.notified() => {}
                () = self.stopping.notified() => break,
                how = tasks.ended() => return Err(ServiceError(how)),
            }
        }
        ports.close();
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        // Peers that do not answer notice the end by their idle timeout.
        let _ = timeout(limits::SHUTDOWN_TIMEOUT, idle).await;
        Ok(())
    }

    /// Starts the tasks of new peers and ends those of removed ones.
    fn dial(&self, tasks: &mut Tasks, dialling: &mut BTreeMap<BrokerId, Dialling>) {
        let peers = self.local.peers();
        dialling.retain(|_, running| {
            let stays = peers.iter().any(|peer| Arc::ptr_eq(peer, &running.peer));
            if !stays {
                running.handles.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for peer in peers {
            dialling.entry(peer.broker).or_insert_with(|| {
                let handles = Class::ALL.map(|class| {
                    let endpoint = self.endpoints[class.index()].clone();
                    let (local, peer) = (self.local.clone(), peer.clone());
                    tasks.start(Dial { local, endpoint, peer, class }.run())
                });
                Dialling { peer: peer.clone(), handles }
            });
        }
    }
}

/// The tasks that dial a peer.
struct Dialling {
    peer: Arc<Peer>,
    handles: [AbortHandle; 2],
}

/// The endpoints, which close their connections when they are dropped.
struct Ports([Endpoint; 2]);

impl Ports {
    fn close(&self) {
        for endpoint in &self.0 {
            endpoint.close(Close::Stopping.code(), b"the broker is stopping");
        }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.close();
    }
}

/// Uses changed certificate files. It never ends.
async fn watch(local: Arc<Local>) {
    let mut ticks = interval(limits::CERTIFICATE_POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let local = local.clone();
        let checked = spawn_blocking(move || local.reload_if_changed()).await;
        if let Err(error) = checked {
            tracing::error!(%error, "certificate files not checked, will retry");
        }
    }
}
