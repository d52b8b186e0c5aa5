//! A broker under test: the peers, their service on a runtime of its own, and what it receives.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropewalk_peer::inbox::{Connected, Delivery};
use ropewalk_peer::{
    CertificateFiles, Class, Inbox, Options, PeerAddress, PeerFigures, Peers, Sent,
};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};
use tokio::runtime::{Builder, Runtime};

use crate::authority::{Authority, CLUSTER, Files};

/// A test that waits longer than this hangs.
pub(crate) const HANG: Duration = Duration::from_secs(25);

/// What a broker has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Control(BrokerId, ShardId, Bytes),
    Append(BrokerId, ShardId, Bytes),
    Connected(Connected),
    Disconnected(BrokerId),
    Ended(BrokerId),
}

/// Records everything in order.
pub(crate) struct Recorder {
    seen: mpsc::Sender<Seen>,
    /// Shards whose messages are never taken.
    pub(crate) stuck: Mutex<BTreeSet<ShardId>>,
}

impl Recorder {
    fn record(&self, seen: Seen) {
        // The test may have ended.
        let _ = self.seen.send(seen);
    }
}

impl Inbox for Recorder {
    fn control(&self, from: BrokerId, shard: ShardId, message: Bytes) {
        self.record(Seen::Control(from, shard, message));
    }

    fn append(&self, from: BrokerId, shard: ShardId, message: Bytes) -> Delivery<'_, ()> {
        if self.stuck.lock().expect("it works in a test").contains(&shard) {
            return Box::pin(pending());
        }
        self.record(Seen::Append(from, shard, message));
        Box::pin(async {})
    }

    /// The request is the answer, except for some words.
    fn request(&self, _: BrokerId, request: Bytes) -> Delivery<'_, Option<Payload>> {
        Box::pin(async move {
            match &request[..] {
                b"refuse" => None,
                b"wait" => pending().await,
                _ => Some(request.into()),
            }
        })
    }

    fn connected(&self, peer: Connected) {
        self.record(Seen::Connected(peer));
    }

    fn disconnected(&self, peer: BrokerId) {
        self.record(Seen::Disconnected(peer));
    }

    fn ended(&self, peer: BrokerId) {
        self.record(Seen::Ended(peer));
    }
}

/// A broker that runs.
pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    pub(crate) peers: Peers,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) runtime: Runtime,
    pub(crate) files: Arc<Files>,
    seen: mpsc::Receiver<Seen>,
}

/// Options of a broker of the cluster, on ports that the system chooses.
pub(crate) fn options(id: i32, certificates: CertificateFiles) -> Options {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Options {
        broker: BrokerId(id),
        cluster_id: CLUSTER.to_owned(),
        incarnation: 1,
        started: None,
        features: 3,
        listen: [any, any],
        certificates,
    }
}

impl Broker {
    /// Starts a broker with a certificate of the authority.
    pub(crate) fn start(authority: &Authority, id: i32) -> Self {
        let files = Files::new(&authority.broker(id), &[authority]);
        Self::start_with(Arc::new(files), id, |_| {})
    }

    pub(crate) fn start_with(
        files: Arc<Files>,
        id: i32,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let (sender, seen) = mpsc::channel();
        let recorder = Arc::new(Recorder { seen: sender, stuck: Mutex::default() });
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("it works in a test");
        let mut options = options(id, files.paths());
        change(&mut options);
        let broker = options.broker;
        let entered = runtime.enter();
        let (peers, service) = Peers::open(options, recorder.clone()).expect("it opens");
        drop(entered);
        runtime.spawn(async {
            service.run().await.expect("no task ends");
        });
        Self { id: broker, peers, recorder, runtime, files, seen }
    }

    /// Starts the broker again: same id, certificate and ports, a later incarnation. The earlier
    /// process must have ended.
    pub(crate) fn start_again(files: Arc<Files>, id: i32, at: &PeerAddress) -> Self {
        Self::start_with(files, id, |options| {
            options.incarnation = 2;
            options.listen = at.ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        })
    }

    pub(crate) fn address(&self) -> PeerAddress {
        let port = |class| self.peers.local_addr(class).expect("it works in a test").port();
        PeerAddress { host: "127.0.0.1".to_owned(), ports: Class::ALL.map(port) }
    }

