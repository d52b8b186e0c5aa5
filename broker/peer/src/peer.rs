//! One other broker: its queues, its connections and its counts.

use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{Connection, VarInt};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};
use tokio::sync::{Notify, oneshot};

use crate::admission::{self, Dialler, Standing, Winner};
use crate::figures::{LaneCounts, LinkFigures, PeerFigures};
use crate::frame::Lane;
use crate::heartbeats;
use crate::hello::{Class, Hello, Refusal, Start};
use crate::queue::append::AppendQueue;
use crate::queue::bulk::{AnswerReceiver, BulkQueue};
use crate::queue::control::ControlQueue;
use crate::queue::{Held, LinkId, Sent};

/// Why this side closes a connection, as QUIC's application error code. 0 is what a connection is
/// closed with that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// The hello was refused.
    Refused = 1,
    /// Another connection between the two brokers took its place.
    Replaced = 2,
    /// The peer has sent what is not allowed.
    Violation = 3,
    /// The peer is not a member any more.
    Removed = 4,
    /// The authorities no longer vouch for the peer's certificate.
    Untrusted = 5,
    /// A task of the connection has failed.
    Failed = 6,
    /// The broker is stopping.
    Stopping = 7,
    /// The process at the other end has ended.
    Ended = 8,
}

impl Close {
    pub(crate) fn close(self, connection: &Connection, text: &str) {
        connection.close(self.code(), text.as_bytes());
    }

    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Where a broker can be reached. The name is resolved at each attempt, because addresses change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// A host name or an IP address.
    pub host: String,
    /// UDP ports of the classes, by [`Class::index`].
    pub ports: [u16; 2],
}

/// Another broker of the cluster.
pub(crate) struct Peer {
    pub(crate) own: BrokerId,
    pub(crate) broker: BrokerId,
    pub(crate) address: Mutex<PeerAddress>,
    pub(crate) control: Mutex<ControlQueue>,
    pub(crate) append: Mutex<AppendQueue>,
    pub(crate) bulk: Mutex<BulkQueue>,
    counts: [LaneCounts; 3],
    links: Mutex<Links>,
    /// Whether the caller has been informed of a connection for messages and not of its end. Locked
    /// before `links`.
    pub(crate) is_reported: Mutex<bool>,
    /// Wakes the task that looks whether the process of the peer exists.
    pub(crate) look: Notify,
    /// Wakes the task that dials a class when its connection has ended, by [`Class::index`].
    pub(crate) unlinked: [Notify; 2],
}

#[derive(Default)]
struct Links {
    newest: Option<Start>,
    features: Option<u32>,
    hellos_refused: u64,
    hellos_rejected: u64,
    last_id: LinkId,
    current: [Option<Link>; 2],
    /// Totals of the connections that have ended.
    past: [LinkFigures; 2],
    /// Set when the peer is no longer a member.
    is_removed: bool,
}

struct Link {
    id: LinkId,
    dialler: Dialler,
    connection: Connection,
}

impl Peer {
    pub(crate) fn new(own: BrokerId, broker: BrokerId, address: PeerAddress) -> Arc<Self> {
        Arc::new(Self {
            own,
            broker,
            address: Mutex::new(address),
            control: Mutex::default(),
            append: Mutex::default(),
            bulk: Mutex::default(),
            counts: Default::default(),
            links: Mutex::default(),
            is_reported: Mutex::default(),
            look: Notify::new(),
            unlinked: Default::default(),
        })
    }

    /// Puts a message of a shard's replica into the queue of its lane. Entries use the append lane,
    /// heartbeats are merged, everything else uses the control lane.
    pub(crate) fn send(
        &self,
        shard: ShardId,
        history: HistoryId,
        message: &Message,
        held: Option<Held>,
    ) -> Sent {
        let encoded = message.encode(history);
        if matches!(message.body, Body::Append { .. }) {
            let sent = self.append.lock().push(shard, encoded, held);
            return self.count(Lane::Append, sent);
        }
        let encoded = encoded.to_bytes();
        let sent = if heartbeats::context_of(message).is_some() {
            self.control.lock().push_heartbeat(shard, message, encoded)
        } else {
            self.control.lock().push(shard, encoded)
        };
        self.count(Lane::Control, sent)
    }

