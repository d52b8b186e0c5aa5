//! The other brokers: their connections, what the catalog lists of them, and what they report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use ropewalk_node::Node;
use ropewalk_peer::PeerAddress;
use ropewalk_shard::{BrokerId, Payload, ShardId};
use tokio::sync::Notify;

use super::connections::Connections;
use super::link::Link;
use super::report::{self, Report, ReportSource};
use super::wire::Request;
use super::{Holders, KnownBroker};

/// The other brokers.
pub(super) struct Remote {
    pub(super) node: Arc<Node>,
    pub(super) own: Arc<KnownBroker>,
    pub(super) link: Arc<Link>,
    pub(super) peers: Arc<dyn Connections>,
    pub(super) incarnation: u64,
    /// Number of the last report.
    pub(super) sequence: AtomicU64,
    pub(super) source: OnceLock<Arc<dyn ReportSource>>,
    /// All brokers, in the order of ids.
    pub(super) known: RwLock<Vec<Arc<KnownBroker>>>,
    /// Addresses of brokers that the catalog here may not list.
    pub(super) seeds: RwLock<BTreeMap<BrokerId, PeerAddress>>,
    /// The brokers that are connected to.
    pub(super) addresses: Mutex<BTreeMap<BrokerId, PeerAddress>>,
    /// Wakes the task that connects to brokers.
    pub(super) seeded: Notify,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Remote {
    /// Takes over the brokers of the catalog.
    pub(super) fn refresh(&self) {
        let listed = self.link.directory().brokers();
        // From now on the catalog says whether they are members.
        let mut seeds = self.seeds.write();
        for broker in listed.iter().filter(|broker| broker.peer.is_some()) {
            seeds.remove(&broker.known.id);
        }
        let mut addresses = seeds.clone();
        drop(seeds);
        let mut known = vec![Arc::clone(&self.own)];
        for broker in listed {
            let id = broker.known.id;
            if let Some(peer) = broker.peer {
                addresses.insert(id, peer);
            }
            if id != self.own.id {
                known.push(broker.known);
            }
        }
        known.sort_unstable_by_key(|broker| broker.id);
        *self.known.write() = known;
        // Most changes of the catalog are of topics.
        let mut used = self.addresses.lock();
        if *used != addresses {
            self.peers.set_peers(&addresses);
            *used = addresses;
        }
    }

    /// The state of this broker now.
    pub(super) fn report(&self) -> Report {
        let source = self.source.get().map(|source| &**source);
        Report {
            broker: self.own.id,
            incarnation: self.incarnation,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            flags: source.map(ReportSource::flags).unwrap_or_default(),
            led: report::led(&self.node, source),
        }
    }

    pub(super) fn report_payload(&self) -> Payload {
        Request::Report(self.report()).encode()
    }

    /// The members of the shard as this broker's replica has applied them, else as its leader
    /// reports them, else as the catalog wants them.
    pub(super) fn holders(&self, shard: ShardId) -> Holders {
        let members: Vec<(BrokerId, bool)> = self.members(shard);
        let mut holders = Holders::default();
        for (broker, is_voter) in members {
            let group = if is_voter { &mut holders.voters } else { &mut holders.learners };
            group.push(broker);
        }
        for group in [&mut holders.voters, &mut holders.learners] {
            group.sort_unstable();
            group.dedup();
        }
        let is_reachable =
            |broker: &BrokerId| *broker == self.own.id || self.link.is_connected(*broker);
        holders.reachable = holders.voters.iter().copied().filter(is_reachable).collect();
        holders.in_sync = match self.in_sync(shard) {
            Some(in_sync) => {
                holders.voters.iter().copied().filter(|id| in_sync.contains(id)).collect()
            }
            None => holders.reachable.clone(),
        };
        holders
    }

    /// The brokers whose replicas are caught up, as the leader of the shard knows it: this broker,
    /// or one that has reported it.
    fn in_sync(&self, shard: ShardId) -> Option<BTreeSet<BrokerId>> {
        let led = self.node.shard(shard).filter(|held| held.leading().is_some());
        let caught_up: Vec<u64> = match led {
            Some(held) => {
                let members = held.progress().into_iter();
                members.filter(|member| member.is_caught_up).map(|member| member.replica).collect()
            }
            None => self.link.leaders(|leaders| {
                let members = &leaders.led(shard)?.members;
                let caught_up = members.iter().filter(|member| member.is_caught_up);
                Some(caught_up.map(|member| member.replica.0).collect())
            })?,
        };
        Some(caught_up.into_iter().filter_map(|id| self.link.broker_of(shard, id)).collect())
    }

    pub(super) fn members(&self, shard: ShardId) -> Vec<(BrokerId, bool)> {
        let broker_of = |replica| self.link.broker_of(shard, replica);
        if let Some(held) = self.node.shard(shard) {
            let members = held.replication().members;
            let voters = members.voters.iter().map(|replica| (*replica, true));
            let all = voters.chain(members.learners.iter().map(|replica| (*replica, false)));
            let found: Vec<_> =
                all.filter_map(|(replica, votes)| Some((broker_of(replica)?, votes))).collect();
            if !found.is_empty() {
                return found;
            }
        }
        let reported = self.link.leaders(|leaders| Some(leaders.led(shard)?.members.clone()));
        if let Some(members) = reported {
            let broker =
                |member: &report::Member| Some((broker_of(member.replica.0)?, member.is_voter));
            return members.iter().filter_map(broker).collect();
        }
        let listed = self.link.directory().replicas(shard);
        listed.iter().map(|listed| (listed.broker, listed.is_voter)).collect()
    }
}
