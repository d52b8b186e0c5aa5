//! Runs a connection until it ends: a task sends the queue of each lane, another receives.

use std::sync::Arc;

use quinn::{Connection, ConnectionError};
use tokio::sync::Semaphore;

use crate::handshake::Accepted;
use crate::hello::Class;
use crate::limits;
use crate::local::Local;
use crate::notices::Subject;
use crate::peer::{Close, Peer};
use crate::queue::LinkId;
use crate::stream::StreamError;
use crate::tasks::Tasks;
use crate::transport;

mod append;
mod bulk;
mod control;
mod presence;
mod receive;

/// What the tasks of a connection share.
#[derive(Clone)]
struct Shared {
    local: Arc<Local>,
    peer: Arc<Peer>,
    class: Class,
    id: LinkId,
    protocol: u16,
    connection: Connection,
    /// Bytes of the frames that are received at once.
    budget: Arc<Semaphore>,
}

/// Serves a connection until it ends, and returns why.
pub(crate) async fn run(accepted: Accepted) -> ConnectionError {
    let mut tasks = Tasks::default();
    // Dropped before the tasks: a stream of a task that is dropped on an open connection would end
    // in the middle of a frame.
    let held = accepted;
    let shared = Shared {
        local: held.local.clone(),
        peer: held.peer.clone(),
        class: held.class,
        id: held.id,
        protocol: held.protocol,
        connection: held.connection.clone(),
        budget: Arc::new(Semaphore::new(limits::RECEIVED_BYTES_MAX)),
    };
    transport::widen(&shared.connection, shared.class);
    held.report();
    match shared.class {
        Class::Raft => {
            tasks.start(control::send(shared.clone()));
            tasks.start(append::send(shared.clone()));
            tasks.start(receive::receive(shared.clone()));
            tasks.start(presence::watch(shared.clone()));
        }
        Class::Bulk => {
            tasks.start(bulk::send(shared.clone()));
            tasks.start(bulk::receive(shared.clone()));
        }
    }
    shared.until_closed(&mut tasks).await
}

impl Shared {
    /// Waits until the connection ends. A panic of a task ends it.
    async fn until_closed(&self, tasks: &mut Tasks) -> ConnectionError {
        loop {
            tokio::select! {
                error = self.connection.closed() => return error,
                panic = tasks.panicked() => self.fail(&panic),
            }
        }
    }

    /// Reports that the process of the peer has ended, and closes the connections to it.
    fn peer_ended(&self) {
        let (peer, class) = (&self.peer, self.class);
        if peer.is_current(class, self.id) {
            tracing::info!(broker = peer.broker.0, "the process of the broker has ended");
            self.local.inbox.ended(peer.broker);
            peer.ended();
        }
        // A later process has taken the place of the one at the other end.
        Close::Ended.close(&self.connection, "the process of the peer has ended");
    }

    /// Closes the connection because of an error of this side.
    fn fail(&self, error: &str) {
        tracing::error!(
            broker = self.peer.broker.0,
            class = %self.class,
            error,
            "connection to broker closed: a task failed"
        );
        Close::Failed.close(&self.connection, error);
    }

    /// Closes the connection if the error is a violation of the protocol.
    fn check(&self, error: &StreamError) {
        if matches!(error, StreamError::Ended(_)) {
            return;
        }
        let text = error.to_string();
        if self.local.is_new(Subject::Received(self.peer.broker, self.class), &text) {
            tracing::error!(
                broker = self.peer.broker.0,
                class = %self.class,
                error = text,
                "connection to broker closed: it sent what the protocol does not allow"
            );
        }
        Close::Violation.close(&self.connection, &text);
    }
}
