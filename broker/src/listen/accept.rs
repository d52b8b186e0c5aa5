//! Accepts connections within the limits, and lets them finish when the broker stops.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use ropewalk_shard::proposal::SendOrder;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Level, debug, error, info, warn};

use crate::limits;
use crate::listen::connection::{Connection, Shared};
use crate::listen::metrics::{Closed, Metrics, Refused};
use crate::listen::options::{ConnectionLimits, Options};
use crate::listen::{Close, Lanes, Peer, Service};
use crate::log_limit::LogLimit;
use crate::supervision;

/// All listeners of a broker: what they share, and how many connections there are.
#[derive(Debug)]
pub struct Acceptor {
    shared: Shared,
    slots: Arc<Slots>,
    stopping: watch::Receiver<bool>,
    /// Which addresses had a line in the log lately about how their connection ended.
    ends: LogLimit,
}

impl Acceptor {
    /// Connections will be served by `service`, until `stopping` turns true.
    #[must_use]
    pub fn new(
        service: Arc<dyn Service>,
        options: Options,
        lanes: Lanes,
        metrics: Metrics,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let shared = Shared { service, lanes, options: Arc::new(options), metrics };
        Arc::new(Self { shared, slots: Arc::default(), stopping, ends: LogLimit::default() })
    }

    /// Binds a listener. IPv6 wildcards take IPv4 clients as well, as Kafka's do.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restarted broker must not wait for its old connections to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::BACKLOG.cast_signed())?;
        TcpListener::from_std(socket.into())
    }

    /// Accepts until the broker stops, then waits for the connections to finish what they have
    /// begun, but no longer than the grace.
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
                "cutting connections that do not end"
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
        let slot = match self.slots.take(address.ip(), &*self.shared.options.limits) {
            Ok(slot) => slot,
            Err(limit) => {
                metrics.refused.get_or_create(&Refused { limit }).inc();
                info!(peer = %address, limit, "connection refused: at the limit");
                return;
            }
        };
        if let Err(error) = tune(&stream) {
            debug!(peer = %address, %error, "connection was gone before it began");
            return;
        }
        metrics.accepted.inc();
        let listener = Arc::clone(listener);
        let peer = Arc::new(Peer { address, listener, order: SendOrder::default() });
        let shared = self.shared.clone();
        let mut stopping = self.stopping.clone();
        let all = Arc::clone(self);
        let open = Open::new(shared.metrics.clone());
        connections.spawn(async move {
            let connection = Connection::new(shared, Arc::clone(&peer), stream);
            let served = connection.run(stopped(&mut stopping));
            let close = match supervision::caught(&supervision::CONNECTION, served).await {
                Ok(close) => close.unwrap_or(Close::Stopping),
                Err(panic) => Close::Panicked(panic),
            };
            open.end(close.label());
            all.log_end(&peer, &close);
            drop(slot);
        });
    }

    /// What ends a connection is in the log at the default level where the client, or somebody who
    /// takes this for another port, has to change something: at most one line per address and minute.
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

/// A connection that is counted as open until it ends, also when its task is aborted.
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
        self.metrics.closed.get_or_create(&Closed { reason: self.reason }).inc();
    }
}

/// Resolves when the broker stops, also by dropping the sender.
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

/// Out of file descriptors, or a connection that was gone again: neither ends the broker.
async fn pause(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        return;
    }
    warn!(%error, "cannot accept connections for now");
    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
}

/// Who is connected, to hold the limits.
#[derive(Debug, Default)]
struct Slots(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    ip: IpAddr,
}

impl Slots {
    /// A place for one more, or the setting that forbids it.
    fn take(
        self: &Arc<Self>,
        ip: IpAddr,
        limits: &dyn ConnectionLimits,
    ) -> Result<Slot, &'static str> {
        let mut taken = self.0.lock();
        if taken.all >= limits.connections_max() {
            return Err("max.connections");
        }
        let of_ip = taken.by_ip.entry(ip).or_default();
        if *of_ip >= limits.connections_per_ip_max() {
            return Err("max.connections.per.ip");
        }
        *of_ip += 1;
        taken.all += 1;
        drop(taken);
        Ok(Slot { slots: Arc::clone(self), ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock();
        taken.all -= 1;
        if let Some(of_ip) = taken.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                taken.by_ip.remove(&self.ip);
            }
        }
    }
}
