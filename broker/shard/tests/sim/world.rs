//! The simulated cluster: nodes, network and clients in one thread, moved by a queue of events.

use std::collections::BTreeMap;

use ropewalk_shard::State;
use ropewalk_shard::command::{Command, OpenPartition, ShardCommand};
use ropewalk_shard::driver::{Actions, Answer, Caller, ChangeError, Event};
use ropewalk_shard::engine::{EntryId, Fetch, Members};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::proposal::{ProposeError, SendOrder};
use ropewalk_shard::replica::Write;

use crate::clients::{Client, PARTITIONS, partition};
use crate::dice::{Dice, Trace};
use crate::disk::{Disk, Snapshot};
use crate::mutation::Mutation;
use crate::network::Network;
use crate::node::{Call, Node};
use crate::oracle::Oracle;

/// An event of the simulation.
#[derive(Debug)]
pub(crate) enum Happening {
    Tick { node: u64, incarnation: u64 },
    Deliver { message: Message },
    Sync { node: u64, incarnation: u64 },
    Refuse { node: u64, incarnation: u64, number: u64 },
    Fetched { node: u64, incarnation: u64, fetch: Fetch },
    Snapshot { to: u64, snapshot: Box<Snapshot> },
    Client { client: usize },
    Timeout { client: usize, value: u64 },
    Start { node: u64 },
    Restart { node: u64 },
    Space { node: u64 },
    Chaos,
    Operator,
}

/// What the whole run counts, to show that it did something.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub acked: usize,
    pub crashes: usize,
    pub elections: usize,
    pub snapshots: usize,
    pub fetches: usize,
    pub changes: usize,
    pub refused: usize,
    pub reads: usize,
    pub events: usize,
}

#[derive(Debug)]
pub(crate) struct World {
    pub seed: u64,
    pub dice: Dice,
    pub trace: Trace,
    pub oracle: Oracle,
    pub counts: Counts,
    pub at_us: u64,
    pub network: Network,
    pub nodes: BTreeMap<u64, Node>,
    pub mutation: Option<Mutation>,
    /// Whether faults happen; the end of a run is quiet.
    pub is_quiet: bool,
    /// Whether a disk has lost what was durable; at most one does in a run.
    pub has_lost: bool,
    pub next_node: u64,
    /// Members of which the operator has asked the removal.
    pub removals: std::collections::BTreeSet<u64>,
    /// Changes of the members whose outcome is not known.
    pub open_changes: usize,
    clients: Vec<Client>,
    next_value: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    next_event: u64,
    /// Replicas to which a snapshot is on its way.
    transfers: std::collections::BTreeSet<u64>,
}

impl World {
    /// A shard of `voters` replicas that has just been created.
    pub(crate) fn new(seed: u64, voters: u64, mutation: Option<Mutation>) -> Self {
        let mut world = Self {
            seed,
            dice: Dice::new(seed),
            trace: Trace::default(),
            oracle: Oracle::default(),
            counts: Counts::default(),
            at_us: 0,
            network: Network::default(),
            nodes: BTreeMap::new(),
            mutation,
            is_quiet: false,
            has_lost: false,
            next_node: 1,
            removals: std::collections::BTreeSet::new(),
            open_changes: 0,
            clients: Vec::new(),
            next_value: 1,
            queue: BTreeMap::new(),
            next_event: 0,
            transfers: std::collections::BTreeSet::new(),
        };
        let members = Members { voters: (1..=voters).collect(), ..Members::default() };
        let first = Snapshot { last: EntryId { index: 1, term: 1 }, members, state: State::new() };
        for _ in 0..voters {
            let id = world.add_node(first.clone());
            world.start(id);
        }
        for client in 0..4 {
            let producer = (client % 2 == 0).then_some(1000 + i64::try_from(client).expect("few"));
            world.clients.push(Client::new(producer));
            world.after(500_000, Happening::Client { client });
        }
        world.after(1_000_000, Happening::Chaos);
        world.after(2_000_000, Happening::Operator);
        world
    }