    pub(crate) fn request(&self, request: Payload) -> Result<AnswerReceiver, Sent> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.bulk.lock().push(request, sender);
        match self.count(Lane::Bulk, sent) {
            Sent::Taken => Ok(receiver),
            refused @ (Sent::Full | Sent::NotConnected) => Err(refused),
        }
    }

    fn count(&self, lane: Lane, sent: Sent) -> Sent {
        if sent == Sent::Full {
            self.counts[lane.index()].not_taken();
        }
        sent
    }

    /// Makes a connection with an accepted hello the current one of its class. Connections of an
    /// earlier start of the peer are closed, and so is the one that it replaces.
    pub(crate) fn admit(
        &self,
        theirs: &Hello,
        dialler: Dialler,
        connection: &Connection,
    ) -> Result<LinkId, Refusal> {
        let mut links = self.links.lock();
        if links.is_removed {
            return Err(admission::not_a_member(self.broker, self.own));
        }
        let start = Start { incarnation: theirs.incarnation, process: theirs.process };
        let standing = admission::standing(self.broker, links.newest, start, &theirs.earlier)?;
        let class = theirs.class;
        if standing == Standing::Newer {
            links.newest = Some(start);
            for link in links.current.iter().flatten() {
                Close::Replaced.close(&link.connection, "the broker has started again");
            }
        } else if let Some(current) = &links.current[class.index()]
            && current.connection.close_reason().is_none()
        {
            match admission::winner(self.own, self.broker, current.dialler, dialler) {
                Winner::Current => return Err(admission::duplicate(self.broker)),
                Winner::New => {
                    Close::Replaced.close(&current.connection, "another connection is used");
                }
            }
        }
        links.features = Some(theirs.features);
        links.last_id += 1;
        let id = links.last_id;
        let link = Link { id, dialler, connection: connection.clone() };
        if let Some(before) = links.current[class.index()].replace(link) {
            // Its task has not reported yet that it has ended.
            links.past[class.index()].add(&before.connection.stats());
        }
        links.past[class.index()].connections += 1;
        self.reset_queues(class, Some(id));
        Ok(id)
    }

    /// Whether no other connection has taken the place of this one.
    pub(crate) fn is_current(&self, class: Class, id: LinkId) -> bool {
        self.links.lock().is_current(class, id)
    }

    /// Reports that a connection has ended. Returns whether it was the current one.
    pub(crate) fn release(&self, class: Class, id: LinkId) -> bool {
        let mut links = self.links.lock();
        let is_current = links.is_current(class, id);
        if is_current {
            if let Some(link) = links.current[class.index()].take() {
                links.past[class.index()].add(&link.connection.stats());
            }
            self.reset_queues(class, None);
            self.unlinked[class.index()].notify_one();
        }
        is_current
    }

    pub(crate) fn lane(&self, lane: Lane) -> &LaneCounts {
        &self.counts[lane.index()]
    }

    fn reset_queues(&self, class: Class, link: Option<LinkId>) {
        match class {
            Class::Raft => {
                self.control.lock().reset(link);
                self.append.lock().reset(link);
            }
            Class::Bulk => self.bulk.lock().reset(link),
        }
    }

    pub(crate) fn is_linked(&self, class: Class) -> bool {
        self.links.lock().current[class.index()].is_some()
    }

    /// Closes all connections: the process of the peer has ended.
    pub(crate) fn ended(&self) {
        for link in self.links.lock().current.iter().flatten() {
            Close::Ended.close(&link.connection, "the process of the peer has ended");
        }
    }

    /// Closes all connections for good: the peer is not a member any more.
    pub(crate) fn remove(&self) {
        let mut links = self.links.lock();
        links.is_removed = true;
        for class in Class::ALL {
            if let Some(link) = &links.current[class.index()] {
                Close::Removed.close(&link.connection, "the broker is not a member any more");
            }
        }
    }

    /// Closes the connections that `is_trusted` refuses, with the text that it returns.
    pub(crate) fn recheck(&self, is_trusted: impl Fn(&Connection) -> Result<(), String>) {
        for link in self.links.lock().current.iter().flatten() {
            if let Err(error) = is_trusted(&link.connection) {
                tracing::warn!(
                    broker = self.broker.0,
                    error,
                    "connection to broker closed: certificate no longer trusted"
                );
                Close::Untrusted.close(&link.connection, &error);
            }
        }
    }

    /// Counts a hello of the peer that was refused.
    pub(crate) fn refused(&self) {
        self.links.lock().hellos_refused += 1;
    }

    /// Counts a hello that the peer refused.
    pub(crate) fn rejected(&self) {
        self.links.lock().hellos_rejected += 1;
    }

    /// Counts an attempt to connect that failed.
    pub(crate) fn failed(&self, class: Class) {
        self.links.lock().past[class.index()].failed_attempts += 1;
    }

    pub(crate) fn figures(&self) -> PeerFigures {
        let links = self.links.lock();
        let link = |class: Class| {
            let mut figures = links.past[class.index()].clone();
            if let Some(current) = &links.current[class.index()] {
                let stats = current.connection.stats();
                figures.add(&stats);
                figures.is_connected = true;
                figures.current_mtu = stats.path.current_mtu;
                figures.rtt = stats.path.rtt;
            }
            figures
        };
        let queued =
            [self.control.lock().bytes(), self.append.lock().bytes(), self.bulk.lock().bytes()];
        PeerFigures {
            broker: self.broker,
            incarnation: links.newest.map(|start| start.incarnation),
            features: links.features,
            hellos_refused: links.hellos_refused,
            hellos_rejected: links.hellos_rejected,
            links: Class::ALL.map(link),
            lanes: Lane::ALL.map(|lane| self.counts[lane.index()].read(queued[lane.index()])),
        }
    }
}

impl Links {
    fn is_current(&self, class: Class, id: LinkId) -> bool {
        self.current[class.index()].as_ref().is_some_and(|current| current.id == id)
    }
}
