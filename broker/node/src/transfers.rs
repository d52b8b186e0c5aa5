//! The thread that sends and receives the files of shards: see [`ropewalk_store::transfer`].
//!
//! Everything reaches it as an order, so that neither a driver nor the network waits for a file.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use ropewalk_shard::ShardId;
use ropewalk_shard::engine::EntryId;
use ropewalk_store::transfer::message::{Body, Message};
use ropewalk_store::transfer::{Options, Position, Receiver, Source};
use ropewalk_store::work::{Next, WorkError};
use ropewalk_store::{PartitionLog, Store, destroy, destroyed};
use ropewalk_thread::{self as thread, JoinHandle, RecvError, RecvTimeoutError};
use ropewalk_wal::{HardState, WalHandle};
use tokio::sync::oneshot;

use crate::peers::Peers;
use crate::supervision::{self, Failure, Supervisor};

/// How long the thread waits for an order while files are transferred; the rates are held to it.
const STEP: Duration = Duration::from_millis(2);
/// Most orders between two steps.
const ORDERS_AT_ONCE: usize = 64;

#[derive(Debug)]
enum Order {
    Message(Box<Message>),
    Offer { shard: ShardId, from: u64, to: u64 },
    Begin { shard: ShardId, replica: u64, peer: u64 },
    Destroy { shard: ShardId, replica: u64, done: oneshot::Sender<Result<(), WorkError>> },
    Stop,
}

/// Gives orders to the thread. Without the thread nothing happens.
#[derive(Debug, Clone)]
pub struct TransferOrders(thread::Sender<Order>);

/// What the thread takes: see [`spawn`].
#[derive(Debug)]
pub struct Orders(thread::Receiver<Order>);

impl TransferOrders {
    /// The giver and the taker of orders.
    #[must_use]
    pub fn new() -> (Self, Orders) {
        let (give, take) = thread::channel();
        (Self(give), Orders(take))
    }

    /// Passes in a message of another broker.
    pub fn message(&self, message: Message) {
        self.give(Order::Message(Box::new(message)));
    }

    /// Offers the files of this broker's replica `from` to the replica `to`.
    pub fn offer(&self, shard: ShardId, from: u64, to: u64) {
        self.give(Order::Offer { shard, from, to });
    }

    /// Begins or continues to receive a shard for the replica `replica` of this broker, from the
    /// replica `peer`.
    pub fn begin(&self, shard: ShardId, replica: u64, peer: u64) {
        self.give(Order::Begin { shard, replica, peer });
    }

    /// Destroys a replica of this broker, which may be received only. Nothing of the same shard is
    /// installed meanwhile. The sender of the answer is dropped if the broker stops.
    pub fn destroy(
        &self,
        shard: ShardId,
        replica: u64,
    ) -> oneshot::Receiver<Result<(), WorkError>> {
        let (done, is_done) = oneshot::channel();
        self.give(Order::Destroy { shard, replica, done });
        is_done
    }

    fn give(&self, order: Order) {
        // The thread may have ended.
        self.0.send(order);
    }
}

/// The shards of a broker, as the thread needs them.
pub(crate) trait Shards: Send + fmt::Debug + 'static {
    /// Whether this replica is this broker's and a set that includes `last` may replace its log.
    fn needs(&self, shard: ShardId, replica: u64, last: EntryId) -> bool;

    /// Stops the replica if [`Self::needs`] holds. See
    /// [`Claim`](ropewalk_store::transfer::Claim).
    fn claim(&self, shard: ShardId, replica: u64, last: EntryId) -> Option<Position>;

    /// Whether the broker has another replica of the shard than this one.
    fn has_other(&self, shard: ShardId, replica: u64) -> bool;

    /// Ends a replica of this broker for good, if it runs, and expects it no longer. Nothing uses
    /// its files any more. Returns the logs of its partitions.
    fn retire(&self, shard: ShardId, replica: u64) -> Vec<Arc<PartitionLog>>;

    /// Opens a shard whose files are installed, and runs it.
    ///
    /// # Errors
    /// When it cannot be opened: the process has to end, because the replica was stopped.
    fn open(&self, shard: ShardId, known: Option<HardState>) -> Result<(), String>;
}

