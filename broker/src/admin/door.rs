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
pub(super) struct Door {
    listener: TcpListener,
    visits: Arc<Visits>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        let (began, open) = (Instant::now(), Mutex::default());
        Self { listener, visits: Arc::new(Visits { began, open }) }
    }
}

impl Listener for Door {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let visit = self.visits.enter(address.ip().to_canonical());
                    return (Visitor::new(stream, visit, Arc::clone(&self.visits)), address);
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
struct Visits {
    began: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    visits: BTreeMap<u64, Arc<Visit>>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Visit {
    number: u64,
    from: IpAddr,
    /// Time of the last read or write, milliseconds since the server started.
    active_ms: AtomicU64,
    is_trusted: AtomicBool,
    is_closed: AtomicBool,
    waker: AtomicWaker,
}

impl Visit {
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

impl Visits {
    /// Registers a new connection, and closes another one at a bound.
    fn enter(&self, from: IpAddr) -> Arc<Visit> {
        let mut open = self.open.lock();
        let of_address = open.visits.values().filter(|visit| visit.from == from).count();
        if of_address >= limits::ADMIN_CONNECTIONS_PER_ADDRESS_MAX {
            open.close_longest_idle(|visit| visit.from == from);
        } else if open.visits.len() >= limits::ADMIN_CONNECTIONS_MAX {
            open.close_longest_idle(|_| true);
        }
        let number = open.next;
        open.next += 1;
        let visit = Arc::new(Visit {
            number,
            from,
            active_ms: AtomicU64::new(self.now_ms()),
            is_trusted: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        open.visits.insert(number, Arc::clone(&visit));
        visit
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn close_longest_idle(&mut self, among: impl Fn(&Visit) -> bool) {
        let idle_since = |visit: &&Arc<Visit>| {
            let is_trusted = visit.is_trusted.load(Ordering::Relaxed);
            (is_trusted, visit.active_ms.load(Ordering::Relaxed), visit.number)
        };
        let longest = self.visits.values().filter(|visit| among(visit)).min_by_key(idle_since);
        if let Some(number) = longest.map(|visit| visit.number)
            && let Some(visit) = self.visits.remove(&number)
        {
            tracing::debug!(from = %visit.from, "admin connection closed: too many are open");
            visit.close();
        }
    }
}

/// An admin connection. Reads and writes fail once it is to be closed.
#[derive(Debug)]
pub(super) struct Visitor {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    visit: Arc<Visit>,
    visits: Arc<Visits>,
}

impl Visitor {
    fn new(stream: TcpStream, visit: Arc<Visit>, visits: Arc<Visits>) -> Self {
        let idle = Box::pin(sleep(visit.idle_max()));
        Self { stream, idle, visit, visits }
    }

    pub(super) fn visit(&self) -> &Arc<Visit> {
        &self.visit
    }

    fn note_activity(&self) {
        self.visit.active_ms.store(self.visits.now_ms(), Ordering::Relaxed);
    }

    fn check_open(&self) -> io::Result<()> {
        if self.visit.is_closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Ready when the idle timeout has passed. The bound is read when the timer fires, because the
    /// connection may have become trusted meanwhile.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.idle.as_mut().poll(cx).is_ready() {
            let active_ms = self.visit.active_ms.load(Ordering::Relaxed);
            let active = self.visits.began + Duration::from_millis(active_ms);
            let until = active + self.visit.idle_max();
            if until <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.idle.set(sleep_until(until));
        }
        Poll::Pending
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.visits.open.lock().visits.remove(&self.visit.number);
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.visit.waker.register(cx.waker());
        self.check_open()?;
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.note_activity();
            return read;
        }
        self.poll_idle(cx).map(Err)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.visit.waker.register(cx.waker());
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