    /// Dials these brokers.
    pub(crate) fn dials(&self, others: &[&Self]) {
        let addresses = others.iter().map(|other| (other.id, other.address()));
        self.peers.set_peers(&addresses.collect());
    }

    /// Knows these brokers as members, and cannot reach them: they have to dial.
    pub(crate) fn awaits(&self, others: &[i32]) {
        let nowhere = || PeerAddress { host: "127.0.0.1".to_owned(), ports: [1, 1] };
        let members: BTreeMap<_, _> =
            others.iter().map(|other| (BrokerId(*other), nowhere())).collect();
        self.peers.set_peers(&members);
    }

    /// Ends the broker as a killed process ends: without a goodbye. Its ports are free then.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_timeout(HANG);
    }

    /// The next event.
    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(HANG).expect("something happens")
    }

    /// The next event until then.
    pub(crate) fn next_until(&self, due: Instant) -> Option<Seen> {
        self.seen.recv_timeout(due.saturating_duration_since(Instant::now())).ok()
    }

    /// The next message, of whichever lane; events of connections are skipped.
    pub(crate) fn message(&self) -> Bytes {
        loop {
            if let Seen::Control(_, _, message) | Seen::Append(_, _, message) = self.next() {
                return message;
            }
        }
    }

    /// Waits until there is a connection for messages.
    pub(crate) fn connected(&self) -> Connected {
        loop {
            if let Seen::Connected(peer) = self.next() {
                return peer;
            }
        }
    }

    pub(crate) fn figures(&self, other: i32) -> PeerFigures {
        let all = self.peers.figures();
        all.into_iter().find(|peer| peer.broker.0 == other).expect("it is a peer")
    }

    pub(crate) fn is_connected(&self, other: i32) -> bool {
        let figures = self.figures(other);
        Class::ALL.iter().all(|class| figures.link(*class).is_connected)
    }

    /// Sends a message, again and again until it is taken.
    pub(crate) fn send(&self, to: &Self, shard: u32, message: &Message) {
        until("the message is taken", || self.try_send(to.id, shard, message) == Sent::Taken);
    }

    pub(crate) fn try_send(&self, to: BrokerId, shard: u32, message: &Message) -> Sent {
        self.peers.send(to, ShardId(shard), HistoryId(0), message)
    }

    /// Sends a request and waits for the answer.
    pub(crate) fn ask(
        &self,
        to: &Self,
        request: impl Into<Bytes>,
    ) -> Result<Bytes, ropewalk_peer::RequestError> {
        let request = request.into();
        let reply = self.peers.request(to.id, request).expect("it is taken");
        self.runtime.block_on(reply)
    }
}

/// Two brokers that are connected for both classes. The second has dialled the first.
pub(crate) fn pair(authority: &Authority) -> (Broker, Broker) {
    let (one, two) = (Broker::start(authority, 1), Broker::start(authority, 2));
    connect(&one, &two);
    (one, two)
}

/// Connects two brokers: the second dials the first.
pub(crate) fn connect(one: &Broker, two: &Broker) {
    one.awaits(&[two.id.0]);
    two.dials(&[one]);
    assert_eq!((one.connected().broker, two.connected().broker), (two.id, one.id));
    until("both classes are connected", || {
        one.is_connected(two.id.0) && two.is_connected(one.id.0)
    });
}

/// Waits for a condition that something else brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANG, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A vote with this term.
pub(crate) fn vote(term: u64) -> Message {
    let committed = ropewalk_shard::engine::EntryId { index: 0, term: 0 };
    let body = Body::Vote { granted: true, is_pre_vote: false, committed };
    Message { from: 1, to: 2, term, body }
}

/// An append message with one entry of so many bytes.
pub(crate) fn append(term: u64, bytes: usize) -> Message {
    let entry = ropewalk_shard::engine::Entry {
        index: 1,
        term,
        kind: ropewalk_shard::engine::EntryKind::Normal,
        data: Bytes::from(vec![7; bytes]).into(),
    };
    let previous = ropewalk_shard::engine::EntryId { index: 0, term: 0 };
    Message {
        from: 1,
        to: 2,
        term,
        body: Body::Append { previous, commit: 0, entries: vec![entry] },
    }
}

/// The message of these bytes.
pub(crate) fn decoded(bytes: Bytes) -> Message {
    Message::decode(bytes, HistoryId(0)).expect("a message")
}
