//! The cluster as this broker sees it: its brokers, who leads each shard, and proposals to any
//! shard, wherever it is led.
//!
//! Everything here is this broker's view, and may be outdated: a broker that is asked and does not
//! lead says so.
//!
//! # Order of opening
//!
//! A broker that is alone has [`Cluster::alone`]. Otherwise:
//!
//! 1. [`Link::new`] before the node, with the [`Directory`] of the catalog.
//! 2. [`Node::open`] with the link as its [`Peers`](ropewalk_node::Peers). The node's observer
//!    calls [`Link::leads`] whenever its own
//!    [`leads`](ropewalk_node::Observer::leads) is called.
//! 3. [`Cluster::open`] with the node and the link. It opens the sockets and returns the
//!    [`Service`], without which no message passes: the caller runs and supervises it.
//! 4. A broker that joins, or whose copy of the catalog is old, calls [`Cluster::seed`] with the
//!    brokers that another broker has named.
//! 5. [`Cluster::set_report`] as soon as there is something to measure, and
//!    [`metrics::PeerMetrics`] in the registry.
//!
//! At the end the node stops first, so that its leaders still reach their followers; then
//! [`Cluster::stop`].
//!
//! # Modules
//!
//! ```text
//! node ─▶ link ─▶ wire ─▶ ropewalk_peer ─▶ wire ─▶ link ─▶ node
//!                         service: reports ─▶ leaders
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use ropewalk_node::{Node, ShardHandle};
use ropewalk_peer::{Class, OpenError, PeerAddress};
use ropewalk_shard::command::Command;
use ropewalk_shard::{BrokerId, Outcome, ProposeError, ReplicaId, ShardId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

pub mod directory;
pub mod report;
pub mod wire;
pub mod connections;
mod entrance;
mod last_leaders;
mod hand_over;
mod leaders;
mod link;
pub mod metrics;
mod remote;
mod service;
pub use connections::Connections;
pub use directory::{Directory, KnownBroker, ListedBroker, ListedReplica};
pub use entrance::Entrance;
pub use leaders::{ALIVE_MAX, Leader, Seen};
pub use link::Link;
pub use report::{Report, ReportSource};
pub use service::Service;

use link::Forwarded;
use remote::Remote;

/// How long a proposal waits for a leader of its shard, or for its turn. An election after the loss
/// of a leader takes two to three seconds.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a proposal waits for news of a leader before it looks again: this broker's own replicas
/// do not notify when they hear of a leader.
const LEADER_POLL: Duration = Duration::from_millis(50);

/// The brokers that hold a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// The brokers whose replicas vote, in the order of their ids.
    pub voters: Vec<BrokerId>,
    /// The brokers whose replicas receive the log and do not vote yet.
    pub learners: Vec<BrokerId>,
    /// The voters that are connected to this broker, this one included.
    pub reachable: Vec<BrokerId>,
    /// The voters that lack little of the log, as the leader knows or has reported it; those of
    /// `reachable` while no leader is known.
    pub in_sync: Vec<BrokerId>,
}

/// Why a leadership was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No broker that leads the shard is known, or the one that was asked does not lead.
    #[error("the broker that leads the shard is not known")]
    NotLeader,
    /// The broker that leads did not answer. It may have handed the leadership over.
    #[error("the broker that leads the shard did not answer")]
    NoAnswer,
}

/// What a cluster of several brokers is opened with.
pub struct Options {
    /// The node of this broker, which was opened with the link.
    pub node: Arc<Node>,
    /// The link between the node and the connections.
    pub link: Arc<Link>,
    /// This broker, as clients are informed of it.
    pub own: KnownBroker,
    /// The sockets, the certificates and the identity of this broker.
    pub peers: ropewalk_peer::Options,
}

/// Connections to the other brokers that are open.
pub struct Connected {
    /// Number of this start of the broker.
    pub incarnation: u64,
    /// Sends to the other brokers.
    pub connections: Arc<dyn Connections>,
    /// Serves the connections.
    pub run: connections::Run,
}

/// The cluster as this broker sees it.
#[derive(Debug)]
pub struct Cluster {
    node: Arc<Node>,
    own: Arc<KnownBroker>,
    /// `None` if the broker is alone.
    remote: Option<Arc<Remote>>,
    #[cfg(test)]
    others: Option<Arc<dyn others::Others>>,
}