    /// Adds a node with a disk that holds `snapshot`; returns its id. It does not run yet.
    pub(crate) fn add_node(&mut self, snapshot: Snapshot) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        let tick_us = self.dice.between(90_000, 110_000);
        self.nodes.insert(id, Node::new(id, Disk::new(snapshot, self.mutation), tick_us));
        id
    }

    pub(crate) fn after(&mut self, delay_us: u64, happening: Happening) {
        self.queue.insert((self.at_us + delay_us, self.next_event), happening);
        self.next_event += 1;
    }

    pub(crate) fn note(&mut self, text: String) {
        self.trace.event(self.at_us, text);
    }

    /// Runs until `end_us` or a violation.
    pub(crate) fn run(&mut self, end_us: u64) {
        while self.oracle.violation().is_none() {
            let Some(((at_us, _), _)) = self.queue.first_key_value() else { return };
            if *at_us > end_us {
                self.at_us = end_us;
                return;
            }
            let ((at_us, _), happening) = self.queue.pop_first().expect("it is there");
            self.at_us = at_us;
            self.counts.events += 1;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { node, incarnation } => self.tick(node, incarnation),
            Happening::Deliver { message } => self.deliver(message),
            Happening::Sync { node, incarnation } => {
                let Some(number) = self.current(node, incarnation, |n| n.disk.sync_next()) else {
                    return;
                };
                if let Some(number) = number {
                    self.event(node, Event::Durable(number));
                }
            }
            Happening::Refuse { node, incarnation, number } => {
                if self.current(node, incarnation, |_| ()).is_some() {
                    self.event(node, Event::NoSpace(number));
                }
            }
            Happening::Fetched { node, incarnation, fetch } => {
                let read = |n: &mut Node| n.disk.read(fetch.first, fetch.last);
                if let Some(entries) = self.current(node, incarnation, read) {
                    self.event(node, Event::Fetched { id: fetch.id, entries });
                }
            }
            Happening::Snapshot { to, snapshot } => self.install(to, *snapshot),
            Happening::Client { client } => self.client(client),
            Happening::Timeout { client, value } => {
                if self.clients[client].waits_for(value) {
                    self.clients[client].timed_out();
                }
            }
            Happening::Start { node } => self.start(node),
            Happening::Restart { node } => self.restart(node),
            Happening::Space { node } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.is_full = false;
                }
            }
            Happening::Chaos => self.chaos(),
            Happening::Operator => self.operator(),
        }
    }

    /// Calls `f` with the node, if the process of that incarnation still runs.
    fn current<T>(
        &mut self,
        node: u64,
        incarnation: u64,
        f: impl FnOnce(&mut Node) -> T,
    ) -> Option<T> {
        let node = self.nodes.get_mut(&node)?;
        (node.process.is_some() && node.incarnation == incarnation).then(|| f(node))
    }

    fn tick(&mut self, node: u64, incarnation: u64) {
        let at_us = self.at_us;
        let Some((paused_until, tick_us)) =
            self.current(node, incarnation, |n| (n.paused_until, n.tick_us))
        else {
            return;
        };
        let paused_us = paused_until.saturating_sub(at_us);
        self.after(tick_us + paused_us, Happening::Tick { node, incarnation });
        if paused_us == 0 {
            self.event(node, Event::Tick);
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        if self.network.is_cut(from, to) {
            return;
        }
        let Some(node) = self.nodes.get(&to) else { return };
        if node.paused_until > self.at_us {
            let wait = node.paused_until - self.at_us;
            self.after(wait, Happening::Deliver { message });
            return;
        }
        self.event(to, Event::Message(message));
    }

    /// Passes an event to a node and carries out what follows.
    pub(crate) fn event(&mut self, node: u64, event: Event) {
        let at_us = self.at_us;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.event(at_us, event);
        }
        self.settle(node);
    }

    fn settle(&mut self, node: u64) {
        let at_us = self.at_us;
        while let Some(actions) = self.nodes.get_mut(&node).and_then(|n| n.poll(at_us)) {
            self.carry_out(node, actions);
            if self.oracle.violation().is_some() {
                return;
            }
        }
        self.report_state(node);
    }

    fn carry_out(&mut self, node: u64, actions: Actions) {
        for write in actions.writes {
            self.submit(node, write);
        }
        for message in actions.messages {
            self.crash_after_promise(node, &message.body);
            self.send(message);
        }
        for effect in &actions.effects {
            self.oracle.effect(node, effect);
        }
        for (caller, answer) in actions.answers {
            self.answer(node, caller, answer);
        }
        if let Some(Some(term)) = actions.leads {
            self.counts.elections += 1;
            self.note(format!("replica {node} leads in term {term}"));
            self.oracle.leads(node, term);
        }
        let incarnation = self.nodes[&node].incarnation;
        for fetch in actions.fetches {
            self.counts.fetches += 1;
            let delay = self.dice.between(50, 5_000);
            self.after(delay, Happening::Fetched { node, incarnation, fetch });
        }
        for to in actions.snapshots_for {
            self.transfer(node, to);
        }
        self.counts.refused += actions.rejected.len();
        if let Some(reason) = actions.stopped {
            self.note(format!("replica {node} stops: {reason}"));
            let node = self.nodes.get_mut(&node).expect("it has just acted");
            node.is_lost = true;
            node.process = None;
            if !self.has_lost {
                self.oracle.violate(format!("replica stops on an undamaged disk: {reason}"));
            }
        }
    }

    fn submit(&mut self, node: u64, write: Write) {
        let number = write.number;
        let at_us = self.at_us;
        let has_batches = write.entries.iter().any(ropewalk_shard::engine::Entry::has_batches);
        // Others used the space that there was when it was proposed.
        let refuses = has_batches && !self.is_quiet && self.dice.one_in(150);
        if refuses {
            self.nodes.get_mut(&node).expect("it has just acted").is_full = true;
            let full = self.dice.between(10_000, 1_000_000);
            self.after(full, Happening::Space { node });
        }
        let jitter = self.dice.below(500);
        let node_state = self.nodes.get_mut(&node).expect("it has just acted");
        let incarnation = node_state.incarnation;
        let done_at = node_state.synced_at.max(at_us + node_state.sync_us + jitter);
        node_state.synced_at = done_at;
        if refuses {
            if self.mutation == Some(Mutation::RefusedIsDurable) {
                self.event_later(node, done_at, number);
                return;
            }
            self.after(done_at - at_us, Happening::Refuse { node, incarnation, number });
            return;
        }
        node_state.disk.submit(write);
        if self.mutation == Some(Mutation::AckBeforeFsync) {
            self.event_later(node, at_us, number);
            self.after(done_at - at_us + 20_000, Happening::Sync { node, incarnation });
            return;
        }
        self.after(done_at - at_us, Happening::Sync { node, incarnation });
    }

    /// Now and then a replica crashes right after it has voted or acknowledged entries.
    fn crash_after_promise(&mut self, node: u64, body: &Body) {
        let one_in = if matches!(body, Body::Vote { granted: true, is_pre_vote: false, .. }) {
            4
        } else if matches!(body, Body::Appended { .. }) {
            500
        } else {
            return;
        };
        if !self.is_quiet && self.dice.one_in(one_in) {
            let delay = self.dice.below(2_000);
            self.after(delay, Happening::Restart { node });
        }
    }

    /// Reports a write as durable that is not: only mutations do that.
    fn event_later(&mut self, node: u64, _at_us: u64, number: u64) {
        let at_us = self.at_us;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.event(at_us, Event::Durable(number));
        }
    }

    fn send(&mut self, message: Message) {
        // Through its encoding, as between brokers.
        let message =
            Message::decode(message.encode().to_bytes()).expect("what was encoded decodes");
        for delay in self.network.deliveries(message.from, message.to, &mut self.dice) {
            self.after(delay, Happening::Deliver { message: message.clone() });
        }
    }

    fn answer(&mut self, node: u64, caller: Caller, answer: Answer) {
        let process = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut());
        let Some(call) = process.and_then(|process| process.calls.remove(&caller)) else {
            self.oracle.violate(format!("replica {node} answers a call twice"));
            return;
        };
        match (call, answer) {
            (Call::Append(client, record), Answer::Appended(result)) => {
                if result == Err(ProposeError::NotLeader)
                    && let Some(leader) = self.nodes[&node].replica().and_then(|r| r.leader())
                {
                    self.clients[client].target = leader;
                }
                self.clients[client].answered(record, result, &mut self.oracle);
            }
            (Call::Read(index, end), Answer::Read(Ok(()))) => {
                self.counts.reads += 1;
                let seen = self.end_of(node, index);
                if seen < end {
                    let text = format!("a read at replica {node} sees {seen} of {end} acked");
                    self.oracle.violate(text);
                }
            }
            (Call::Operator, Answer::Changed(Ok(()) | Err(ChangeError::Rejected(_)))) => {
                self.open_changes -= 1;
            }
            _ => {}
        }
    }

    /// The end of a partition in the state of a replica.
    pub(crate) fn end_of(&self, node: u64, index: i32) -> i64 {
        let Some(process) = self.nodes.get(&node).and_then(|n| n.process.as_ref()) else {
            return 0;
        };
        let state = process.state.0.borrow();
        state.partitions.get(&partition(index)).map_or(0, |partition| partition.next_offset)
    }

    fn report_state(&mut self, node: u64) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        let index = process.core.replica().applied().index;
        if index != process.reported {
            process.reported = index;
            let digest = process.state.0.borrow().digest();
            self.oracle.state(node, index, digest);
        }
    }

    fn transfer(&mut self, from: u64, to: u64) {
        if !self.nodes.contains_key(&to) || !self.transfers.insert(to) {
            return;
        }
        let Some(snapshot) = self.nodes[&from].capture() else { return };
        let delay = self.dice.between(1_000, 300_000);
        self.after(delay, Happening::Snapshot { to, snapshot: Box::new(snapshot) });
    }

    fn install(&mut self, to: u64, snapshot: Snapshot) {
        self.transfers.remove(&to);
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let applied = node.replica().map_or(u64::MAX, |replica| replica.applied().index);
        // A transfer ends with the process that receives it, and waits for the writes before it.
        if node.paused_until > self.at_us || !node.disk.is_idle() || applied >= snapshot.last.index
        {
            return;
        }
        self.counts.snapshots += 1;
        let text = format!("replica {to} installs a snapshot through {}", snapshot.last.index);
        self.fail_calls(to);
        let node = self.nodes.get_mut(&to).expect("it was there");
        node.disk.install(snapshot);
        node.process = None;
        self.note(text);
        self.start(to);
    }

    /// Starts the process of a node.
    pub(crate) fn start(&mut self, node: u64) {
        let seed = self.seed;
        let Some(found) = self.nodes.get_mut(&node) else { return };
        if found.process.is_some() || found.is_lost {
            return;
        }
        if found.disk.is_doubtful() {
            found.is_lost = true;
            return self.note(format!("replica {node} does not start: its log is damaged"));
        }
        if let Err(error) = found.start(seed) {
            found.is_lost = true;
            self.note(format!("replica {node} does not start: {error}"));
            if !self.has_lost {
                self.oracle.violate(format!("replica {node} does not start: {error}"));
            }
            return;
        }
        let (incarnation, tick_us) = (found.incarnation, found.tick_us);
        self.note(format!("replica {node} starts"));
        self.after(tick_us, Happening::Tick { node, incarnation });
        self.settle(node);
    }

    /// Ends the process of a node as `kill -9` and a loss of power do.
    pub(crate) fn crash(&mut self, node: u64) {
        self.counts.crashes += 1;
        self.note(format!("replica {node} crashes"));
        self.fail_calls(node);
        let found = self.nodes.get_mut(&node).expect("a node");
        found.process = None;
        found.synced_at = 0;
        found.disk.crash(&mut self.dice);
    }

    fn fail_calls(&mut self, node: u64) {
        let process = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut());
        let calls = process.map(|process| std::mem::take(&mut process.calls)).unwrap_or_default();
        for call in calls.into_values() {
            if let Call::Append(client, record) = call
                && self.clients[client].waits_for(record.value)
            {
                self.clients[client].timed_out();
            }
        }
    }

    fn client(&mut self, client: usize) {
        let wait = if self.is_quiet { 500_000 } else { self.dice.between(5_000, 40_000) };
        self.after(wait, Happening::Client { client });
        if self.clients[client].waits {
            return;
        }
        let target = self.clients[client].target;
        let is_up = self
            .nodes
            .get(&target)
            .is_some_and(|node| node.process.is_some() && node.paused_until <= self.at_us);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        if !is_up || self.dice.one_in(20) {
            self.clients[client].target = self.dice.pick(&ids).expect("nodes");
            return;
        }
        let index = i32::try_from(self.dice.below(PARTITIONS as u64)).expect("few");
        if self.dice.one_in(8) {
            let end = self.oracle.end(index);
            if let Some(caller) =
                self.nodes.get_mut(&target).and_then(|n| n.call(Call::Read(index, end)))
            {
                self.event(target, Event::Read { caller });
            }
            return;
        }
        self.open_partitions(target);
        let value = self.next_value;
        self.next_value += 1;
        let (record, item) = self.clients[client].request(value, index);
        self.after(6_000_000, Happening::Timeout { client, value: record.value });
        let call = Call::Append(client, record);
        if let Some(caller) = self.nodes.get_mut(&target).and_then(|n| n.call(call)) {
            let order = SendOrder::default();
            self.event(target, Event::Append { caller, items: vec![item], order });
        }
    }

    /// A leader whose state has no partitions opens them first.
    fn open_partitions(&mut self, node: u64) {
        let has_none =
            |n: &Node| n.process.as_ref().is_some_and(|p| p.state.0.borrow().partitions.is_empty());
        if !self.nodes.get(&node).is_some_and(|n| n.is_leader() && has_none(n)) {
            return;
        }
        let open = |index| OpenPartition { partition: partition(index), epoch_base: 0 };
        let command =
            Command::Shard(ShardCommand::OpenPartitions((0..PARTITIONS).map(open).collect()));
        if let Some(caller) = self.nodes.get_mut(&node).and_then(|n| n.call(Call::Operator)) {
            self.event(node, Event::Propose { caller, command });
        }
    }
}
