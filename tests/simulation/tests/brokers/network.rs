//! The network between the brokers: sessions of two brokers in place of QUIC connections.
//!
//! A session exists while both brokers run, list each other and reach each other in both
//! directions; it ends some time after that is over. Messages take a while, may overtake each other
//! except for the appends of one shard, and are lost when they are cut off or their session is
//! over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ropewalk_broker::cluster::Connections;
use ropewalk_broker::cluster::connections::Reply;
use ropewalk_peer::inbox::Connected;
use ropewalk_peer::{Class, Held, Inbox, PeerAddress, PeerFigures, RequestError, Sent};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::dice::{Dice, mix};
use crate::mutation::Mutation;
use crate::trace::Trace;

/// Interval of checking the sessions.
const LOOK: Duration = Duration::from_millis(50);

/// How long a message of the append lane may wait for its replica.
const APPEND_TIME_MAX: Duration = Duration::from_secs(1);

/// One start of a broker.
struct End {
    incarnation: u64,
    features: u32,
    inbox: Arc<dyn Inbox>,
    peers: BTreeSet<i32>,
}

/// Two brokers that are connected.
struct Session {
    number: u64,
    /// The incarnations of both.
    starts: (u64, u64),
    /// When it ends, because the two no longer reach each other.
    ends_at: Option<Instant>,
}

struct State {
    dice: Dice,
    ends: BTreeMap<i32, End>,
    sessions: BTreeMap<(i32, i32), Session>,
    next_session: u64,
    /// The directions in which nothing passes.
    cut: BTreeSet<(i32, i32)>,
    delay_ms: (u64, u64),
    /// One message in so many is lost; 0 for none.
    loss: u64,
    /// When the last append of a shard arrives.
    appends: BTreeMap<(i32, i32, u32), Instant>,
    messages: u64,
}

pub(crate) struct Net {
    state: Mutex<State>,
    mutation: Option<Mutation>,
    trace: Arc<Trace>,
}

fn pair(a: i32, b: i32) -> (i32, i32) {
    (a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn new(seed: u64, trace: Arc<Trace>, mutation: Option<Mutation>) -> Arc<Self> {
        let state = State {
            dice: Dice::new(mix(seed ^ 0x6e65_7477)),
            ends: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 1,
            cut: BTreeSet::new(),
            delay_ms: (0, 3),
            loss: 0,
            appends: BTreeMap::new(),
            messages: 0,
        };
        Arc::new(Self { state: Mutex::new(state), mutation, trace })
    }

    pub(crate) fn messages(&self) -> u64 {
        self.state.lock().messages
    }

    /// A broker is on the network from here on.
    pub(crate) fn add(&self, broker: i32, options: &ropewalk_peer::Options, inbox: Arc<dyn Inbox>) {
        let (incarnation, features) = (options.incarnation, options.features);
        let end = End { incarnation, features, inbox, peers: BTreeSet::new() };
        self.state.lock().ends.insert(broker, end);
    }

    /// The process of a broker is gone.
    pub(crate) fn remove(&self, broker: i32) {
        let removed = self.state.lock().ends.remove(&broker);
        drop(removed);
    }

    pub(crate) fn cut(&self, from: i32, to: i32) {
        self.state.lock().cut.insert((from, to));
    }

    pub(crate) fn heal(&self, from: i32, to: i32) {
        self.state.lock().cut.remove(&(from, to));
    }

    pub(crate) fn set_weather(&self, delay_ms: (u64, u64), loss: u64) {
        let mut state = self.state.lock();
        (state.delay_ms, state.loss) = (delay_ms, loss);
    }

    pub(crate) fn heal_all(&self) {
        self.state.lock().cut.clear();
        self.set_weather((0, 3), 0);
    }

    /// Begins and ends sessions.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            let calls = self.state.lock().look(&self.trace);
            for call in calls {
                call();
            }
        }
    }
}

type Call = Box<dyn FnOnce() + Send>;

