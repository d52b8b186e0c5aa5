//! Accepts connections within the limits, and lets them finish when the broker stops.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_shard::proposal::SendOrder;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Level, debug, error, info, warn};

use crate::limits;
use crate::listen::connection::{Connection, ConnectionContext};
use crate::listen::metrics::{ClosedLabels, Metrics, RefusedLabels};
use crate::listen::options::{ConnectionLimits, Options};
use crate::listen::{Close, Lanes, Peer, Service};
use crate::log_limit::LogLimit;
use crate::supervision;

/// The shared state of all listeners of a broker, with the number of connections.
#[derive(Debug)]
pub struct Acceptor {
    shared: ConnectionContext,
    slots: Arc<Slots>,
    stopping: watch::Receiver<bool>,
    serving: watch::Receiver<bool>,
    /// Rate limit of log lines about closed connections, by address.
    ends: LogLimit,
}

impl Acceptor {
    /// Connections are served by `service` until `stopping` turns true, and only while `serving` is
    /// true: meanwhile they are closed at once, so that clients turn to another broker.
    #[must_use]
    pub fn new(
        service: Arc<dyn Service>,
        options: Options,
        lanes: Lanes,
        metrics: Metrics,
        [stopping, serving]: [watch::Receiver<bool>; 2],
    ) -> Arc<Self> {
        let shared = ConnectionContext { service, lanes, options: Arc::new(options), metrics };
        let (slots, ends) = (Arc::default(), LogLimit::default());
        Arc::new(Self { shared, slots, stopping, serving, ends })
    }

    /// Binds a listener. An IPv6 wildcard also accepts IPv4 clients, as in Kafka.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restarted broker must not wait until its old connections time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::BACKLOG.cast_signed())?;
        TcpListener::from_std(socket.into())
    }

    /// Accepts until the broker stops, then waits until the connections have finished their
    /// requests, at most for the drain time.
    pub async fn run(self: Arc<Self>, listener: TcpListener, name: Arc<str>) {
        let mut connections = JoinSet::new();
        let mut stopping = self.stopping.clone();
        let mut stop = std::pin::pin!(stopped(&mut stopping));
        loop {
            tokio::select! {
                () = stop.as_mut() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.take(stream, address, &name, &mut connections),
                    Err(error) => pause(&error).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::DRAIN_TIME_MAX, drained).await.is_err() {
            warn!(
                listener = &*name,
                left = connections.len(),
                "closing connections that did not finish in time"
            );
        }
    }

    fn take(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        listener: &Arc<str>,
        connections: &mut JoinSet<()>,
    ) {
        let metrics = &self.shared.metrics;
        if !*self.serving.borrow() {
            metrics.refused.get_or_create(&RefusedLabels { limit: Close::CutOff.label() }).inc();
            reset(&stream);
            return;
        }
        let slot = match self.slots.take(address.ip(), &*self.shared.options.limits) {
            Ok(slot) => slot,
            Err(limit) => {
                metrics.refused.get_or_create(&RefusedLabels { limit }).inc();
                info!(peer = %address, limit, "connection refused: limit reached");
                return;
            }
        };
        if let Err(error) = tune(&stream) {
            debug!(peer = %address, %error, "connection closed before it was set up");
            return;
        }
        metrics.accepted.inc();
        let listener = Arc::clone(listener);
        let peer = Arc::new(Peer {
            address,
            listener,
            order: SendOrder::default(),
            fetch_turn: AtomicUsize::new(0),
        });
        let shared = self.shared.clone();
        let (mut stopping, mut serving) = (self.stopping.clone(), self.serving.clone());
        let all = Arc::clone(self);
        let open = Open::new(shared.metrics.clone());
        connections.spawn(async move {
            let connection = Connection::new(shared, Arc::clone(&peer), stream);
            let ended = async {
                tokio::select! {
                    () = stopped(&mut stopping) => Close::Stopping,
                    _ = serving.wait_for(|serving| !serving) => Close::CutOff,
                }
            };
            let served = connection.run(ended);
            let close = match supervision::caught(&supervision::CONNECTION, served).await {
                Ok(close) => close.unwrap_or(Close::Stopping),
                Err(panic) => Close::Panicked(panic),
            };
            open.end(close.label());
            all.log_end(&peer, &close);
            drop(slot);
        });
    }

    /// Logs the end of a connection at the default level where the client's configuration has to
    /// change, or where the peer is not a Kafka client: at most one line per address and minute.
    fn log_end(&self, peer: &Peer, close: &Close) {
        if matches!(close, Close::Unencodable { .. } | Close::Panicked(_)) {
            error!(peer = %peer.address, reason = %close, "connection closed: this is a bug");
        } else if close.is_clients_fault()
            && let Some(left_out) = self.ends.admit(&peer.address.ip().to_string(), Instant::now())
        {
            let guess = close.guess();
            warn!(
                peer = %peer.address,
                listener = &*peer.listener,
                reason = %close,
                guess,
                left_out,
                "connection closed"
            );
        } else if tracing::enabled!(Level::DEBUG) {
            debug!(peer = %peer.address, listener = &*peer.listener, reason = %close, "connection closed");
        }
    }
}

/// Counts a connection as open until it is dropped, also when its task is aborted.
#[derive(Debug)]
struct Open {
    metrics: Metrics,
    reason: &'static str,
}

impl Open {
    fn new(metrics: Metrics) -> Self {
        metrics.open.inc();
        Self { metrics, reason: "aborted" }
    }

    fn end(mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.metrics.closed.get_or_create(&ClosedLabels { reason: self.reason }).inc();
    }
}

/// Resolves when the broker stops, also when the sender is dropped.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(limits::KEEPALIVE_IDLE)
        .with_interval(limits::KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Has the connection end with a reset when it is dropped. Every client connects again after one.
/// If a connection ends in order before the first answer, franz-go takes the settings of TLS or
/// SASL for wrong, and fails the records that it has.
fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        debug!(%error, "a connection ends in order instead of with a reset");
    }
}

/// Handles an error of accept: no free file descriptor, or a connection that was closed meanwhile.
/// Neither ends the broker.
async fn pause(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        return;
    }
    warn!(%error, "accept failed, will retry");
    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
}

/// The open connections by address, for the limits.
#[derive(Debug, Default)]
struct Slots(Mutex<SlotCounts>);

#[derive(Debug, Default)]
struct SlotCounts {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A connection's slot, released when dropped.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    ip: IpAddr,
}

impl Slots {
    /// A slot for one more connection, or the setting that forbids it.
    fn take(
        self: &Arc<Self>,
        ip: IpAddr,
        limits: &dyn ConnectionLimits,
    ) -> Result<Slot, &'static str> {
        let mut counts = self.0.lock();
        if counts.all >= limits.connections_max() {
            return Err("max.connections");
        }
        let of_ip = counts.by_ip.entry(ip).or_default();
        if *of_ip >= limits.connections_per_ip_max() {
            return Err("max.connections.per.ip");
        }
        *of_ip += 1;
        counts.all += 1;
        drop(counts);
        Ok(Slot { slots: Arc::clone(self), ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock();
        counts.all -= 1;
        if let Some(of_ip) = counts.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                counts.by_ip.remove(&self.ip);
            }
        }
    }
}
