//! The handle of the caller.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::Endpoint;
use ropewalk_shard::message::Message;
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};
use tokio::sync::Notify;

use crate::admission::Identity;
use crate::certificates::{CertificateError, CertificateFiles};
use crate::figures::PeerFigures;
use crate::hello::{Class, Start};
use crate::inbox::Inbox;
use crate::limits;
use crate::local::Local;
use crate::name::{BrokerName, NameError};
use crate::peer::PeerAddress;
use crate::queue::bulk::{AnswerReceiver, RequestError};
use crate::queue::{Held, Sent};
use crate::service::Service;
use crate::transport;

/// What a broker needs to connect to others.
#[derive(Debug, Clone)]
pub struct Options {
    /// Id of this broker.
    pub broker: BrokerId,
    /// Id of its cluster.
    pub cluster_id: String,
    /// Number of this start of the broker. Peers refuse a lower number than they have seen, so it
    /// must be durable before it is used, and higher after each restart.
    pub incarnation: u64,
    /// The number of this process and the starts before it; `None` draws a number, and the start is
    /// not compared with earlier ones.
    pub started: Option<Started>,
    /// The feature level that this broker can read and write.
    pub features: u32,
    /// Addresses of the two UDP sockets, by [`Class::index`].
    pub listen: [SocketAddr; 2],
    /// The certificate of this broker and the authorities.
    pub certificates: CertificateFiles,
}

/// What a data directory remembers of its starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// A number that this process drew, and that is durable with its incarnation.
    pub process: u64,
    /// The starts before it, without a gap, oldest first. Of more than
    /// [`limits::EARLIER_STARTS_MAX`], the last count.
    pub earlier: Vec<Start>,
}

/// Why the peers cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Broker id or cluster id fit into no certificate name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
    /// A UDP socket cannot be opened.
    #[error("UDP socket {address} for the {class} class cannot be opened: {error}")]
    Socket {
        /// The address of the socket.
        address: SocketAddr,
        /// The class that it is for.
        class: Class,
        /// Why it failed.
        error: io::Error,
    },
}

/// The other brokers of the cluster. Clones share everything.
#[derive(Clone)]
pub struct Peers {
    local: Arc<Local>,
    /// Indexed by [`Class::index`].
    endpoints: [Endpoint; 2],
    stopping: Arc<Notify>,
}

impl Peers {
    /// Reads the certificate files and opens the sockets. Messages are sent and received while the
    /// returned service runs. It has to be called on a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// When the names, the certificate files or the addresses cannot be used.
    pub fn open(options: Options, inbox: Arc<dyn Inbox>) -> Result<(Self, Service), OpenError> {
        let name = BrokerName::new(options.broker, &options.cluster_id)?;
        let Started { process, earlier } = match options.started {
            Some(started) => started,
            None => Started {
                process: getrandom::u64().map_err(OpenError::Random)?,
                earlier: Vec::new(),
            },
        };
        let kept = earlier.len().saturating_sub(limits::EARLIER_STARTS_MAX);
        let earlier = earlier[kept..].to_vec();
        let identity = Identity {
            broker: options.broker,
            cluster_id: options.cluster_id,
            start: Start { incarnation: options.incarnation, process },
            earlier,
            features: options.features,
        };
        let local = Arc::new(Local::new(identity, name, options.certificates, inbox)?);
        let open = |class: Class| {
            let address = options.listen[class.index()];
            transport::endpoint(address, &local.configs(class).server)
                .map_err(|error| OpenError::Socket { address, class, error })
        };
        let endpoints = [open(Class::Raft)?, open(Class::Bulk)?];
        let stopping = Arc::new(Notify::new());
        let service = Service {
            local: local.clone(),
            endpoints: endpoints.clone(),
            stopping: stopping.clone(),
        };
        Ok((Self { local, endpoints, stopping }, service))
    }