impl State {
    /// Begins and ends sessions. Returns the calls that inform the brokers.
    fn look(&mut self, trace: &Trace) -> Vec<Call> {
        let mut calls = Vec::new();
        for (a, b) in self.ended() {
            let session = self.sessions.remove(&(a, b)).expect("it was there");
            trace.event(format!("session {a}-{b} ends"));
            for (own, start, other) in [(a, session.starts.0, b), (b, session.starts.1, a)] {
                let end = self.ends.get(&own).filter(|end| end.incarnation == start);
                if let Some(inbox) = end.map(|end| Arc::clone(&end.inbox)) {
                    calls.push(Box::new(move || inbox.disconnected(BrokerId(other))) as Call);
                }
            }
        }
        let ids: Vec<i32> = self.ends.keys().copied().collect();
        for (at, a) in ids.iter().enumerate() {
            for b in &ids[at + 1..] {
                if !self.sessions.contains_key(&(*a, *b)) && self.can_meet(*a, *b) {
                    trace.event(format!("session {a}-{b} begins"));
                    calls.extend(self.begin(*a, *b));
                }
            }
        }
        calls
    }

    /// Whether two brokers list each other and reach each other.
    fn can_meet(&self, a: i32, b: i32) -> bool {
        let lists = |of: i32, other| self.ends.get(&of).is_some_and(|e| e.peers.contains(&other));
        let reaches = |from, to| !self.cut.contains(&(from, to));
        lists(a, b) && lists(b, a) && reaches(a, b) && reaches(b, a)
    }

    /// The sessions that end now.
    fn ended(&mut self) -> Vec<(i32, i32)> {
        let now = Instant::now();
        let mut ended = Vec::new();
        let mut sessions = std::mem::take(&mut self.sessions);
        for ((a, b), session) in &mut sessions {
            let starts = self.ends.get(a).zip(self.ends.get(b));
            let starts = starts.map(|(a, b)| (a.incarnation, b.incarnation));
            if starts == Some(session.starts) && self.can_meet(*a, *b) {
                session.ends_at = None;
            } else if session.ends_at.is_none() {
                // A newer start of a broker ends the session of the older one at once.
                let is_replaced = starts.is_some_and(|starts| starts != session.starts);
                let rest_ms = if is_replaced { 0 } else { self.dice.between(500, 3000) };
                session.ends_at = Some(now + Duration::from_millis(rest_ms));
            }
            if session.ends_at.is_some_and(|at| at <= now) {
                ended.push((*a, *b));
            }
        }
        self.sessions = sessions;
        ended
    }

    /// Begins a session.
    fn begin(&mut self, a: i32, b: i32) -> [Call; 2] {
        let (one, other) = (&self.ends[&a], &self.ends[&b]);
        let starts = (one.incarnation, other.incarnation);
        let calls = [(one, other, b), (other, one, a)].map(|(end, peer, id)| {
            let inbox = Arc::clone(&end.inbox);
            let connected = Connected {
                broker: BrokerId(id),
                incarnation: peer.incarnation,
                features: peer.features,
                protocol: 1,
            };
            Box::new(move || inbox.connected(connected)) as Call
        });
        let session = Session { number: self.next_session, starts, ends_at: None };
        self.next_session += 1;
        self.sessions.insert((a, b), session);
        calls
    }

    fn session(&self, a: i32, b: i32) -> Option<u64> {
        self.sessions.get(&pair(a, b)).map(|session| session.number)
    }

    /// When a message arrives; `None` if it is lost.
    fn arrival(&mut self, from: i32, to: i32) -> Option<Instant> {
        let is_lost = self.loss > 0 && self.dice.one_in(self.loss);
        let delay = self.dice.between(self.delay_ms.0, self.delay_ms.1);
        let is_cut = self.cut.contains(&(from, to));
        (!is_lost && !is_cut).then(|| Instant::now() + Duration::from_millis(delay))
    }

    /// The receiver of a message that has arrived.
    fn receiver(&mut self, from: i32, to: i32, session: u64) -> Option<Arc<dyn Inbox>> {
        if self.cut.contains(&(from, to)) || self.session(from, to) != Some(session) {
            return None;
        }
        self.messages += 1;
        self.ends.get(&to).map(|end| Arc::clone(&end.inbox))
    }
}

