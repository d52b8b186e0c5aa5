//! Whether this broker serves Kafka clients now.
//!
//! A broker that does not reach the others can serve nothing, and what it knows is outdated. Some
//! clients ask the broker that they used last for as long as it answers: librdkafka for the
//! coordinator of a group or a producer id. Therefore such a broker closes its connections, and new
//! ones at once, and clients turn to another one. Kafka's brokers do not do this.
//!
//! A broker without a majority of the catalog may still lead shards in a large cluster, or in one
//! that grows; then it serves on, if any client uses them.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_shard::ShardId;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Cluster;

/// Interval of looking for a leader of the catalog.
const POLL: Duration = Duration::from_millis(50);

/// Interval of looking whether the broker is cut off.
const LOOK: Duration = Duration::from_millis(200);

/// A broker is cut off when it was so for so many looks in turn: half a second, in which it ran.
/// One that was suspended hears of the others again sooner, and then informs its clients who leads.
const LOOKS: u32 = 3;

/// Decides whether clients are served.
#[derive(Debug)]
pub struct Entrance {
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    serving: watch::Sender<bool>,
}

impl Entrance {
    /// The entrance of a broker. The receiver is true while clients are served: not at first.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, node: &Arc<Node>) -> (Self, watch::Receiver<bool>) {
        let (serving, is_serving) = watch::channel(false);
        let (cluster, node) = (Arc::clone(cluster), Arc::clone(node));
        (Self { cluster, node, serving }, is_serving)
    }

    /// Waits until a leader of the catalog is known, and serves clients from then on; `/ready`
    /// reports that there is none.
    pub async fn open(&self) {
        if !self.knows_leader() {
            info!("clients are served once a leader of the catalog is known");
        }
        while !self.knows_leader() {
            tokio::time::sleep(POLL).await;
        }
        self.serving.send_replace(true);
    }

    /// Stops serving clients while this broker is cut off. It never ends.
    pub async fn watch(self) {
        if self.cluster.is_alone() {
            return std::future::pending().await;
        }
        let mut looks = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            looks = if self.is_cut_off() { looks + 1 } else { 0 };
            if looks < LOOKS {
                continue;
            }
            warn!("too few other brokers are reached: clients are not served meanwhile");
            self.serving.send_replace(false);
            while self.is_cut_off() {
                tokio::time::sleep(POLL).await;
            }
            self.open().await;
            info!("clients are served again");
            looks = 0;
        }
    }

    fn knows_leader(&self) -> bool {
        self.cluster.is_alone() || self.cluster.leader(ShardId::CATALOG).is_some()
    }

    fn is_cut_off(&self) -> bool {
        self.cluster.lacks_majority(ShardId::CATALOG) && !self.serves_any()
    }

    /// Whether this broker leads a shard that any client uses.
    fn serves_any(&self) -> bool {
        let mut led = self.node.shards().filter(|shard| shard.leading().is_some());
        led.any(|shard| {
            let state = shard.state();
            !state.partitions.is_empty() || !state.groups.is_empty()
        })
    }
}