    /// The address of the UDP socket of a class, with the port that the system has chosen.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self, class: Class) -> io::Result<SocketAddr> {
        self.endpoints[class.index()].local_addr()
    }

    /// Replaces the list of the other members of the cluster. New ones are dialled, those that are
    /// missing are disconnected, and a hello of a broker that is not in the list is refused. This
    /// broker itself may be in it.
    pub fn set_peers(&self, addresses: &BTreeMap<BrokerId, PeerAddress>) {
        self.local.set_peers(addresses);
    }

    /// Sends a message of a shard's replica to the broker of the other replica. It never waits. A
    /// message that is taken may still be lost: Raft sends again what matters.
    ///
    /// Heartbeats and answers to heartbeats wait for [`Self::flush_heartbeats`], unless they belong
    /// to a ReadIndex round.
    pub fn send(
        &self,
        to: BrokerId,
        shard: ShardId,
        history: HistoryId,
        message: &Message,
    ) -> Sent {
        self.send_held(to, (shard, history), message, None)
    }

    /// Like [`Self::send`]. `held` is dropped when the message is no longer held here: entries when
    /// they are handed to QUIC, which holds at most [`crate::transport::send_window`] bytes of a
    /// connection until the peer has acknowledged them, or are lost; any other message at once.
    pub fn send_held(
        &self,
        to: BrokerId,
        (shard, history): (ShardId, HistoryId),
        message: &Message,
        held: Option<Held>,
    ) -> Sent {
        match self.local.peer(to) {
            Some(peer) => peer.send(shard, history, message, held),
            None => Sent::NotConnected,
        }
    }

    /// Sends all heartbeats that wait, to each peer in one frame. The caller does so once in each
    /// tick, after the shards have had theirs.
    pub fn flush_heartbeats(&self) {
        self.local.peers().iter().for_each(|peer| peer.control.lock().flush_heartbeats());
    }

    /// Looks now whether the processes of the connected peers exist, without waiting until nothing
    /// comes from them. Of one that has ended, the caller has [heard](Inbox::ended) when this
    /// returns, if the network says so in time. It takes [`limits::PROBE_TIMEOUT`].
    pub async fn look(&self) {
        self.local.peers().iter().for_each(|peer| peer.look.notify_one());
        tokio::time::sleep(limits::PROBE_TIMEOUT).await;
    }

    /// Sends a request of the bulk lane. Dropping the returned future gives the request up.
    ///
    /// # Errors
    /// [`Sent::Full`] or [`Sent::NotConnected`] when the request is not taken.
    pub fn request(&self, to: BrokerId, request: impl Into<Payload>) -> Result<Reply, Sent> {
        let peer = self.local.peer(to).ok_or(Sent::NotConnected)?;
        peer.request(request.into()).map(Reply)
    }

    /// Reads the certificate files now. A change is also noticed within
    /// [`crate::limits::CERTIFICATE_POLL`].
    ///
    /// # Errors
    /// When the files cannot be used; the earlier ones stay in use.
    pub fn reload(&self) -> Result<(), CertificateError> {
        self.local.reload()
    }

    /// Counts and measurements of each peer, by broker id.
    #[must_use]
    pub fn figures(&self) -> Vec<PeerFigures> {
        self.local.peers().iter().map(|peer| peer.figures()).collect()
    }

    /// Number of incoming connections that were refused and came from no known peer, as far as
    /// their certificate says.
    #[must_use]
    pub fn unknown_refused(&self) -> u64 {
        self.local.unknown_refused()
    }

    /// Closes all connections and ends the service.
    pub fn stop(&self) {
        self.stopping.notify_one();
    }
}

/// The answer to a request, once it is there.
#[derive(Debug)]
pub struct Reply(AnswerReceiver);

impl Future for Reply {
    type Output = Result<Bytes, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = Pin::new(&mut self.0).poll(context);
        answered.map(|answer| answer.unwrap_or(Err(RequestError::Disconnected)))
    }
}
