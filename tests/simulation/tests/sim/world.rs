//! The simulated cluster: nodes, network and clients in one thread, moved by a queue of events.
//!
//! The events of replicas are in `host`, their processes in `process`, clients in `traffic`, faults
//! in `chaos`.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::Footprint;
use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::{EntryId, Fetch, Members, MessageRejection};
use ropewalk_shard::manifest::ObjectRef;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::send_budget::SendLimits;

use crate::alteration::Alteration;
use crate::clients::Client;
use crate::contest::Contest;
use crate::dice::{Dice, mix};
use crate::disk::{Disk, Place, Snapshot};
use crate::mutation::Mutation;
use crate::network::Network;
use crate::node::Node;
use crate::oracle::Oracle;
use crate::steps::Steps;
use crate::tier::{TierWorld, Upload};
use crate::trace::Trace;

/// Small files, so that a run begins, seals and recycles many.
const WILD_FILE_BYTES: u64 = 256 << 10;
/// Large enough for a message of large entries.
const CALM_FILE_BYTES: u64 = 2 << 20;

/// When a bit flips in the state of a replica, if one does, microseconds.
const FLIP_US: u64 = 5_000_000;
/// Large enough for a reserve that takes everything that a leader may leave uncommitted.
const ROOMY_FILE_BYTES: u64 = 16 << 20;

/// How often the log writes durably which rounds were durable, microseconds.
const SEAL_US: u64 = 1_000_000;

/// An event of the simulation. A message is `charged` with the incarnation of its sender, if it
/// counts for what that process has on its way. With `Ended`, a node notices that the process of
/// another one has ended, or takes it for ended.
#[derive(Debug)]
pub(crate) enum Happening {
    Tick { node: u64, incarnation: u64 },
    Deliver { message: Message, charged: Option<u64> },
    Turns { node: u64, incarnation: u64 },
    Sync { node: u64, incarnation: u64 },
    Fetched { node: u64, incarnation: u64, fetch: Fetch },
    Snapshot { to: u64, snapshot: Box<Snapshot> },
    Client { client: usize },
    Reader,
    Timeout { client: usize, value: u64 },
    Start { node: u64 },
    Restart { node: u64 },
    Ended { node: u64, of: u64 },
    Space { node: u64 },
    Checkpoint { node: u64, every_us: u64 },
    ContestEnds,
    Damage { lagging: Vec<u64> },
    Chaos,
    Operator,
    Uploader,
    PutApplied { index: i32, upload: Box<Upload> },
    PutAnswered { node: u64, incarnation: u64, index: i32, of: Box<ObjectRef> },
}

/// What the whole run counts, to show that it did something.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub acked: usize,
    pub crashes: usize,
    pub elections: usize,
    pub contests: usize,
    pub snapshots: usize,
    pub fetches: usize,
    pub changes: usize,
    pub refused: usize,
    /// Writes that the log refused.
    pub full: usize,
    pub reads: usize,
    /// Digests of states that replicas sent to each other.
    pub digests: usize,
    /// Messages with entries that were not sent because too many bytes were on their way.
    pub held: usize,
    /// Heartbeats that a newer one replaced.
    pub merged: usize,
    pub messages: usize,
    /// Reports that the process of a replica has ended.
    pub ended: usize,
    pub events: usize,
}

#[derive(Debug)]
pub(crate) struct World {
    pub seed: u64,
    pub dice: Dice,
    pub trace: Trace,
    pub oracle: Oracle,
    pub counts: Counts,
    /// The last rejection of a message by any replica.
    pub rejection: Option<MessageRejection>,
    pub at_us: u64,
    pub network: Network,
    pub nodes: BTreeMap<u64, Node>,
    pub mutation: Option<Mutation>,
    /// Size of a file of the logs, bytes.
    log_file_bytes: u64,
    /// Whether faults happen at random; the end of a run is quiet.
    pub is_quiet: bool,
    /// Whether a disk has lost what was durable; at most one does in a run.
    pub has_lost: bool,
    /// Replicas that may stop although their disks are undamaged.
    pub may_stop: BTreeSet<u64>,
    /// The replicas that stopped, with their reasons, until a script expects it.
    pub stops: Vec<(u64, String)>,
    /// The replica whose entries are changed on their way.
    pub altered: Option<(u64, Alteration)>,
    pub next_node: u64,
    /// Members of which the operator has asked the removal.
    pub removals: BTreeSet<u64>,
    /// Changes of the members whose outcome is not known.
    pub open_changes: usize,
    pub clients: Vec<Client>,
    pub next_value: u64,
    /// Replicas to which a snapshot is on its way.
    pub transfers: BTreeSet<u64>,
    pub contest: Option<Contest>,
    /// The bucket, in a run whose leaders upload.
    pub tier: Option<Box<TierWorld>>,
    pub steps: Steps,
    /// How long a client waits between two requests while no faults happen, microseconds.
    pub pace_us: u64,
    /// The most that any replica kept in memory at the end of an event.
    pub peak: Footprint,
    queue: BTreeMap<(u64, u64), Happening>,
    /// The newest heartbeat of each pair that waits for a paused process. It replaces the one
    /// before it, as between brokers.
    heartbeats: BTreeMap<(u64, u64), (u64, u64)>,
    next_event: u64,
}

