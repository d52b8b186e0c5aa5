//! The link between the node and the connections to the other brokers.
//!
//! Outwards it is the node's [`Peers`](ropewalk_node::Peers): it finds the broker of each replica
//! and never waits. Inwards it is the [`Inbox`] of the connections: it decodes messages and
//! requests, and passes them to the node.
//!
//! A node is opened with its link, and the connections are opened after the node; so a link is
//! created first and [connected](Link::connect) last. Until then it loses all messages.
//!
//! # Whose message it is
//!
//! A message is taken only from the broker that the catalog names for the replica which sends it.
//! A replica that the catalog of this broker does not list yet belongs to the broker that sends its
//! messages, and answers go there: a broker that joins has no catalog before it has answered the
//! catalog's leader, and one that comes back may have to hear a replica that was placed meanwhile.
//! Other brokers are trusted that far, because only members of the cluster connect.
//!
//! # Bounds
//!
//! Requests share the bulk lane of a peer. Each kind has a number of requests that may be under
//! way, so that files do not hold up proposals, nor the reverse. Messages of files wait for their
//! turn in order; beyond [`FILES_WAITING_MAX`] they are lost, and the receiver of the file asks
//! again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use ropewalk_node::Node;
use ropewalk_peer::RequestError;
use ropewalk_peer::inbox::{Connected, Delivery, Inbox};
use ropewalk_shard::command::{CommandError, FORMAT_MAX};
use ropewalk_shard::message::{DecodeError, Message};
use ropewalk_shard::{BrokerId, Outcome, Payload, ProposeError, ReplicaId, ShardId};
use ropewalk_store::transfer::message::Message as FilesMessage;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connections::Connections;
use super::directory::Directory;
use super::leaders::{Leaders, News};
use super::report::Report;
use super::wire::{self, Request};
use crate::log_limit::LogLimit;

mod ended;
mod outward;

/// Most replicas whose broker is known from their messages and not from the catalog.
const LEARNED_MAX: usize = 4096;

/// Most proposals to one broker that are under way at the same time. Later ones wait.
const PROPOSALS_MAX: usize = 3;

/// Most messages of files to one broker that are under way at the same time.
const FILES_MAX: usize = 2;

/// Most messages of files to one broker that wait; each may have the largest piece of a file.
const FILES_WAITING_MAX: usize = 32;

/// How long another broker may take for a request other than a proposal.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a leader may take for a proposal, before its outcome counts as unknown.
const PROPOSAL_TIME_MAX: Duration = Duration::from_secs(30);

/// Interval at which a message that found no space is offered to the node again.
const FULL_INTERVAL: Duration = Duration::from_millis(2);

/// The link between a node and the connections to the other brokers.
pub struct Link {
    own: BrokerId,
    directory: Arc<dyn Directory>,
    ends: OnceLock<Ends>,
    /// Brokers of replicas that the catalog does not list.
    learned: Mutex<BTreeMap<(ShardId, u64), BrokerId>>,
    lanes: Mutex<BTreeMap<BrokerId, Arc<Lanes>>>,
    files: mpsc::UnboundedSender<OutgoingFiles>,
    /// Taken by the task that sends them.
    files_queue: Mutex<Option<mpsc::UnboundedReceiver<OutgoingFiles>>>,
    connected: RwLock<BTreeMap<BrokerId, Connected>>,
    leaders: RwLock<Leaders>,
    /// Changes with whatever may change who leads a shard.
    news: watch::Sender<u64>,
    /// Wakes the task that sends heartbeats.
    pub(super) heartbeats: Notify,
    /// Wakes the task that sends reports.
    pub(super) report_due: Notify,
    refused: Refused,
}

/// A message of files and the broker that it is sent to.
pub(super) type OutgoingFiles = (BrokerId, FilesMessage);

/// What a link connects. The node is held weakly, because it holds the link.
struct Ends {
    node: Weak<Node>,
    peers: Arc<dyn Connections>,
}

/// The requests to one broker.
#[derive(Debug)]
struct Lanes {
    proposals: Semaphore,
    files: Semaphore,
    files_waiting: AtomicUsize,
}

