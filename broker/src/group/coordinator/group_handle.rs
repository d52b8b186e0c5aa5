//! The handle of one group: the lock, pending replies and in-flight records of its state machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ropewalk_node::ShardHandle;
use ropewalk_shard::ProposeError;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::state::Outcome;
use tokio::sync::oneshot;

use super::pauses::Pauses;
use super::{Coordinator, refusal};
use crate::group::Refusal;
use crate::group::classic::{ClassicGroup, Join, Output, Persist, Reply, Token};
use crate::limits;
use crate::supervision;

/// The handle of one group that is coordinated here.
#[derive(Debug)]
pub(super) struct GroupHandle {
    group: String,
    shard: Arc<ShardHandle>,
    /// Size of the metadata of the members of all groups, bytes.
    all_bytes: Arc<AtomicUsize>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: ClassicGroup,
    waiting: HashMap<Token, oneshot::Sender<Reply>>,
    next_token: Token,
    /// Records that were proposed and have no outcome yet.
    in_flight: usize,
    /// When the timer of this handle fires; [`i64::MAX`] if none is set.
    armed_ms: i64,
    /// Whether the handle is retired; the group may have another one by now.
    is_retired: bool,
    pauses: Pauses,
    /// This group's part of `all_bytes`.
    counted_bytes: usize,
}

impl GroupHandle {
    /// A handle whose group's metadata is counted in `all_bytes`.
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
            in_flight: 0,
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

    /// Runs one step of the state machine, and carries out its output. `None` when this handle is
    /// retired.
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

    /// A step that registers a pending request.
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

    /// Checks that the client's metadata fits the memory limit of all groups.
    ///
    /// # Errors
    /// [`Refusal::NoMemory`] if it does not.
    fn check_memory(machine: &ClassicGroup, join: &Join, all_bytes: usize) -> Result<(), Refusal> {
        let growth_bytes = machine.growth_bytes(join);
        let size_max = limits::GROUPS_METADATA_BYTES_MAX;
        if growth_bytes > 0 && all_bytes + growth_bytes > size_max {
            return Err(Refusal::NoMemory { size_max });
        }
        Ok(())
    }

    /// A client joins the group.
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

    /// The current number of members of the group.
    pub(super) fn members(&self) -> usize {
        self.inner.lock().machine.members()
    }

    /// Duration of the group's last rebalance, milliseconds; `None` if none was observed.
    pub(super) fn last_pause_ms(&self) -> Option<i64> {
        self.inner.lock().pauses.last_ms()
    }

    /// Proposes a command. Must be called within a step, so that the command is ordered with the
    /// group's records.
    pub(super) fn submit(&self, command: ShardCommand) -> PendingOutcome {
        self.shard.submit(Command::Shard(command))
    }

    /// Answers every pending request with `refusal`, and retires this handle.
    pub(super) fn retire(&self, refusal: Refusal) {
        let mut inner = self.inner.lock();
        inner.is_retired = true;
        let output = inner.machine.kill(refusal);
        inner.count(&self.all_bytes);
        inner.answer(output.replies);
    }

    /// Sets the timer of a state machine that was just restored.
    pub(super) fn arm(self: &Arc<Self>, all: &Arc<Coordinator>) {
        self.step(all, |_, _| ((), Output::default()));
    }

    /// The timer that was set to `at_ms` fires.
    pub(super) fn fire(self: &Arc<Self>, all: &Arc<Coordinator>, at_ms: i64) {
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
                inner.in_flight += 1;
                self.make_durable(all, record);
            }
            // The deadline is in the past, for example with an initial rebalance delay of 0.
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
            all.timers.set(deadline_ms, self);
        }
        if inner.in_flight == 0 && inner.machine.is_idle() {
            inner.is_retired = true;
            all.dismiss(self);
        }
    }

    /// Proposes a record now; its outcome is a step of its own.
    fn make_durable(self: &Arc<Self>, all: &Arc<Coordinator>, record: Persist) {
        let Persist { sequence, record } = record;
        let outcome = self.submit(ShardCommand::SetGeneration(record));
        let (handle, all) = (Arc::clone(self), Arc::clone(all));
        let supervisor = all.node.supervisor().clone();
        let work = async move {
            match durable(outcome).await {
                Err(Refusal::NotCoordinator) => {
                    handle.retire(Refusal::NotCoordinator);
                    all.dismiss(&handle);
                }
                result => {
                    handle.inner.lock().in_flight -= 1;
                    handle.step(&all, |machine, now_ms| {
                        ((), machine.persisted(sequence, result, now_ms))
                    });
                }
            }
        };
        tokio::spawn(supervisor.endless(&supervision::GROUP_RECORD, work));
    }
}

impl Inner {
    /// Updates this group's part of the metadata size of all groups.
    fn count(&mut self, all_bytes: &AtomicUsize) {
        let now_bytes = self.machine.metadata_bytes();
        all_bytes.fetch_add(now_bytes, Ordering::Relaxed);
        all_bytes.fetch_sub(self.counted_bytes, Ordering::Relaxed);
        self.counted_bytes = now_bytes;
    }

    /// Sends the replies. A client that disconnected meanwhile is skipped.
    fn answer(&mut self, replies: Vec<(Token, Reply)>) {
        for (token, reply) in replies {
            if let Some(waiting) = self.waiting.remove(&token) {
                let _ = waiting.send(reply);
            }
        }
    }
}

/// The outcome of a proposed command.
pub(super) type PendingOutcome = oneshot::Receiver<Result<Outcome, ProposeError>>;

/// Waits until a command is applied.
pub(super) async fn durable(proposed: PendingOutcome) -> Result<(), Refusal> {
    match proposed.await {
        Ok(result) => settled(result),
        Err(_) => Err(Refusal::NotAvailable),
    }
}

/// The same for a command that must not be repeated: a client that repeats a deletion is informed
/// that there is no such group.
pub(super) async fn durable_once(proposed: PendingOutcome) -> Result<(), Refusal> {
    match proposed.await {
        Ok(Err(ProposeError::Unknown)) | Err(_) => Err(Refusal::OutcomeUnknown),
        Ok(result) => settled(result),
    }
}

fn settled(result: Result<Outcome, ProposeError>) -> Result<(), Refusal> {
    match result {
        Ok(Outcome::GroupRefused(refused)) => Err(refused.into()),
        Ok(Outcome::TermChanged) => Err(Refusal::NotCoordinator),
        Ok(
            Outcome::Done
            | Outcome::Appended(_)
            | Outcome::Catalog { .. }
            | Outcome::TierRefused(_),
        ) => Ok(()),
        Err(error) => Err(refusal(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deletion_without_an_outcome_is_not_repeated_by_the_client() {
        let proposed = |result| {
            let (done, proposed) = oneshot::channel();
            done.send(result).expect("it listens");
            proposed
        };
        for (result, once, again) in [
            (Ok(Outcome::Done), Ok(()), Ok(())),
            (
                Err(ProposeError::Unknown),
                Err(Refusal::OutcomeUnknown),
                Err(Refusal::NotCoordinator),
            ),
            // Nothing was deleted.
            (
                Err(ProposeError::NotLeader),
                Err(Refusal::NotCoordinator),
                Err(Refusal::NotCoordinator),
            ),
        ] {
            assert_eq!(durable_once(proposed(result.clone())).await, once);
            assert_eq!(durable(proposed(result)).await, again);
        }
        let (done, lost) = oneshot::channel();
        drop(done);
        assert_eq!(durable_once(lost).await, Err(Refusal::OutcomeUnknown));
    }
}