impl World {
    /// A shard of `voters` replicas that has just been created, without clients and faults.
    pub(crate) fn calm(seed: u64, voters: u64, mutation: Option<Mutation>) -> Self {
        Self::created(seed, voters, mutation, CALM_FILE_BYTES)
    }

    /// The same with logs of large files.
    pub(crate) fn roomy(seed: u64, voters: u64, mutation: Option<Mutation>) -> Self {
        Self::created(seed, voters, mutation, ROOMY_FILE_BYTES)
    }

    fn created(seed: u64, voters: u64, mutation: Option<Mutation>, log_file_bytes: u64) -> Self {
        let mut world = Self {
            seed,
            dice: Dice::new(seed),
            trace: Trace::default(),
            oracle: Oracle::default(),
            counts: Counts::default(),
            rejection: None,
            at_us: 0,
            network: Network::default(),
            nodes: BTreeMap::new(),
            mutation,
            log_file_bytes,
            is_quiet: true,
            has_lost: false,
            may_stop: BTreeSet::new(),
            stops: Vec::new(),
            altered: None,
            next_node: 1,
            removals: BTreeSet::new(),
            open_changes: 0,
            clients: Vec::new(),
            next_value: 1,
            transfers: BTreeSet::new(),
            contest: None,
            tier: None,
            steps: Steps::default(),
            pace_us: 500_000,
            peak: Footprint::default(),
            queue: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            next_event: 0,
        };
        let members = Members { voters: (1..=voters).collect(), ..Members::default() };
        let last = EntryId { index: 1, term: 1 };
        let first = Snapshot { last, members, ..Snapshot::empty() };
        for _ in 0..voters {
            let id = world.add_node(first.clone());
            world.start(id);
        }
        world
    }

    /// The same with four clients, an operator and random faults.
    pub(crate) fn wild(seed: u64, voters: u64, mutation: Option<Mutation>) -> Self {
        let mut world = Self::created(seed, voters, mutation, WILD_FILE_BYTES);
        world.is_quiet = false;
        if seed.is_multiple_of(2) {
            world.limit_sends(SendLimits { peer_bytes: 600, node_bytes: 900 });
        }
        for client in 0..4 {
            world.add_client((client % 2 == 0).then_some(1000 + client));
        }
        world.after(500_000, Happening::Reader);
        world.after(1_000_000, Happening::Chaos);
        world.after(2_000_000, Happening::Operator);
        world
    }