impl Cluster {
    /// The cluster of a broker that is alone.
    #[must_use]
    pub fn alone(node: Arc<Node>, own: KnownBroker) -> Arc<Self> {
        Arc::new(Self::new(node, Arc::new(own), None))
    }

    fn new(node: Arc<Node>, own: Arc<KnownBroker>, remote: Option<Arc<Remote>>) -> Self {
        Self {
            node,
            own,
            remote,
            #[cfg(test)]
            others: None,
        }
    }

    /// The cluster of a broker that knows of others what a test says.
    #[cfg(test)]
    pub(crate) fn among(
        node: Arc<Node>,
        own: KnownBroker,
        others: Arc<dyn others::Others>,
    ) -> Arc<Self> {
        Arc::new(Self { others: Some(others), ..Self::new(node, Arc::new(own), None) })
    }

    /// Opens the connections to the other brokers. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the certificates or the addresses cannot be used.
    ///
    /// # Panics
    /// When the link has been used for a cluster before.
    pub fn open(options: Options) -> Result<(Arc<Self>, Service), OpenError> {
        let Options { node, link, own, peers } = options;
        let incarnation = peers.incarnation;
        let (peers, connections) = ropewalk_peer::Peers::open(peers, Arc::clone(&link) as _)?;
        let connected = Connected {
            incarnation,
            connections: Arc::new(peers),
            run: Box::pin(connections.run()),
        };
        Ok(Self::over(node, link, own, connected))
    }

    /// Like [`Self::open`], with connections that are open and give what arrives to the link.
    ///
    /// # Panics
    /// When the link has been used for a cluster before.
    pub fn over(
        node: Arc<Node>,
        link: Arc<Link>,
        own: KnownBroker,
        connected: Connected,
    ) -> (Arc<Self>, Service) {
        let Connected { incarnation, connections: peers, run: connections } = connected;
        let own = Arc::new(own);
        link.connect(&node, Arc::clone(&peers));
        let remote = Arc::new(Remote {
            node: Arc::clone(&node),
            own: Arc::clone(&own),
            link,
            peers,
            incarnation,
            sequence: AtomicU64::new(0),
            source: OnceLock::new(),
            known: RwLock::default(),
            seeds: RwLock::default(),
            addresses: Mutex::default(),
            seeded: Notify::new(),
        });
        remote.refresh();
        let files = remote.link.take_files_queue();
        let service = Service { remote: Arc::clone(&remote), connections, files };
        (Arc::new(Self::new(node, own, Some(remote))), service)
    }

    /// Adds brokers to connect to that the catalog of this broker may not list yet. The catalog's
    /// own addresses are preferred. They are kept until the broker stops.
    pub fn seed(&self, brokers: BTreeMap<BrokerId, PeerAddress>) {
        if let Some(remote) = &self.remote {
            remote.seeds.write().extend(brokers);
            remote.seeded.notify_one();
        }
    }

    /// Sets what the reports of this broker say beside its leaderships. Only the first call counts.
    pub fn set_report(&self, source: Arc<dyn ReportSource>) {
        if let Some(remote) = &self.remote {
            let _ = remote.source.set(source);
        }
    }

    /// The address of the UDP socket of a class, with the port that the system has chosen; `None`
    /// if the broker is alone.
    #[must_use]
    pub fn local_addr(&self, class: Class) -> Option<SocketAddr> {
        self.remote.as_ref()?.peers.local_addr(class)
    }

    /// Ends the connections to the other brokers, and with them the [`Service`].
    pub fn stop(&self) {
        if let Some(remote) = &self.remote {
            remote.peers.stop();
        }
    }

    /// This broker itself, as clients are informed of it.
    #[must_use]
    pub fn own(&self) -> &Arc<KnownBroker> {
        &self.own
    }

