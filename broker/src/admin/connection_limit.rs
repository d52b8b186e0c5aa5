//! Connection limit of the admin server: how many connections may be open, and which one is closed
//! for a new one.
//!
//! `axum::serve` accepts through it; [`super::access`] marks a connection as trusted once a request
//! on it carried the token.
//!
//! # Invariants
//!
//! - **R1** there are at most [`limits::ADMIN_CONNECTIONS_MAX`] connections, and from one address
//!   at most [`limits::ADMIN_CONNECTIONS_PER_ADDRESS_MAX`].
//! - A new connection is always accepted, so that `/live` and `/ready` are answered however many
//!   idle connections there are. At a bound the connection that has been idle longest is closed
//!   instead, untrusted ones first; at the bound of an address, one of that address.
//! - A connection that neither reads nor writes for [`limits::ADMIN_IDLE_MAX`], or for
//!   [`limits::ADMIN_UNTRUSTED_IDLE_MAX`] if it is untrusted, is closed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::limits;

/// Accepts connections and closes another one at a bound.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    listener: TcpListener,
    connections: Arc<OpenConnections>,
}

impl ConnectionLimit {
    pub(super) fn new(listener: TcpListener) -> Self {
        let (began, open) = (Instant::now(), Mutex::default());
        Self { listener, connections: Arc::new(OpenConnections { began, open }) }
    }
}

impl Listener for ConnectionLimit {
    type Io = AdminStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AdminStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let connection = self.connections.enter(address.ip().to_canonical());
                    return (
                        AdminStream::new(stream, connection, Arc::clone(&self.connections)),
                        address,
                    );
                }
                Err(_) => sleep(limits::ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Every open connection, by a number that is never reused.
#[derive(Debug)]
struct OpenConnections {
    began: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<ConnectionState>>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    number: u64,
    from: IpAddr,
    /// Time of the last read or write, milliseconds since the server started.
    active_ms: AtomicU64,
    is_trusted: AtomicBool,
    is_closed: AtomicBool,
    waker: AtomicWaker,
}

impl ConnectionState {
    /// Marks the connection as trusted: a request on it carried the token.
    pub(super) fn trust(&self) {
        self.is_trusted.store(true, Ordering::Relaxed);
    }

    fn idle_max(&self) -> Duration {
        if self.is_trusted.load(Ordering::Relaxed) {
            limits::ADMIN_IDLE_MAX
        } else {
            limits::ADMIN_UNTRUSTED_IDLE_MAX
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl OpenConnections {
    /// Registers a new connection, and closes another one at a bound.
    fn enter(&self, from: IpAddr) -> Arc<ConnectionState> {
        let mut open = self.open.lock();
        let of_address =
            open.connections.values().filter(|connection| connection.from == from).count();
        if of_address >= limits::ADMIN_CONNECTIONS_PER_ADDRESS_MAX {
            open.close_longest_idle(|connection| connection.from == from);
        } else if open.connections.len() >= limits::ADMIN_CONNECTIONS_MAX {
            open.close_longest_idle(|_| true);
        }
        let number = open.next;
        open.next += 1;
        let connection = Arc::new(ConnectionState {
            number,
            from,
            active_ms: AtomicU64::new(self.now_ms()),
            is_trusted: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        open.connections.insert(number, Arc::clone(&connection));
        connection
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn close_longest_idle(&mut self, among: impl Fn(&ConnectionState) -> bool) {
        let idle_since = |connection: &&Arc<ConnectionState>| {
            let is_trusted = connection.is_trusted.load(Ordering::Relaxed);
            (is_trusted, connection.active_ms.load(Ordering::Relaxed), connection.number)
        };
        let longest =
            self.connections.values().filter(|connection| among(connection)).min_by_key(idle_since);
        if let Some(number) = longest.map(|connection| connection.number)
            && let Some(connection) = self.connections.remove(&number)
        {
            tracing::debug!(from = %connection.from, "admin connection closed: too many are open");
            connection.close();
        }
    }
}

/// An admin connection. Reads and writes fail once it is to be closed.
#[derive(Debug)]
pub(super) struct AdminStream {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    connection: Arc<ConnectionState>,
    connections: Arc<OpenConnections>,
}

impl AdminStream {
    fn new(
        stream: TcpStream,
        connection: Arc<ConnectionState>,
        connections: Arc<OpenConnections>,
    ) -> Self {
        let idle = Box::pin(sleep(connection.idle_max()));
        Self { stream, idle, connection, connections }
    }

    pub(super) fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    fn note_activity(&self) {
        self.connection.active_ms.store(self.connections.now_ms(), Ordering::Relaxed);
    }

    fn check_open(&self) -> io::Result<()> {
        if self.connection.is_closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Ready when the idle timeout has passed. The bound is read when the timer fires, because the
    /// connection may have become trusted meanwhile.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.idle.as_mut().poll(cx).is_ready() {
            let active_ms = self.connection.active_ms.load(Ordering::Relaxed);
            let active = self.connections.began + Duration::from_millis(active_ms);
            let until = active + self.connection.idle_max();
            if until <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.idle.set(sleep_until(until));
        }
        Poll::Pending
    }
}

impl Drop for AdminStream {
    fn drop(&mut self) {
        self.connections.open.lock().connections.remove(&self.connection.number);
    }
}

impl AsyncRead for AdminStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.waker.register(cx.waker());
        self.check_open()?;
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.note_activity();
            return read;
        }
        self.poll_idle(cx).map(Err)
    }
}

impl AsyncWrite for AdminStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.waker.register(cx.waker());
        self.check_open()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = written {
            self.note_activity();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
