//! A broker that stops, or that is to be restarted, hands its leaderships over, so that no shard
//! waits for an election.

use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::ShardHandle;
use ropewalk_shard::ShardId;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::report::Flags;
use super::{Cluster, Remote};

/// How long a broker that stops tries to hand its leaderships over.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// Interval of looking who leads.
const PAUSE: Duration = Duration::from_millis(20);

/// Time before a leadership that is still here is offered again. Raft gives a transfer up after an
/// election timeout.
const OFFERED_AGAIN: Duration = Duration::from_secs(1);

/// A voter of a shard on another broker that is connected.
#[derive(Debug, Clone, Copy)]
struct Other {
    replica: u64,
    is_caught_up: bool,
    /// Whether nothing in the report of its broker speaks against another leadership.
    is_fit: bool,
}

impl Cluster {
    /// Offers the leadership of every shard that this broker leads to a voter that has caught up
    /// and whose broker is connected, `only_fit` to one that should take more leaderships. Returns
    /// how many it leads that such a voter could lead. A replica that cannot take over in time does
    /// not, so it may have to be repeated.
    pub fn offer_leaderships(&self, only_fit: bool) -> usize {
        let Some(remote) = &self.remote else { return 0 };
        let mut left = self.led_with_others(remote);
        if only_fit {
            left.iter_mut().for_each(|(_, others)| others.retain(|other| other.is_fit));
            left.retain(|(_, others)| !others.is_empty());
        }
        offer(&left);
        left.len()
    }

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
                offer(&left);
                offered = Some(Instant::now());
            }
            sleep(PAUSE).await;
        }
    }

    /// The shards that this broker leads, each with its voters on other brokers that are connected.
    fn led_with_others(&self, remote: &Remote) -> Vec<(Arc<ShardHandle>, Vec<Other>)> {
        let led = self.node.shards().filter(|shard| shard.leading().is_some());
        let with_others = led.map(|shard| {
            let voters = shard.progress().into_iter().filter(|member| member.is_voter);
            let others = voters.filter_map(|member| {
                let broker = remote.link.broker_of(shard.id(), member.replica)?;
                let is_other = broker != self.own.id && remote.link.is_connected(broker);
                let flags = remote.link.leaders(|all| all.report(broker).map(|r| r.flags));
                let is_fit = flags == Some(Flags::default());
                let (replica, is_caught_up) = (member.replica, member.is_caught_up);
                is_other.then_some(Other { replica, is_caught_up, is_fit })
            });
            (Arc::clone(shard), others.collect::<Vec<_>>())
        });
        with_others.filter(|(_, others)| !others.is_empty()).collect()
    }
}

fn offer(led: &[(Arc<ShardHandle>, Vec<Other>)]) {
    for (shard, others) in led {
        if let Some(to) = successor(shard.id(), others) {
            shard.transfer_leadership(to);
        }
    }
}

/// A voter that has caught up, if possible on a broker that should take more leaderships. Shards
/// with the same voters choose in turn, so that no broker takes over all.
fn successor(shard: ShardId, others: &[Other]) -> Option<u64> {
    let mut able: Vec<&Other> = others.iter().filter(|other| other.is_caught_up).collect();
    if able.iter().any(|other| other.is_fit) {
        able.retain(|other| other.is_fit);
    }
    let at = usize::try_from(shard.0).ok()?.checked_rem(able.len())?;
    Some(able[at].replica)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaderships_are_offered_in_turn_to_fit_voters_that_have_caught_up() {
        let other = |replica, is_caught_up, is_fit| Other { replica, is_caught_up, is_fit };
        let all = [other(1, true, true), other(2, true, true)];
        let chosen = |others: &[Other]| [4, 5].map(|shard| successor(ShardId(shard), others));
        assert_eq!(chosen(&all), [Some(1), Some(2)]);
        assert_eq!(chosen(&[all[0], other(2, false, true)]), [Some(1); 2]);
        assert_eq!(chosen(&[other(1, true, false), all[1]]), [Some(2); 2]);
        assert_eq!(chosen(&[other(1, true, false)]), [Some(1); 2], "there is no better one");
        assert_eq!(chosen(&[other(1, false, true)]), [None; 2]);
        assert_eq!(chosen(&[]), [None; 2]);
    }
}