    /// Every broker of the catalog, in the order of ids. This one is always among them.
    #[must_use]
    pub fn brokers(&self) -> Vec<Arc<KnownBroker>> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.brokers();
        }
        match &self.remote {
            Some(remote) => remote.known.read().clone(),
            None => vec![Arc::clone(&self.own)],
        }
    }

    /// A broker by its id; `None` if the catalog does not list it.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<Arc<KnownBroker>> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.brokers().into_iter().find(|broker| broker.id == id);
        }
        if id == self.own.id {
            return Some(Arc::clone(&self.own));
        }
        let known = self.remote.as_ref()?.known.read();
        let at = known.binary_search_by_key(&id, |broker| broker.id).ok()?;
        Some(Arc::clone(&known[at]))
    }

    /// Whether this broker connects to no others.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.remote.is_none()
    }

    /// Whether a broker is connected to this one, or was heard of in the last [`ALIVE_MAX`].
    #[must_use]
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.is_alive(broker);
        }
        let is_alive = |remote: &Remote| {
            let now = Instant::now();
            remote.link.is_connected(broker)
                || remote.link.leaders(|leaders| leaders.is_fresh(broker, now))
        };
        broker == self.own.id || self.remote.as_deref().is_some_and(is_alive)
    }

    /// The newest report of every broker that is alive, this one included, in the order of ids.
    #[must_use]
    pub fn reports(&self) -> Vec<Arc<Report>> {
        let Some(remote) = &self.remote else {
            return vec![Arc::new(Report {
                broker: self.own.id,
                incarnation: 0,
                sequence: 0,
                flags: report::Flags::default(),
                led: report::led(&self.node, None),
            })];
        };
        let mut reports = remote.link.leaders(leaders::Leaders::reports);
        reports.retain(|report| self.is_alive(report.broker));
        reports.push(Arc::new(remote.report()));
        reports.sort_unstable_by_key(|report| report.broker);
        reports
    }

    /// The broker that leads a shard, as far as this one knows; `None` while there is none.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<Leader> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.leader(shard);
        }
        let held = self.node.shard(shard);
        if let Some(term) = held.and_then(|held| held.leading()) {
            return Some(Leader { broker: self.own.id, term });
        }
        let remote = self.remote.as_ref()?;
        let seen = self.seen_by_own(remote, shard);
        remote.link.leaders(|leaders| leaders.leader(shard, seen))
    }

    /// What this broker's own replica knows of the others that lead.
    fn seen_by_own(&self, remote: &Remote, shard: ShardId) -> Option<Seen> {
        let (term, leader) = self.node.shard(shard)?.leader_seen();
        let leader = leader.and_then(|replica| remote.link.broker_of(shard, replica));
        // This broker's own replica does not serve yet, or no longer.
        let leader = leader.filter(|broker| *broker != self.own.id);
        Some(Seen { term, leader })
    }

    /// Whether fewer than a majority of the voters of a shard are alive, as far as this broker
    /// knows: it cannot know who leads, or which of the other brokers are alive.
    #[must_use]
    pub fn lacks_majority(&self, shard: ShardId) -> bool {
        let voters = self.holders(shard).voters;
        let alive = voters.iter().filter(|broker| self.is_alive(**broker)).count();
        2 * alive <= voters.len()
    }

    /// The brokers that hold a shard.
    #[must_use]
    pub fn holders(&self, shard: ShardId) -> Holders {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.holders(shard);
        }
        match &self.remote {
            Some(remote) => remote.holders(shard),
            None => {
                let own = vec![self.own.id];
                let (voters, reachable) = (own.clone(), own.clone());
                Holders { voters, learners: Vec::new(), reachable, in_sync: own }
            }
        }
    }

    /// The brokers that follow this one in a shard, vote, and lack little of its log (see
    /// [`Progress::is_caught_up`](ropewalk_shard::engine::Progress::is_caught_up)): the one that
    /// has most of it first. None if this broker does not lead the shard.
    #[must_use]
    pub fn followers_in_sync(&self, shard: &ShardHandle) -> Vec<BrokerId> {
        let own = shard.replica();
        let mut members = shard.progress();
        members
            .retain(|member| member.is_voter && member.is_caught_up && Some(member.replica) != own);
        members.sort_by_key(|member| std::cmp::Reverse(member.matched));
        let replicas = members.into_iter().map(|member| member.replica);
        replicas.filter_map(|replica| self.broker_of(shard.id(), replica)).collect()
    }

    fn broker_of(&self, shard: ShardId, replica: u64) -> Option<BrokerId> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            return others.broker_of(shard, replica);
        }
        self.remote.as_ref()?.link.broker_of(shard, replica)
    }

    /// Proposes a command to the shard's leader, wherever it is, and waits until it is applied
    /// there. If no leader is known, or the one that is asked does not lead, it waits up to
    /// [`LEADER_WAIT_MAX`] for the next. The broker that is asked does not pass it on.
    ///
    /// # Errors
    /// See [`ProposeError`]. [`ProposeError::NotLeader`] if no leader was found in time;
    /// [`ProposeError::Unknown`] if the connection to it was lost; [`ProposeError::TooLarge`] if
    /// the command has more than [`wire::COMMAND_BYTES_MAX`] bytes and the leader is another
    /// broker.
    pub async fn propose(&self, shard: ShardId, command: Command) -> Result<Outcome, ProposeError> {
        #[cfg(test)]
        if let Some(others) = &self.others {
            let led = others.led(shard).ok_or(ProposeError::NotLeader)?;
            return led.propose(command).await;
        }
        match &self.remote {
            Some(remote) => self.propose_anywhere(remote, shard, command).await,
            None => match self.node.shard(shard) {
                Some(shard) => shard.propose(command).await,
                None => Err(ProposeError::NotLeader),
            },
        }
    }

    async fn propose_anywhere(
        &self,
        remote: &Remote,
        shard: ShardId,
        command: Command,
    ) -> Result<Outcome, ProposeError> {
        let until = Instant::now() + LEADER_WAIT_MAX;
        let mut encoded = None;
        loop {
            let mut news = remote.link.news();
            news.borrow_and_update();
            match self.leader(shard) {
                Some(leader) if leader.broker == self.own.id => {
                    let held = self.node.shard(shard).ok_or(ProposeError::NotLeader)?;
                    match held.propose(command.clone()).await {
                        Err(ProposeError::NotLeader) => {}
                        result => return result,
                    }
                }
                Some(leader) => {
                    let encoded = encoded.get_or_insert_with(|| wire::encode_command(&command));
                    if encoded.len() > wire::COMMAND_BYTES_MAX {
                        let size_bytes = encoded.len();
                        let size_bytes_max = wire::COMMAND_BYTES_MAX;
                        return Err(ProposeError::TooLarge { size_bytes, size_bytes_max });
                    }
                    match remote.link.propose(leader.broker, shard, encoded, until).await {
                        Forwarded::Answered(Err(
                            ProposeError::NotLeader | ProposeError::Stopped,
                        ))
                        | Forwarded::NotSent => {}
                        Forwarded::Answered(result) => return result,
                        Forwarded::Lost => return Err(ProposeError::Unknown),
                    }
                }
                None => {}
            }
            if timeout_at(until, look_again(Some(&mut news))).await.is_err() {
                return Err(ProposeError::NotLeader);
            }
        }
    }

    /// Asks the replica `to` to lead the shard in place of the broker that does. Who leads then
    /// shows in [`Self::leader`].
    ///
    /// # Errors
    /// When the broker that leads was not reached.
    pub async fn transfer(&self, shard: ShardId, to: ReplicaId) -> Result<(), TransferError> {
        let leader = self.leader(shard).ok_or(TransferError::NotLeader)?;
        if leader.broker == self.own.id {
            let held = self.node.shard(shard).ok_or(TransferError::NotLeader)?;
            held.transfer_leadership(to.0);
            return Ok(());
        }
        let remote = self.remote.as_ref().ok_or(TransferError::NotLeader)?;
        match remote.link.transfer(leader.broker, shard, to).await {
            Some(true) => Ok(()),
            Some(false) => Err(TransferError::NotLeader),
            None => Err(TransferError::NoAnswer),
        }
    }
}

/// Waits for news of a leader, or for the next time to look.
async fn look_again(news: Option<&mut watch::Receiver<u64>>) {
    let changed = async {
        match news {
            Some(news) => drop(news.changed().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = changed => {}
        () = sleep(LEADER_POLL) => {}
    }
}

#[cfg(test)]
pub(crate) mod others;
