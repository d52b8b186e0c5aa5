//! Who leads, as clients are informed: also a broker that this one no longer hears of.

use std::collections::BTreeSet;

use ropewalk_shard::{BrokerId, ShardId};
use tokio::time::{Instant, timeout_at};

use super::{Cluster, Leader, Seen, look_again};

impl Cluster {
    /// The newest term of a shard that this broker knows, and the leader in it, also one that is no
    /// longer heard of: this broker may be the only one that does not reach it. Of
    /// [`Self::leader`], which is for decisions, this differs only then.
    #[must_use]
    pub fn last_leader(&self, shard: ShardId) -> Seen {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.last_leader(shard);
        }
        if let Some(Leader { broker, term }) = self.leader(shard) {
            return Seen { term, leader: Some(broker) };
        }
        let Some(remote) = &self.remote else {
            let term = self.node.shard(shard).map_or(0, |held| held.leader_seen().0);
            return Seen { term, leader: None };
        };
        let seen = self.seen_by_own(remote, shard);
        remote.link.leaders(|leaders| leaders.last(shard, seen))
    }

    /// Waits until a leader of each shard is known, at most until then.
    pub async fn know_leaders(&self, shards: &BTreeSet<ShardId>, until: Instant) {
        let mut news = self.remote.as_ref().map(|remote| remote.link.news());
        loop {
            if let Some(news) = &mut news {
                news.borrow_and_update();
            }
            if shards.iter().all(|shard| self.last_leader(*shard).leader.is_some()) {
                return;
            }
            if timeout_at(until, look_again(news.as_mut())).await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is known who leads each shard, and that the process of none of these leaders
    /// has ended, at most until then. A client that has lost its connection to a leader asks at
    /// once, before the other brokers have noticed; some would not ask again for seconds.
    pub async fn know_living_leaders(&self, shards: &BTreeSet<ShardId>, until: Instant) {
        let Some(remote) = &self.remote else { return };
        let is_led_here = |shard: &ShardId| self.last_leader(*shard).leader == Some(self.own.id);
        if !shards.iter().all(is_led_here) {
            remote.peers.look().await;
            self.know_leaders(shards, until).await;
        }
    }

    /// Whether a broker is the [last known leader](Self::last_leader) of any shard.
    #[must_use]
    pub fn leads_any(&self, broker: BrokerId) -> bool {
        let Some(remote) = &self.remote else { return false };
        let led: Vec<_> = remote.link.leaders(|leaders| leaders.last_led(broker).collect());
        led.into_iter().any(|shard| self.last_leader(shard).leader == Some(broker))
    }
}
