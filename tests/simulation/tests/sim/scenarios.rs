//! Faults that other systems had, each as a script, and what a script is made of.

mod crashes;
mod disks;
mod divergence;
mod elections;
mod forged;
mod long;
mod nats;
mod others;
mod reads;
mod refusals;
mod sending;
mod space;
mod tails;
mod tier;
mod transfer;
mod versions;

use ropewalk_shard::engine::MembersChange;

use crate::mutation::Mutation;
use crate::oracle::Value;
use crate::world::World;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// How long a step of a script may take, microseconds.
const PATIENCE_US: u64 = 30 * SECOND;

/// A script: from a seed and a mutation to the violation that it shows.
type Script = fn(u64, Option<Mutation>) -> Result<(), String>;

/// A script holds with every one of a few seeds, and shows every one of `mutations` with one of
/// more seeds.
fn holds(script: Script, mutations: &[Mutation]) {
    const SEEDS: u64 = 4;
    // Few seeds bring a mutation and what shows it together.
    const MUTATED_SEEDS: u64 = 40;
    for seed in 0..SEEDS {
        if let Err(violation) = script(seed, None) {
            panic!("seed {seed}: {violation}");
        }
    }
    for mutation in mutations {
        let found =
            (0..MUTATED_SEEDS).find_map(|seed| Some((seed, script(seed, Some(*mutation)).err()?)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{mutation:?} is not noticed"));
        println!("{mutation:?}: seed {seed}: {}", violation.lines().next().unwrap_or_default());
    }
}

impl World {
    /// Runs until `is_done`. A violation if it takes too long.
    fn until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        let end_us = self.at_us + PATIENCE_US;
        while !is_done(self) && self.oracle.violation().is_none() {
            if self.at_us >= end_us {
                let replicas: Vec<_> = self.nodes.values().filter_map(|n| n.replica()).collect();
                let of = |r: &&ropewalk_shard::replica::Replica| {
                    let ends = (r.applied().index, r.committed(), r.last_index());
                    format!("{} of term {} (leader {:?}): {ends:?}", r.id().0, r.term(), r.leader())
                };
                let replicas: Vec<_> = replicas.iter().map(of).collect();
                self.oracle.violate(format!("it takes too long: {what}: {replicas:?}"));
            }
            self.run_for(5 * MS);
        }
    }

    /// Runs until a replica leads, and returns it.
    fn elect(&mut self) -> u64 {
        self.until("an election", |world| world.leader().is_some());
        self.leader().unwrap_or(1)
    }

    /// Sends one record of a client of its own to a node.
    fn append(&mut self, node: u64) -> Value {
        let client = self.clients.len();
        self.clients.push(crate::clients::Client::new(None));
        self.request(client, node, 0)
    }

    /// Sends a record to a node and runs until it is acknowledged.
    fn append_acked(&mut self, node: u64) -> Value {
        let value = self.append(node);
        self.until("an acknowledgement", |world| world.oracle.is_acked(value));
        value
    }

    /// Sends many records to a node and runs until they are acknowledged.
    fn append_many(&mut self, node: u64, count: usize) {
        for _ in 0..count {
            self.append_acked(node);
        }
    }

    /// Adds clients that send a record every few milliseconds, every other one idempotent.
    fn begin_load(&mut self, clients: i64) {
        self.pace_us = 10 * MS;
        for client in 0..clients {
            self.add_client((client % 2 == 0).then_some(1000 + client));
        }
    }

    /// All nodes but `node`.
    fn others(&self, node: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|id| *id != node).collect()
    }

    fn isolate(&mut self, side: &[u64]) {
        let others: Vec<u64> = self.nodes.keys().filter(|id| !side.contains(id)).copied().collect();
        self.network.isolate(side, &others);
    }

    fn pause(&mut self, node: u64, us: u64) {
        self.node(node).paused_until = self.at_us + us;
    }

    /// Asks the leader for a change of the members until it is made.
    fn reach_member(&mut self, change: MembersChange) {
        let end_us = self.at_us + PATIENCE_US;
        let replica = change.replica();
        while self.oracle.violation().is_none() {
            if self.at_us >= end_us {
                return self.oracle.violate(format!("it takes too long: {change:?}"));
            }
            if let Some(leader) = self.leader() {
                let members = self.nodes[&leader].replica().expect("it leads").members();
                let is_done = match change {
                    MembersChange::AddLearner(_) => members.contains(replica),
                    MembersChange::Promote(_) => members.is_voter(replica),
                    MembersChange::Remove(_) => !members.contains(replica),
                    MembersChange::Survive { .. } => unreachable!("only a repair writes it"),
                };
                if is_done {
                    return;
                }
                self.change(leader, change);
            }
            self.run_for(50 * MS);
        }
    }

    fn applied(&self, node: u64) -> u64 {
        self.nodes[&node].replica().map_or(0, |replica| replica.applied().index)
    }

    /// Ends the script: all faults end, every member has to have every acknowledged record, and
    /// another record has to be stored.
    fn finish(mut self) -> Result<(), String> {
        self.repair();
        self.run_for(10 * SECOND);
        self.pace_us = 500 * MS;
        let leader = self.elect();
        self.append_acked(leader);
        self.run_for(2 * SECOND);
        self.check();
        match self.oracle.violation() {
            None => Ok(()),
            Some(violation) => Err(format!("{violation}\n{}", self.trace.newest())),
        }
    }
}