/// The connections of one start of a broker.
pub(crate) struct Side {
    pub(crate) broker: i32,
    pub(crate) incarnation: u64,
    pub(crate) net: Arc<Net>,
}

impl Side {
    fn is_current(&self, state: &State) -> bool {
        state.ends.get(&self.broker).is_some_and(|end| end.incarnation == self.incarnation)
    }
}

impl Connections for Side {
    fn set_peers(&self, addresses: &BTreeMap<BrokerId, PeerAddress>) {
        let mut state = self.net.state.lock();
        if self.is_current(&state) {
            let end = state.ends.get_mut(&self.broker).expect("it is current");
            end.peers = addresses.keys().map(|id| id.0).collect();
        }
    }

    fn send_held(
        &self,
        to: BrokerId,
        (shard, history): (ShardId, HistoryId),
        message: &Message,
        held: Option<Held>,
    ) -> Sent {
        let (from, to) = (self.broker, to.0);
        let mut state = self.net.state.lock();
        let Some(session) = self.is_current(&state).then(|| state.session(from, to)).flatten()
        else {
            return Sent::NotConnected;
        };
        let is_append = matches!(message.body, Body::Append { .. });
        let Some(mut at) = state.arrival(from, to) else { return Sent::Taken };
        if is_append {
            let last = state.appends.entry((from, to, shard.0)).or_insert(at);
            at = at.max(*last);
            *last = at;
        }
        drop(state);
        let (bytes, net) = (message.encode(history).to_bytes(), Arc::clone(&self.net));
        tokio::spawn(async move {
            sleep_until(at).await;
            drop(held);
            let inbox = net.state.lock().receiver(from, to, session);
            let Some(inbox) = inbox else { return };
            let from = match net.mutation {
                Some(Mutation::SendersMixedUp) => from % 3 + 1,
                Some(_) | None => from,
            };
            if is_append {
                let delivered = inbox.append(BrokerId(from), shard, bytes);
                let _ = timeout(APPEND_TIME_MAX, delivered).await;
            } else {
                inbox.control(BrokerId(from), shard, bytes);
            }
        });
        Sent::Taken
    }

    fn flush_heartbeats(&self) {}

    /// This network does not report that a process has ended: brokers notice its silence.
    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn request(&self, to: BrokerId, request: Payload) -> Result<Reply, Sent> {
        let (from, to) = (self.broker, to.0);
        let mut state = self.net.state.lock();
        let Some(session) = self.is_current(&state).then(|| state.session(from, to)).flatten()
        else {
            return Err(Sent::NotConnected);
        };
        let at = state.arrival(from, to);
        drop(state);
        let (mut answer, answered) = oneshot::channel::<Result<Bytes, RequestError>>();
        let (bytes, net) = (request.to_bytes(), Arc::clone(&self.net));
        tokio::spawn(async move {
            let exchange = async {
                sleep_until(at?).await;
                let inbox = net.state.lock().receiver(from, to, session)?;
                let answer = inbox.request(BrokerId(from), bytes).await;
                let at = net.state.lock().arrival(to, from)?;
                sleep_until(at).await;
                net.state.lock().receiver(to, from, session)?;
                Some(answer.map(|answer| answer.to_bytes()).ok_or(RequestError::Refused))
            };
            let result = tokio::select! {
                biased;
                () = answer.closed() => return,
                result = exchange => result,
            };
            let result = match result {
                Some(result) => result,
                None => {
                    // The sender waits for the end of the connection.
                    sleep(Duration::from_secs(2)).await;
                    Err(RequestError::Disconnected)
                }
            };
            let _ = answer.send(result);
        });
        Ok(Box::pin(async move { answered.await.unwrap_or(Err(RequestError::Disconnected)) }))
    }

    fn local_addr(&self, _: Class) -> Option<SocketAddr> {
        None
    }

    fn figures(&self) -> Vec<PeerFigures> {
        Vec::new()
    }

    fn unknown_refused(&self) -> u64 {
        0
    }

    fn stop(&self) {
        self.net.remove(self.broker);
    }
}
