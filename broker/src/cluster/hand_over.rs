//! A broker that stops hands its leaderships over, so that no shard waits for an election.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::{Progress, ShardHandle};
use ropewalk_shard::ShardId;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Cluster, Remote};

/// How long a broker that stops tries to hand its leaderships over.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// Interval of looking who leads.
const PAUSE: Duration = Duration::from_millis(20);

/// Time before a leadership that is still here is offered again. Raft gives a transfer up after an
/// election timeout.
const OFFERED_AGAIN: Duration = Duration::from_secs(1);

impl Cluster {
    /// Hands the leadership of every shard that this broker leads to a voter that has caught up and
    /// whose broker is connected. Returns when this broker leads no shard with a connected voter
    /// any more, or after `HAND_OVER_MAX`. The others elect a leader for what is left. The result
    /// is whether there was any leadership to hand over.
    pub async fn hand_over(&self) -> bool {
        let Some(remote) = &self.remote else { return false };
        let (begun, mut offered) = (Instant::now(), None::<Instant>);
        loop {
            let left = self.led_with_others(remote);
            if left.is_empty() {
                info!("this broker leads no shard that another could lead");
                return offered.is_some();
            }
            if begun.elapsed() >= HAND_OVER_MAX {
                warn!(shards = left.len(), "leaderships are not handed over: an election follows");
                return offered.is_some();
            }
            if offered.is_none_or(|at| at.elapsed() >= OFFERED_AGAIN) {
                for (shard, others) in left {
                    if let Some(to) = successor(shard.id(), &others) {
                        shard.transfer_leadership(to);
                        offered = Some(Instant::now());
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// The shards that this broker leads, each with its voters on other brokers that are connected.
    fn led_with_others(&self, remote: &Remote) -> Vec<(Arc<ShardHandle>, Vec<Progress>)> {
        let led = self.node.shards().filter(|shard| shard.leading().is_some());
        let with_others = led.map(|shard| {
            let mut others = shard.progress();
            others.retain(|member| {
                let broker = remote.link.broker_of(shard.id(), member.replica);
                let is_connected =
                    |broker| broker != self.own.id && remote.link.is_connected(broker);
                member.is_voter && broker.is_some_and(is_connected)
            });
            (Arc::clone(shard), others)
        });
        with_others.filter(|(_, others)| !others.is_empty()).collect()
    }
}

/// A voter that has caught up. Shards with the same voters choose in turn, so that no broker takes
/// over all.
fn successor(shard: ShardId, others: &[Progress]) -> Option<u64> {
    let able: Vec<u64> =
        others.iter().filter(|other| other.is_caught_up).map(|other| other.replica).collect();
    let at = usize::try_from(shard.0).ok()?.checked_rem(able.len())?;
    Some(able[at])
}