    /// Adds a node with a disk that holds `snapshot`; returns its id. It does not run yet.
    pub(crate) fn add_node(&mut self, snapshot: Snapshot) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        let tick_us = self.dice.between(90_000, 110_000);
        let place =
            Place { replica: id, seed: mix(self.seed ^ mix(id)), file_bytes: self.log_file_bytes };
        let disk = Disk::new(place, snapshot, self.mutation);
        self.nodes.insert(id, Node::new(id, disk, tick_us));
        id
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this cluster")
    }

    /// The hash of what happened, on the disks too.
    pub(crate) fn hash(&self) -> u64 {
        self.nodes.values().fold(self.trace.hash(), |hash, node| mix(hash ^ node.disk.trace()))
    }

    pub(crate) fn after(&mut self, delay_us: u64, happening: Happening) {
        self.enqueue(delay_us, happening);
    }

    /// Like [`Self::after`]; returns the place of the event in the queue.
    fn enqueue(&mut self, delay_us: u64, happening: Happening) -> (u64, u64) {
        let place = (self.at_us + delay_us, self.next_event);
        self.queue.insert(place, happening);
        self.next_event += 1;
        place
    }

    pub(crate) fn note(&mut self, text: String) {
        self.trace.event(self.at_us, text);
    }

    /// Runs for `us` microseconds or until a violation.
    pub(crate) fn run_for(&mut self, us: u64) {
        self.run(self.at_us + us);
    }

    /// Runs until `end_us` or a violation.
    pub(crate) fn run(&mut self, end_us: u64) {
        while self.oracle.violation().is_none() {
            match self.queue.first_key_value() {
                Some(((at_us, _), _)) if *at_us <= end_us => {}
                Some(_) | None => {
                    self.at_us = end_us;
                    return;
                }
            }
            let ((at_us, _), happening) = self.queue.pop_first().expect("it is there");
            self.at_us = at_us;
            self.counts.events += 1;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let Some(happening) = self.unless_paused(happening) else { return };
        match happening {
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Deliver { message, charged } => self.deliver(message, charged),
            Happening::Turns { node, incarnation } => self.turns(node, incarnation),
            Happening::Sync { node, incarnation } => self.sync(node, incarnation),
            Happening::Fetched { node, incarnation, fetch } => {
                let read = |n: &mut Node| n.disk.read(fetch.first, fetch.last);
                if let Some(entries) = self.current(node, incarnation, read) {
                    self.event(node, Event::Fetched { id: fetch.id, entries });
                }
            }
            Happening::Snapshot { to, snapshot } => self.install(to, *snapshot),
            Happening::Client { client } => self.client(client),
            Happening::Reader => self.reader(),
            Happening::Timeout { client, value } => {
                if self.clients[client].waits_for(value) {
                    self.clients[client].timed_out();
                }
            }
            Happening::Start { node } => self.start(node),
            Happening::Restart { node } => self.restart(node),
            Happening::Ended { node, of } => {
                self.counts.ended += 1;
                self.event(node, Event::Ended(of));
            }
            Happening::Space { node } => self.node(node).is_full = false,
            Happening::Checkpoint { node, every_us } => {
                self.checkpoint(node);
                self.after(every_us, Happening::Checkpoint { node, every_us });
            }
            Happening::ContestEnds => self.contest = None,
            Happening::Damage { lagging } => self.damage(&lagging),
            Happening::Chaos => self.chaos(),
            Happening::Operator => self.operator(),
            Happening::Uploader => self.uploader(),
            Happening::PutApplied { index, upload } => {
                self.tier().bucket.put(index, &upload.of, upload.values);
            }
            Happening::PutAnswered { node, incarnation, index, of } => {
                self.put_answered(node, incarnation, index, *of);
            }
        }
    }

    /// An event that the process of a node handles, unless the process is paused: then it comes
    /// later. What the node itself does at that time is in the order of the events.
    fn unless_paused(&mut self, happening: Happening) -> Option<Happening> {
        let node = match &happening {
            Happening::Deliver { message, .. } => message.to,
            Happening::Turns { node, .. }
            | Happening::Tick { node, .. }
            | Happening::Sync { node, .. }
            | Happening::Fetched { node, .. }
            | Happening::Checkpoint { node, .. }
            | Happening::Ended { node, .. }
            | Happening::PutAnswered { node, .. } => *node,
            Happening::Snapshot { .. }
            | Happening::Client { .. }
            | Happening::Reader
            | Happening::Timeout { .. }
            | Happening::Start { .. }
            | Happening::Restart { .. }
            | Happening::Space { .. }
            | Happening::ContestEnds
            | Happening::Damage { .. }
            | Happening::Chaos
            | Happening::Operator
            | Happening::Uploader
            | Happening::PutApplied { .. } => return Some(happening),
        };
        let until = self.nodes.get(&node).map_or(0, |node| node.paused_until);
        if until <= self.at_us {
            return Some(happening);
        }
        let mut heartbeat = None;
        if let Happening::Deliver { message: Message { from, to, body, .. }, .. } = &happening
            && matches!(body, Body::Heartbeat { .. })
        {
            heartbeat = Some((*from, *to));
        }
        let place = self.enqueue(until - self.at_us, happening);
        if let Some(pair) = heartbeat
            && let Some(older) = self.heartbeats.insert(pair, place)
            && self.queue.remove(&older).is_some()
        {
            self.counts.merged += 1;
        }
        None
    }

    /// Calls `f` with the node, if the process of that incarnation still runs.
    pub(crate) fn current<T>(
        &mut self,
        node: u64,
        incarnation: u64,
        f: impl FnOnce(&mut Node) -> T,
    ) -> Option<T> {
        let node = self.nodes.get_mut(&node)?;
        (node.process.is_some() && node.incarnation == incarnation).then(|| f(node))
    }

    fn tick(&mut self, node: u64, incarnation: u64) {
        let Some(tick_us) = self.current(node, incarnation, |n| n.tick_us) else { return };
        self.after(tick_us, Happening::Tick { node, incarnation });
        let at_us = self.at_us;
        let state = self.node(node);
        state.disk.tail().flush(state.flushed_per_tick);
        if at_us >= state.sealed_at + SEAL_US {
            state.sealed_at = at_us;
            state.disk.seal();
        }
        if state.disk.wants_checkpoint() {
            self.checkpoint(node);
        }
        let is_flipped = !self.oracle.excused.is_empty() || self.is_quiet;
        if self.mutation == Some(Mutation::StateFlipped) && !is_flipped && at_us > FLIP_US {
            self.flip_state(node);
        }
        self.event(node, Event::Tick);
    }
}