/// The running thread. Dropping it stops it after the current step.
#[derive(Debug)]
pub(crate) struct TransferHandle {
    orders: TransferOrders,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Drop for TransferHandle {
    fn drop(&mut self) {
        self.orders.give(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // The supervisor has reported a panic already.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
pub(crate) struct Context<S> {
    pub(crate) store: Arc<Store>,
    pub(crate) wal: WalHandle,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) shards: S,
    pub(crate) options: Options,
    pub(crate) clock_ms: fn() -> i64,
}

/// Starts the thread. `supervisor` reports a final error (D2) or a panic.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn spawn<S: Shards>(
    context: Context<S>,
    (orders, taken): (TransferOrders, Orders),
    supervisor: Supervisor,
) -> io::Result<TransferHandle> {
    let mut transfers = Transfers {
        source: Source::new(Arc::clone(&context.store), context.options),
        receiver: Receiver::new(Arc::clone(&context.store), context.options),
        context,
    };
    let body = move || transfers.run(&taken.0);
    let task = &supervision::TRANSFERS;
    let thread = thread::spawn(task.name, move || supervisor.run(task, body))?;
    Ok(TransferHandle { orders, thread: Some(thread) })
}

struct Transfers<S> {
    source: Source,
    receiver: Receiver,
    context: Context<S>,
}

impl<S: Shards> Transfers<S> {
    fn run(&mut self, orders: &thread::Receiver<Order>) -> Result<(), Failure> {
        let mut next = Next::Wait;
        loop {
            let is_busy = self.source.transfers() > 0 || !self.receiver.shards().is_empty();
            let first = if is_busy {
                let wait = if next == Next::Now { Duration::ZERO } else { STEP };
                match orders.recv_timeout(wait) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            } else {
                match orders.recv() {
                    Ok(order) => Some(order),
                    Err(RecvError) => return Ok(()),
                }
            };
            for order in first.into_iter().chain(orders.try_iter()).take(ORDERS_AT_ONCE) {
                if matches!(order, Order::Stop) {
                    return Ok(());
                }
                self.take(order)?;
            }
            next = self.step()?;
        }
    }

    fn take(&mut self, order: Order) -> Result<(), Failure> {
        let now_ms = (self.context.clock_ms)();
        let done = match order {
            Order::Message(message) => self.message(&message, now_ms),
            Order::Offer { shard, from, to } => Ok(self.source.offer(shard, from, to, now_ms)),
            Order::Begin { shard, replica, peer } => {
                self.receiver.begin(shard, replica, peer).map(|()| Vec::new())
            }
            Order::Destroy { shard, replica, done } => {
                let destroyed = self.destroy(shard, replica, now_ms);
                // The caller may no longer wait.
                let _ = done.send(destroyed.clone());
                match destroyed {
                    Err(error) if error.is_final() => Err(error),
                    // The caller retries.
                    Ok(()) | Err(_) => Ok(Vec::new()),
                }
            }
            Order::Stop => Ok(Vec::new()),
        };
        let messages = or_later(done)?.unwrap_or_default();
        self.send(messages);
        Ok(())
    }

    /// Destroys a replica in the order that [`destroy`] describes.
    fn destroy(&mut self, shard: ShardId, replica: u64, now_ms: i64) -> Result<(), WorkError> {
        let Context { store, wal, shards, .. } = &mut self.context;
        if shards.has_other(shard, replica) {
            // The files are those of the other one.
            return destroy::drop_log(shard, replica, wal);
        }
        destroyed::mark(store.data(), shard, replica)?;
        let logs = shards.retire(shard, replica);
        let mut messages = self.source.end(shard, replica, now_ms);
        messages.extend(self.receiver.abandon(shard, replica)?);
        destroy::destroy(store, shard, replica, &logs, wal)?;
        self.send(messages);
        Ok(())
    }

    fn message(&mut self, message: &Message, now_ms: i64) -> Result<Vec<Message>, WorkError> {
        match message.body {
            Body::Want | Body::Fetch(_) | Body::Stop { .. } => {
                Ok(self.source.handle(message, now_ms))
            }
            Body::Offer(_) | Body::Wait | Body::Piece { .. } | Body::Expired { .. } => {
                let shards = &self.context.shards;
                let need = |shard, replica, last| shards.needs(shard, replica, last);
                self.receiver.handle(message, &need, now_ms)
            }
        }
    }

    fn step(&mut self) -> Result<Next, Failure> {
        let now_ms = (self.context.clock_ms)();
        let messages = self.source.tick(now_ms);
        self.send(messages);
        let mut next = Next::Wait;
        if let Some((messages, then)) = or_later(self.receiver.step(now_ms))? {
            self.send(messages);
            next = then;
        }
        for shard in self.receiver.complete() {
            self.install(shard)?;
        }
        Ok(next)
    }

    fn install(&mut self, shard: ShardId) -> Result<(), Failure> {
        let Context { wal, shards, .. } = &mut self.context;
        let stopped = std::cell::Cell::new(None);
        let claim = |shard, replica, last| {
            let position = shards.claim(shard, replica, last)?;
            stopped.set(Some(position));
            Some(position)
        };
        let installed = or_later(self.receiver.install(shard, &claim, wal))?;
        let Some(Position { hard_state }) = stopped.get() else {
            self.send(installed.unwrap_or_default());
            return Ok(());
        };
        // A replica that was stopped has to run again, and only the next start can complete what
        // failed here.
        let Some(messages) = installed else {
            return Err(Failure::Fault(format!("the files of {shard} could not be installed")));
        };
        self.context.shards.open(shard, hard_state).map_err(Failure::Fault)?;
        self.send(messages);
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            // One that is lost is asked for again.
            self.context.peers.send_files(message);
        }
    }
}

/// The result, unless it failed and may succeed later.
fn or_later<T>(result: Result<T, WorkError>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(WorkError::Later(error)) => {
            tracing::warn!(error, "a transfer of files failed, will retry");
            Ok(None)
        }
        Err(WorkError::Final(error)) => Err(Failure::Disk(error)),
    }
}
