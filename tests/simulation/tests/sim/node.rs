//! One replica of the simulated shard with its disk, its clock and the calls that it has to answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use ropewalk_shard::State;
use ropewalk_shard::command::{Append, FORMAT_MAX};
use ropewalk_shard::driver::{Actions, Caller, Core, Event, Now, StateAccess};
use ropewalk_shard::engine::EngineError;
use ropewalk_shard::replica::{Replica, Work};
use ropewalk_shard::send_budget::{SendBudget, SendLimits};

use crate::clients::Record;
use crate::disk::{Disk, OpenFailure, Snapshot, Synced};
use crate::tier::{Records, Upload};

/// Who waits for the answer to a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    /// A client, by its number.
    Append(usize, Record),
    /// A read that must see a partition through this end.
    Read(i32, i64),
    /// A command of the operator.
    Command,
    /// A change of the members.
    Change,
}

/// The state, which the core reaches through a lock, and the feature level that the node knows.
#[derive(Debug)]
pub(crate) struct Shared(pub RefCell<State>, Cell<u8>);

impl StateAccess for Shared {
    fn poll(&self, replica: &mut Replica) -> Option<Work> {
        replica.poll(&mut self.0.borrow_mut())
    }

    fn is_of_new_producer(&self, item: &Append) -> bool {
        self.0.borrow().is_of_new_producer(item)
    }

    fn level(&self) -> u8 {
        self.1.get()
    }
}

/// Ticks between two comparisons of the states of the replicas.
const CHECK_TICKS: usize = 40;

/// What runs between two starts.
#[derive(Debug)]
pub(crate) struct Process {
    pub core: Core,
    pub state: Shared,
    pub calls: BTreeMap<Caller, Call>,
    /// What is on its way to other replicas.
    pub sends: SendBudget,
    next_caller: Caller,
    /// The index of the last state that the oracle saw.
    pub reported: u64,
    /// What it has on its disk and in memory, in a run with a tier.
    pub records: Records,
    /// The objects that it uploads, by partition.
    pub uploads: BTreeMap<i32, Upload>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub id: u64,
    pub disk: Disk,
    pub process: Option<Process>,
    /// Counts starts, so that events of an earlier process are recognised.
    pub incarnation: u64,
    /// Until then the process does not run (microseconds).
    pub paused_until: u64,
    /// How long a sync takes, microseconds.
    pub sync_us: u64,
    /// Whether the disk has no space for record batches and for more files of the log.
    pub is_full: bool,
    /// Whether the log refuses the next write with record batches.
    pub refuses_next: bool,
    /// The first write that was refused and not submitted again since.
    pub refused: Option<u64>,
    /// The highest number of a write that the process has submitted.
    pub submitted: u64,
    /// Until then it sends messages that no correct replica sends (microseconds).
    pub forges_until: u64,
    /// The bounds of what is on its way to other replicas.
    pub send_limits: SendLimits,
    /// Bytes of records that are written to segments in a tick.
    pub flushed_per_tick: u64,
    /// The most bytes of payloads that the core kept at the end of an event.
    pub peak_bytes: u64,
    /// How far the wall clock is off, milliseconds.
    pub clock_skew_ms: i64,
    /// Length of a tick by this node's clock, microseconds.
    pub tick_us: u64,
    /// Whether the log was found to lack what was durable, or contradicts the others'.
    pub is_lost: bool,
    level: u8,
    /// When the last submitted write will be durable.
    pub synced_at: u64,
    /// When the log was sealed last.
    pub sealed_at: u64,
}

impl Node {
    pub(crate) fn new(id: u64, disk: Disk, tick_us: u64) -> Self {
        Self {
            id,
            disk,
            process: None,
            incarnation: 0,
            paused_until: 0,
            sync_us: 300,
            is_full: false,
            refuses_next: false,
            refused: None,
            submitted: 0,
            forges_until: 0,
            send_limits: SendLimits::default(),
            flushed_per_tick: u64::MAX,
            peak_bytes: 0,
            clock_skew_ms: 0,
            tick_us,
            is_lost: false,
            level: FORMAT_MAX,
            synced_at: 0,
            sealed_at: 0,
        }
    }

    /// Starts the process from what is on the disk.
    pub(crate) fn start(&mut self, seed: u64) -> Result<(), OpenFailure> {
        self.disk.set_full(self.is_full);
        let (start, state) = self.disk.start(seed)?;
        let reported = start.snapshot.index;
        let damaged = |error: EngineError| OpenFailure::Damaged(error.to_string());
        let replica = Replica::new(start).map_err(damaged)?;
        self.incarnation += 1;
        self.submitted = 0;
        self.process = Some(Process {
            core: Core::new(replica).with_check_ticks(CHECK_TICKS),
            state: Shared(RefCell::new(state), Cell::new(self.level)),
            calls: BTreeMap::new(),
            sends: SendBudget::new(self.send_limits),
            next_caller: 0,
            reported,
            records: self.disk.snapshot().records.clone(),
            uploads: BTreeMap::new(),
        });
        Ok(())
    }

    /// Sets the feature level that the node knows.
    pub(crate) fn set_level(&mut self, level: u8) {
        self.level = level;
        if let Some(process) = &self.process {
            process.state.1.set(level);
        }
    }

    /// The oldest write in flight becomes durable, is refused, or its sync fails.
    pub(crate) fn sync_next(&mut self) -> Synced {
        self.disk.set_full(self.is_full);
        self.disk.sync_next()
    }

    pub(crate) fn now(&self, at_us: u64) -> Now {
        let time_ms = i64::try_from(at_us / 1000).expect("short") + self.clock_skew_ms;
        Now { at: Duration::from_micros(at_us), time_ms }
    }

    pub(crate) fn event(&mut self, at_us: u64, event: Event) {
        let now = self.now(at_us);
        if let Some(process) = &mut self.process {
            process.core.take(event, now);
        }
    }

    pub(crate) fn poll(&mut self, at_us: u64) -> Option<Actions> {
        let (now, has_space) = (self.now(at_us), !self.is_full);
        let process = self.process.as_mut()?;
        process.core.poll(now, has_space, &process.state)
    }

    /// Registers a call and returns its number.
    pub(crate) fn call(&mut self, call: Call) -> Option<Caller> {
        let process = self.process.as_mut()?;
        let caller = process.next_caller;
        process.next_caller += 1;
        process.calls.insert(caller, call);
        Some(caller)
    }

    /// A snapshot of what is applied now.
    pub(crate) fn capture(&self) -> Option<Snapshot> {
        let process = self.process.as_ref()?;
        let replica = process.core.replica();
        Some(Snapshot {
            last: replica.applied(),
            members: replica.members().clone(),
            state: process.state.0.borrow().clone(),
            records: process.records.clone(),
        })
    }

    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.process.as_ref().map(|process| process.core.replica())
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.replica().is_some_and(|replica| replica.leading().is_some())
    }
}
