//! Processes of replicas: they start from their disks, crash, and are replaced by a snapshot.

use crate::disk::{OpenFailure, Snapshot};
use crate::mutation::Mutation;
use crate::node::Call;
use crate::world::{Happening, World};

impl World {
    /// Starts the process of a node.
    pub(crate) fn start(&mut self, node: u64) {
        let seed = self.seed;
        let Some(found) = self.nodes.get_mut(&node) else { return };
        if found.process.is_some() || found.is_lost {
            return;
        }
        if let Err(error) = found.start(seed) {
            let text = format!("replica {node} does not start: {error}");
            self.note(text.clone());
            match error {
                OpenFailure::Full => self.after(500_000, Happening::Start { node }),
                OpenFailure::Damaged(_) => {
                    self.node(node).is_lost = true;
                    if !self.has_lost {
                        self.oracle.violate(text);
                    }
                }
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
        found.refused = None;
        found.disk.crash(&mut self.dice);
    }

    /// The nodes that reach the machine of a process notice some time later that it has ended. It
    /// may run again by then.
    pub(crate) fn report_end(&mut self, of: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|node| *node != of).collect();
        for node in others {
            if !self.network.is_cut(node, of) && !self.network.is_cut(of, node) {
                let delay = self.dice.between(1_000, 400_000);
                self.after(delay, Happening::Ended { node, of });
            }
        }
    }

    /// A crash with a restart within milliseconds.
    pub(crate) fn restart(&mut self, node: u64) {
        if !self.is_quiet && self.nodes.get(&node).is_some_and(|n| n.process.is_some()) {
            self.crash(node);
            let down = self.dice.between(1_000, 20_000);
            self.after(down, Happening::Start { node });
        }
    }

    pub(crate) fn fail_calls(&mut self, node: u64) {
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

    /// Sends what `from` has applied to a replica that lacks the log.
    pub(crate) fn transfer(&mut self, from: u64, to: u64) {
        if !self.nodes.contains_key(&to) || !self.transfers.insert(to) {
            return;
        }
        let Some(snapshot) = self.nodes[&from].capture() else { return };
        let delay = self.dice.between(1_000, 300_000);
        self.after(delay, Happening::Snapshot { to, snapshot: Box::new(snapshot) });
    }

    pub(crate) fn install(&mut self, to: u64, snapshot: Snapshot) {
        self.transfers.remove(&to);
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let applied = node.replica().map_or(u64::MAX, |replica| replica.applied().index);
        // A transfer ends with the process that receives it, and waits for the writes before it.
        if node.paused_until > self.at_us || !node.disk.is_idle() || applied >= snapshot.last.index
        {
            return;
        }
        let text = format!("replica {to} installs a snapshot through {}", snapshot.last.index);
        if self.crashes_before(to, || text.clone()) {
            return;
        }
        if !self.node(to).disk.install(snapshot) {
            return self.note(format!("replica {to} has no space for a snapshot"));
        }
        self.counts.snapshots += 1;
        self.fail_calls(to);
        let node = self.node(to);
        (node.process, node.refused) = (None, None);
        self.note(text.clone());
        if !self.crashes_before(to, || format!("{text} and starts")) {
            self.start(to);
        }
    }

    /// The disk of a replica is replaced by an empty one.
    pub(crate) fn replace_disk(&mut self, node: u64) {
        self.has_lost = true;
        self.note(format!("the disk of replica {node} is replaced by an empty one"));
        let mutation = self.mutation;
        let seed = self.dice.draw();
        self.node(node).disk.replace(seed);
        if mutation != Some(Mutation::EmptyDiskKeepsId) {
            // The new disk has no replica id: whatever runs there joins under a new one.
            self.node(node).is_lost = true;
        }
    }
}
