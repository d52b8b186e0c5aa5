//! The place of one group's machine: its lock, those who wait for it, its records on the way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::state::Outcome;
use tokio::sync::oneshot;

use super::pauses::Pauses;
use super::{Coordinator, refusal};
use crate::group::Refusal;
use crate::group::classic::{ClassicGroup, Join, Output, Persist, Reply, Token};
use crate::limits;
use crate::supervision;

/// One group that is coordinated here.
#[derive(Debug)]
pub(super) struct Seat {
    group: String,
    shard: Arc<ShardHandle>,
    /// What the members of all groups say about themselves, bytes.
    all_bytes: Arc<AtomicUsize>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: ClassicGroup,
    waiting: HashMap<Token, oneshot::Sender<Reply>>,
    next_token: Token,
    /// Records that were proposed and have no outcome.
    on_the_way: usize,
    /// When the alarm will ring for this seat; [`i64::MAX`] if it will not.
    armed_ms: i64,
    /// There may be another seat for this group by now.
    is_retired: bool,
    pauses: Pauses,
    /// What the machine's members say about themselves, as counted for all groups, bytes.
    counted_bytes: usize,
}

impl Seat {
    /// What its members say about themselves is counted in `all_bytes`.
    pub(super) fn new(
        group: String,
        shard: Arc<ShardHandle>,
        machine: ClassicGroup,
        all_bytes: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let inner = Inner {
            machine,
            waiting: HashMap::new(),
            next_token: 0,
            on_the_way: 0,
            armed_ms: i64::MAX,
            is_retired: false,
            pauses: Pauses::default(),
            counted_bytes: 0,
        };
        Arc::new(Self { group, shard, all_bytes, inner: Mutex::new(inner) })
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    pub(super) fn shard(&self) -> &Arc<ShardHandle> {
        &self.shard
    }

    /// One step of the machine, and everything that follows from it. `None` when this seat is
    /// no longer the group's.
    pub(super) fn step<T>(
        self: &Arc<Self>,
        all: &Arc<Coordinator>,
        act: impl FnOnce(&mut ClassicGroup, i64) -> (T, Output),
    ) -> Option<T> {
        let mut inner = self.inner.lock();
        if inner.is_retired {
            return None;
        }
        let (result, output) = act(&mut inner.machine, all.now_ms());
        self.carry_out(&mut inner, all, output);
        Some(result)
    }

    /// A step that somebody waits for the end of.
    pub(super) fn wait(
        self: &Arc<Self>,
        all: &Arc<Coordinator>,
        act: impl FnOnce(&mut ClassicGroup, Token, i64) -> Output,
    ) -> Option<oneshot::Receiver<Reply>> {
        let mut inner = self.inner.lock();
        if inner.is_retired {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let token = inner.next_token;
        inner.next_token += 1;
        inner.waiting.insert(token, reply);
        let output = act(&mut inner.machine, token, all.now_ms());
        self.carry_out(&mut inner, all, output);
        Some(answer)
    }

    /// Whether what this client says about itself still fits the memory for all groups.
    ///
    /// # Errors
    /// [`Refusal::NoMemory`].
    fn check_memory(machine: &ClassicGroup, join: &Join, all_bytes: usize) -> Result<(), Refusal> {
        let growth_bytes = machine.growth_bytes(join);
        let size_max = limits::GROUPS_METADATA_BYTES_MAX;
        if growth_bytes > 0 && all_bytes + growth_bytes > size_max {
            return Err(Refusal::NoMemory { size_max });
        }
        Ok(())
    }

    /// A client joins.
    pub(super) fn join(
        self: &Arc<Self>,
        all: &Arc<Coordinator>,
        join: Join,
    ) -> Option<oneshot::Receiver<Reply>> {
        self.wait(all, |machine, token, now_ms| {
            match Self::check_memory(machine, &join, all.metadata_bytes()) {
                Ok(()) => machine.join(join, token, now_ms),
                Err(refusal) => {
                    let reply = Reply::NotJoined { member_id: join.member_id, refusal };
                    Output { replies: vec![(token, reply)], persists: Vec::new() }
                }
            }
        })
    }

    /// How many members the group has right now.
    pub(super) fn members(&self) -> usize {
        self.inner.lock().machine.members()
    }

    /// How long the group's last rebalance took, milliseconds, if one was seen.
    pub(super) fn last_pause_ms(&self) -> Option<i64> {
        self.inner.lock().pauses.last_ms()
    }

    /// Proposes a command. To be called within a step, so that it takes its place among the
    /// group's records.
    pub(super) fn submit(&self, command: ShardCommand) -> Proposed {
        self.shard.submit(Command::Shard(command))
    }

    /// Everybody who waits is told `refusal`, and this seat is not used again.
    pub(super) fn retire(&self, refusal: Refusal) {
        let mut inner = self.inner.lock();
        inner.is_retired = true;
        let output = inner.machine.kill(refusal);
        inner.count(&self.all_bytes);
        inner.answer(output.replies);
    }

    /// Sets the alarm for a machine that was just restored.
    pub(super) fn arm(self: &Arc<Self>, all: &Arc<Coordinator>) {
        self.step(all, |_, _| ((), Output::default()));
    }

    /// The alarm rings that was set to `at_ms`.
    pub(super) fn ring(self: &Arc<Self>, all: &Arc<Coordinator>, at_ms: i64) {
        {
            let mut inner = self.inner.lock();
            if inner.armed_ms != at_ms {
                return;
            }
            inner.armed_ms = i64::MAX;
        }
        self.step(all, |machine, now_ms| ((), machine.tick(now_ms)));
    }

    fn carry_out(self: &Arc<Self>, inner: &mut Inner, all: &Arc<Coordinator>, output: Output) {
        let mut output = output;
        loop {
            inner.answer(output.replies);
            for record in output.persists {
                inner.on_the_way += 1;
                self.make_durable(all, record);
            }
            // A deadline that has come already: no delay before the first rebalance, for one.
            if inner.machine.next_deadline_ms() > all.now_ms() {
                break;
            }
            output = inner.machine.tick(all.now_ms());
        }
        inner.count(&self.all_bytes);
        inner.pauses.see(inner.machine.phase(), all.now_ms());
        let deadline_ms = inner.machine.next_deadline_ms();
        if deadline_ms < inner.armed_ms {
            inner.armed_ms = deadline_ms;
            all.alarm.set(deadline_ms, self);
        }
        if inner.on_the_way == 0 && inner.machine.is_idle() {
            inner.is_retired = true;
            all.dismiss(self);
        }
    }

    /// Proposes a record now; its outcome comes back as a step of its own.
    fn make_durable(self: &Arc<Self>, all: &Arc<Coordinator>, record: Persist) {
        let Persist { sequence, record } = record;
        let outcome = self.submit(ShardCommand::SetGeneration(record));
        let (seat, all) = (Arc::clone(self), Arc::clone(all));
        let supervisor = all.node.supervisor().clone();
        let work = async move {
            match durable(outcome).await {
                Err(Refusal::NotCoordinator) => {
                    seat.retire(Refusal::NotCoordinator);
                    all.dismiss(&seat);
                }
                result => {
                    seat.inner.lock().on_the_way -= 1;
                    seat.step(&all, |machine, now_ms| {
                        ((), machine.persisted(sequence, result, now_ms))
                    });
                }
            }
        };
        tokio::spawn(supervisor.endless(&supervision::GROUP_RECORD, work));
    }
}

impl Inner {
    /// Adds what the machine's members say about themselves to what those of all groups do.
    fn count(&mut self, all_bytes: &AtomicUsize) {
        let now_bytes = self.machine.metadata_bytes();
        all_bytes.fetch_add(now_bytes, Ordering::Relaxed);
        all_bytes.fetch_sub(self.counted_bytes, Ordering::Relaxed);
        self.counted_bytes = now_bytes;
    }

    /// Who went away in the meantime is not told.
    fn answer(&mut self, replies: Vec<(Token, Reply)>) {
        for (token, reply) in replies {
            if let Some(waiting) = self.waiting.remove(&token) {
                let _ = waiting.send(reply);
            }
        }
    }
}

/// A command on its way.
pub(super) type Proposed = oneshot::Receiver<Result<Outcome, ropewalk_shard::ProposeError>>;

/// Waits until a command is applied.
pub(super) async fn durable(proposed: Proposed) -> Result<(), Refusal> {
    match proposed.await {
        Ok(Ok(Outcome::GroupRefused(refused))) => Err(refused.into()),
        Ok(Ok(Outcome::TermChanged)) => Err(Refusal::NotCoordinator),
        Ok(Ok(Outcome::Done | Outcome::Appended(_) | Outcome::Catalog(_))) => Ok(()),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(Refusal::NotAvailable),
    }
}
