//! What the host of a replica does: it passes events to the core and carries out its actions.

use ropewalk_shard::driver::{Actions, Event};
use ropewalk_shard::engine::Entry;
use ropewalk_shard::message::Body;
use ropewalk_shard::replica::Write;
use ropewalk_shard::{Effect, Footprint};

use crate::disk::Synced;
use crate::mutation::Mutation;
use crate::node::Node;
use crate::steps::Steps;
use crate::world::{Happening, World};

impl World {
    /// Passes an event to a node and carries out what follows.
    pub(crate) fn event(&mut self, node: u64, event: Event) {
        let at_us = self.at_us;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.event(at_us, event);
        }
        self.settle(node);
    }

    pub(crate) fn settle(&mut self, node: u64) {
        let at_us = self.at_us;
        while let Some(actions) = self.nodes.get_mut(&node).and_then(|n| n.poll(at_us)) {
            self.carry_out(node, actions);
            if self.oracle.violation().is_some() {
                return;
            }
        }
        self.report(node);
    }

    fn carry_out(&mut self, node: u64, mut actions: Actions) {
        if self.mutation == Some(Mutation::AnswersSwapped)
            && let [(_, one), .., (_, other)] = &mut actions.answers[..]
        {
            std::mem::swap(one, other);
        }
        if self.mutation == Some(Mutation::RefusedWritesReversed)
            && let [first, _, ..] = &actions.writes[..]
            && first.number <= self.nodes[&node].submitted
        {
            actions.writes.reverse();
        }
        let incarnation = self.nodes[&node].incarnation;
        for write in actions.writes {
            if self.crashes_before(node, || Steps::write(node, &write)) {
                return;
            }
            self.submit(node, write);
        }
        self.take_effects(node, &actions.effects);
        for (caller, answer) in actions.answers {
            if self.crashes_before(node, || format!("replica {node} answers a call")) {
                return;
            }
            self.answer(node, caller, answer);
        }
        if let Some(Some(term)) = actions.leads {
            self.counts.elections += 1;
            self.note(format!("replica {node} leads in term {term}"));
        }
        for message in self.admitted(node, actions.messages) {
            if self.crashes_before(node, || Steps::message(&message)) {
                return;
            }
            self.crash_after_promise(node, &message.body);
            self.send(message);
        }
        for fetch in actions.fetches {
            self.counts.fetches += 1;
            let delay = self.dice.between(50, 5_000);
            self.after(delay, Happening::Fetched { node, incarnation, fetch });
        }
        for to in actions.snapshots_for {
            if self.crashes_before(node, || format!("replica {node} sends a snapshot to {to}")) {
                return;
            }
            self.transfer(node, to);
        }
        self.counts.refused += actions.rejected.len();
        self.rejection =
            actions.rejected.last().map(|(_, rejection)| *rejection).or(self.rejection);
        if let Some(reason) = actions.stopped {
            self.note(format!("replica {node} stops: {reason}"));
            self.stops.push((node, reason.to_string()));
            let may_stop = self.has_lost || self.may_stop.contains(&node);
            self.fail_calls(node);
            let node = self.node(node);
            node.is_lost = true;
            node.process = None;
            if !may_stop {
                self.oracle.violate(format!("replica stops on an undamaged disk: {reason}"));
            }
        }
    }

    /// Shows the effects of applied entries to the oracle, and checks tiers that changed.
    fn take_effects(&mut self, node: u64, effects: &[Effect]) {
        let mut changed_tier = None;
        for effect in effects {
            self.oracle.effect(node, effect);
            changed_tier = self.tier_effect(node, effect).or(changed_tier);
            if let Effect::Appended { batch, .. } = effect {
                self.nodes[&node].disk.tail().take(batch.body().len() as u64);
            }
        }
        if let Some(index) = changed_tier {
            self.check_tier(node, index);
        }
    }

    /// Flips a bit in the state of a replica. The oracle does not compare its state any more.
    pub(crate) fn flip_state(&mut self, node: u64) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        let mut state = process.state.0.borrow_mut();
        if let Some(partition) = state.partitions.values_mut().next() {
            partition.log_start ^= 1;
            drop(state);
            self.oracle.excused.insert(node);
            self.note(format!("a bit flips in the state of replica {node}"));
        }
    }

    fn submit(&mut self, node: u64, mut write: Write) {
        let number = write.number;
        let at_us = self.at_us;
        self.note_submitted(node, number);
        self.run_ahead(node, &mut write);
        let has_batches = write.entries.iter().any(Entry::has_batches);
        let is_scripted = has_batches && std::mem::take(&mut self.node(node).refuses_next);
        // Others used the space that there was when it was proposed.
        let one_in = if self.node(node).is_full { 2 } else { 150 };
        let is_random = has_batches && !self.is_quiet && self.dice.one_in(one_in);
        if is_random {
            self.node(node).is_full = true;
            let full = self.dice.between(10_000, 1_000_000);
            self.after(full, Happening::Space { node });
            self.elect_before_the_refusal(node);
        }
        let is_refused = is_scripted || is_random;
        let jitter = self.dice.below(500);
        let state = self.node(node);
        let incarnation = state.incarnation;
        let done_at = state.synced_at.max(at_us + state.sync_us + jitter);
        state.synced_at = done_at;
        if is_refused && self.mutation == Some(Mutation::RefusedIsDurable) {
            return self.durable_later(node, number);
        }
        let state = self.node(node);
        state.disk.submit(write, is_refused);
        if self.mutation == Some(Mutation::AckBeforeFsync) && !is_refused {
            self.durable_later(node, number);
            self.after(done_at - at_us + 20_000, Happening::Sync { node, incarnation });
            return;
        }
        self.after(done_at - at_us, Happening::Sync { node, incarnation });
    }

    /// Checks the order of the submitted writes: each follows all that are in flight.
    fn note_submitted(&mut self, node: u64, number: u64) {
        let state = self.node(node);
        let newest = state.disk.newest_in_flight();
        if number <= state.submitted && newest.is_none() {
            // The refused writes are submitted again, in order, so no entry may be missing.
            state.refused = None;
        }
        state.submitted = state.submitted.max(number);
        if let Some(newest) = newest.filter(|newest| *newest >= number) {
            let text = format!("replica {node} submits write {number} behind write {newest}");
            self.oracle.violate(text);
        }
    }

    /// See [`Mutation::CommitAheadOfLog`].
    fn run_ahead(&self, node: u64, write: &mut Write) {
        if self.mutation == Some(Mutation::CommitAheadOfLog)
            && write.entries.is_empty()
            && let Some(hard_state) = &mut write.hard_state
            && let Some(replica) = self.nodes[&node].replica()
        {
            hard_state.commit = replica.committed();
        }
    }

    /// Now and then the log takes long to refuse a write. Meanwhile the leader restarts, so that
    /// the replica writes a new term or vote behind the refused entries, and then it crashes.
    fn elect_before_the_refusal(&mut self, node: u64) {
        if !self.dice.one_in(4) {
            return;
        }
        let slow = self.at_us + self.dice.between(1_500_000, 4_000_000);
        let state = self.node(node);
        state.synced_at = state.synced_at.max(slow);
        let refused_in = state.synced_at - self.at_us;
        if let Some(leader) = self.leader().filter(|leader| *leader != node) {
            let delay = self.dice.between(20_000, 200_000);
            self.after(delay, Happening::Restart { node: leader });
        }
        let delay = refused_in + self.dice.below(100_000);
        self.after(delay, Happening::Restart { node });
    }

    /// Reports a write as durable that is not: only mutations do that.
    fn durable_later(&mut self, node: u64, number: u64) {
        let at_us = self.at_us;
        self.node(node).event(at_us, Event::Durable(number));
    }

    /// The oldest write in flight becomes durable, or its sync fails and the process ends.
    pub(crate) fn sync(&mut self, node: u64, incarnation: u64) {
        let Some(synced) = self.current(node, incarnation, Node::sync_next) else { return };
        match synced {
            Synced::Nothing => {}
            Synced::Full(number) => self.refuse(node, number),
            Synced::Hole(number) => {
                // The log takes entries only behind those that it has.
                if self.node(node).refused.is_none_or(|refused| number <= refused) {
                    let text = format!("replica {node} writes entries that do not follow its log");
                    self.oracle.violate(text);
                }
                self.refuse(node, number);
            }
            Synced::Durable(number) => {
                let refused = &mut self.node(node).refused;
                if *refused == Some(number) {
                    *refused = None;
                }
                if !self.crashes_before(node, || Steps::durable(node, number)) {
                    self.event(node, Event::Durable(number));
                }
            }
            Synced::Failed => {
                self.note(format!("a sync of replica {node} fails"));
                self.crash(node);
            }
        }
    }

    fn refuse(&mut self, node: u64, number: u64) {
        self.counts.full += 1;
        self.note(format!("the log of replica {node} refuses write {number}"));
        let refused = &mut self.node(node).refused;
        *refused = Some(refused.map_or(number, |first| first.min(number)));
        if !self.is_quiet && self.dice.one_in(8) {
            let delay = self.dice.below(300_000);
            self.after(delay, Happening::Restart { node });
        }
        self.event(node, Event::NoSpace(number));
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

    /// Shows the oracle what a replica is after an event.
    fn report(&mut self, node: u64) {
        let Some(found) = self.nodes.get_mut(&node) else { return };
        let Some(process) = found.process.as_mut() else { return };
        let replica = process.core.replica();
        if replica.leader() == Some(node) {
            self.oracle.leads(node, replica.term());
        }
        let Footprint { entries, items, bytes } = process.core.footprint();
        found.peak_bytes = found.peak_bytes.max(bytes);
        self.peak.entries = self.peak.entries.max(entries);
        self.peak.items = self.peak.items.max(items);
        self.peak.bytes = self.peak.bytes.max(bytes);
        let index = replica.applied().index;
        if index != process.reported {
            process.reported = index;
            let digest = process.state.0.borrow().digest();
            self.oracle.state(node, index, digest, replica.members());
        }
    }
}