impl Default for Lanes {
    fn default() -> Self {
        let (proposals, files) = (Semaphore::new(PROPOSALS_MAX), Semaphore::new(FILES_MAX));
        Self { proposals, files, files_waiting: AtomicUsize::new(0) }
    }
}

/// Number of messages of other brokers that were not taken.
#[derive(Debug, Default)]
struct Refused {
    undecodable: AtomicU64,
    of_other_broker: AtomicU64,
    logged: LogLimit,
}

impl Refused {
    /// Logs a refusal, once in a while for each broker and kind.
    fn log(&self, from: BrokerId, kind: &str, error: &dyn fmt::Display) {
        let subject = format!("{kind} {}", from.0);
        if let Some(left_out) = self.logged.admit(&subject, Instant::now()) {
            tracing::warn!(broker = from.0, %error, left_out, "message of another broker refused");
        }
    }
}

/// What became of a proposal at another broker.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// The other broker has answered.
    Answered(Result<Outcome, ProposeError>),
    /// It was not sent.
    NotSent,
    /// It was sent, and there is no answer.
    Lost,
}

/// What became of a message for a replica of this broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivered {
    Done,
    /// Too many messages wait for the replica.
    Full,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Link {
    /// A link of this broker that is not connected yet.
    #[must_use]
    pub fn new(own: BrokerId, directory: Arc<dyn Directory>) -> Arc<Self> {
        // Bounded by `Lanes::files_waiting`.
        let (files, queue) = mpsc::unbounded_channel();
        Arc::new(Self {
            own,
            directory,
            ends: OnceLock::new(),
            learned: Mutex::default(),
            lanes: Mutex::default(),
            files,
            files_queue: Mutex::new(Some(queue)),
            connected: RwLock::default(),
            leaders: RwLock::default(),
            news: watch::Sender::new(0),
            heartbeats: Notify::new(),
            report_due: Notify::new(),
            refused: Refused::default(),
        })
    }

    /// Connects the link: messages pass from here on.
    ///
    /// # Panics
    /// When it is connected already.
    pub(super) fn connect(&self, node: &Arc<Node>, peers: Arc<dyn Connections>) {
        let ends = Ends { node: Arc::downgrade(node), peers };
        assert!(self.ends.set(ends).is_ok(), "a link is connected once");
    }

    /// For the node's observer: a replica of this broker leads a shard, or no longer leads it. The
    /// other brokers are informed at once.
    pub fn leads(&self) {
        self.tell();
        self.report_due.notify_one();
    }

    /// The brokers and replicas of the catalog.
    pub(super) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// Changes with whatever may change who leads a shard.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// The newest reports and what follows from them.
    pub(super) fn leaders<T>(&self, read: impl FnOnce(&Leaders) -> T) -> T {
        read(&self.leaders.read())
    }

    /// Removes the reports of brokers that are not alive.
    pub(super) fn forget_dead(&self, now: Instant) {
        let is_connected = |broker| self.is_connected(broker);
        if self.leaders.write().forget_dead(now, is_connected) {
            self.tell();
        }
    }

    /// Whether there is a connection for messages to a broker.
    pub(super) fn is_connected(&self, broker: BrokerId) -> bool {
        self.connected.read().contains_key(&broker)
    }

    /// The brokers with a connection for messages.
    pub(super) fn connected_brokers(&self) -> Vec<BrokerId> {
        self.connected.read().keys().copied().collect()
    }

    /// The broker that holds a replica.
    pub(super) fn broker_of(&self, shard: ShardId, replica: u64) -> Option<BrokerId> {
        let listed = self.directory.broker_of(shard, ReplicaId(replica));
        listed.or_else(|| self.learned.lock().get(&(shard, replica)).copied())
    }

    /// Number of messages that were not taken, by the reason.
    pub(super) fn refused(&self) -> [(&'static str, u64); 2] {
        let Refused { undecodable, of_other_broker, .. } = &self.refused;
        [
            ("undecodable", undecodable.load(Ordering::Relaxed)),
            ("other_broker", of_other_broker.load(Ordering::Relaxed)),
        ]
    }

    /// Whether a message of this replica may come from the broker. A replica that the catalog does
    /// not list belongs to the sender from here on.
    fn is_from(&self, from: BrokerId, shard: ShardId, replica: u64) -> bool {
        let is_from = match self.directory.broker_of(shard, ReplicaId(replica)) {
            Some(broker) => broker == from,
            None => {
                let mut learned = self.learned.lock();
                if learned.len() >= LEARNED_MAX && !learned.contains_key(&(shard, replica)) {
                    learned.pop_first();
                }
                learned.insert((shard, replica), from);
                true
            }
        };
        if !is_from {
            self.refused.of_other_broker.fetch_add(1, Ordering::Relaxed);
            let error = format!("replica {replica} of {shard} is on another broker");
            self.refused.log(from, "replica", &error);
        }
        is_from
    }

    fn is_undecodable(&self, from: BrokerId, error: &dyn fmt::Display) {
        self.refused.undecodable.fetch_add(1, Ordering::Relaxed);
        self.refused.log(from, "undecodable", error);
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.ends.get()?.node.upgrade()
    }

    fn lanes(&self, broker: BrokerId) -> Arc<Lanes> {
        Arc::clone(self.lanes.lock().entry(broker).or_default())
    }

    /// Passes a message of another broker's replica to the node.
    fn deliver(&self, from: BrokerId, shard: ShardId, encoded: Bytes) -> Delivered {
        let Some(node) = self.node() else { return Delivered::Done };
        let message = match decode(&node, shard, encoded) {
            Ok(message) => message,
            Err(error) => {
                self.is_undecodable(from, &error);
                return Delivered::Done;
            }
        };
        if !self.is_from(from, shard, message.from) {
            return Delivered::Done;
        }
        let to = message.to;
        if node.message(shard, message) {
            return Delivered::Done;
        }
        // A replica that is not here has no queue to wait for.
        let is_held = node.held_shard(shard).is_some_and(|held| held.replica() == Some(to));
        if is_held { Delivered::Full } else { Delivered::Done }
    }

    /// Sends a request and waits for the answer. `None` if it was not sent.
    async fn ask(
        &self,
        to: BrokerId,
        request: Payload,
        time: Duration,
    ) -> Option<Result<Bytes, RequestError>> {
        let reply = self.ends.get()?.peers.request(to, request).ok()?;
        Some(timeout(time, reply).await.unwrap_or(Err(RequestError::Disconnected)))
    }

    /// Sends a proposal to the broker that leads the shard, and waits for its answer. It is sent at
    /// the time `until` or never.
    pub(super) async fn propose(
        &self,
        to: BrokerId,
        shard: ShardId,
        command: &Payload,
        until: Instant,
    ) -> Forwarded {
        let lanes = self.lanes(to);
        let Ok(turn) = timeout_at(until, lanes.proposals.acquire()).await else {
            return Forwarded::NotSent;
        };
        let answer = self.ask(to, wire::propose(shard, command), PROPOSAL_TIME_MAX).await;
        drop(turn);
        match answer {
            None => Forwarded::NotSent,
            Some(Err(error)) => {
                tracing::debug!(to = to.0, %shard, %error, "outcome of a proposal unknown");
                Forwarded::Lost
            }
            Some(Ok(answer)) => match wire::decode_result(answer) {
                Ok(result) => Forwarded::Answered(result),
                Err(error) => {
                    self.is_undecodable(to, &error);
                    Forwarded::Lost
                }
            },
        }
    }

    /// Asks the broker that leads the shard to let a replica lead. `None` if there is no answer.
    pub(super) async fn transfer(
        &self,
        broker: BrokerId,
        shard: ShardId,
        to: ReplicaId,
    ) -> Option<bool> {
        let request = Request::Transfer { shard, to }.encode();
        let answer = self.ask(broker, request, REQUEST_TIME_MAX).await?.ok()?;
        wire::decode_taken(answer).inspect_err(|error| self.is_undecodable(broker, error)).ok()
    }

    /// Sends a report, and waits until it has arrived or is lost.
    pub(super) async fn report(&self, to: BrokerId, report: Payload) {
        // The next report replaces a lost one.
        let _ = self.ask(to, report, REQUEST_TIME_MAX).await;
    }

    /// The messages of files that wait to be sent.
    ///
    /// # Panics
    /// The second time.
    pub(super) fn take_files_queue(&self) -> mpsc::UnboundedReceiver<OutgoingFiles> {
        self.files_queue.lock().take().expect("a link is connected once")
    }

    /// Sends a message of files when its turn has come.
    pub(super) async fn send_files_in_turn(&self, (to, message): OutgoingFiles) {
        let lanes = self.lanes(to);
        let turn = lanes.files.acquire().await.expect("it is never closed");
        lanes.files_waiting.fetch_sub(1, Ordering::AcqRel);
        // One that is lost is asked for again.
        let _ = self.ask(to, Request::Files(message).encode(), REQUEST_TIME_MAX).await;
        drop(turn);
    }

    async fn answer(&self, from: BrokerId, request: Bytes) -> Option<Payload> {
        let node = self.node()?;
        match Request::decode(request) {
            Ok(Request::Files(message)) => {
                if self.is_from(from, message.shard, message.from) {
                    node.files_message(message);
                }
                Some(Payload::default())
            }
            Ok(Request::Propose { shard, command }) => {
                // Only the leader executes it: a proposal is passed on once.
                let result = match node.shard(shard).filter(|held| held.leading().is_some()) {
                    Some(held) => held.propose(command).await,
                    None => Err(ProposeError::NotLeader),
                };
                Some(wire::encode_result(&result))
            }
            Ok(Request::Report(report)) => {
                self.hear(from, report);
                Some(Payload::default())
            }
            Ok(Request::Transfer { shard, to }) => {
                let leading = node.shard(shard).filter(|held| held.leading().is_some());
                if let Some(held) = leading {
                    held.transfer_leadership(to.0);
                }
                Some(wire::encode_taken(leading.is_some()))
            }
            // This broker is older than the sender.
            Err(wire::DecodeError::Command(CommandError::Format(format))) => {
                let error = ProposeError::AboveLevel { format, level: FORMAT_MAX };
                Some(wire::encode_result(&Err(error)))
            }
            Err(error) => {
                self.is_undecodable(from, &error);
                None
            }
        }
    }

    fn hear(&self, from: BrokerId, report: Report) {
        if report.broker != from {
            self.refused.of_other_broker.fetch_add(1, Ordering::Relaxed);
            let error = format!("it reports for broker {}", report.broker.0);
            self.refused.log(from, "report", &error);
            return;
        }
        self.is_in(from, report.incarnation);
        if self.leaders.write().hear(report, Instant::now()) == News::Leaders {
            self.tell();
        }
    }
}

/// Decodes a message for the history of the replica here. A replica that is not here, which waits
/// for its files, has no history yet.
fn decode(node: &Node, shard: ShardId, encoded: Bytes) -> Result<Message, DecodeError> {
    let held = node.held_shard(shard);
    let own = held.map(|held| held.history()).unwrap_or_default();
    match Message::decode(encoded.clone(), own) {
        Err(DecodeError::History { found, own }) => {
            let message = Message::decode(encoded, found)?;
            let is_held = held.is_some_and(|held| held.replica() == Some(message.to));
            if is_held { Err(DecodeError::History { found, own }) } else { Ok(message) }
        }
        decoded => decoded,
    }
}

impl Inbox for Link {
    fn control(&self, from: BrokerId, shard: ShardId, message: Bytes) {
        // Raft sends again what matters.
        let _ = self.deliver(from, shard, message);
    }

    fn append(&self, from: BrokerId, shard: ShardId, message: Bytes) -> Delivery<'_, ()> {
        Box::pin(async move {
            // The connection drops this future after a while, and the message with it.
            while self.deliver(from, shard, message.clone()) == Delivered::Full {
                sleep(FULL_INTERVAL).await;
            }
        })
    }

    fn request(&self, from: BrokerId, request: Bytes) -> Delivery<'_, Option<Payload>> {
        Box::pin(self.answer(from, request))
    }

    fn connected(&self, peer: Connected) {
        self.is_in(peer.broker, peer.incarnation);
        self.connected.write().insert(peer.broker, peer);
        self.tell();
        self.report_due.notify_one();
    }

    fn disconnected(&self, peer: BrokerId) {
        self.connected.write().remove(&peer);
        self.tell();
    }

    fn ended(&self, peer: BrokerId) {
        self.has_ended(peer);
    }
}

#[cfg(test)]
mod tests;
