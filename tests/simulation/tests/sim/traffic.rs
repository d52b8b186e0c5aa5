//! The calls of clients and of the operator, and their answers.

use ropewalk_shard::command::{Command, OpenPartition, ShardCommand};
use ropewalk_shard::driver::{Answer, Caller, ChangeError, Event};
use ropewalk_shard::proposal::{ProposeError, SendOrder};

use crate::clients::{Client, PARTITIONS, partition};
use crate::mutation::Mutation;
use crate::node::{Call, Node};
use crate::oracle::Value;
use crate::world::{Happening, World};

impl World {
    /// Adds a client that sends requests from half a second after the start on.
    pub(crate) fn add_client(&mut self, producer_id: Option<i64>) {
        let client = self.clients.len();
        self.clients.push(Client::new(producer_id));
        self.after(500_000, Happening::Client { client });
    }

    pub(crate) fn client(&mut self, client: usize) {
        let wait = if self.is_quiet { self.pace_us } else { self.dice.between(5_000, 40_000) };
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
            return self.read(target, index);
        }
        self.request(client, target, index);
    }

    /// A client that only reads, at any replica that takes itself for the leader.
    pub(crate) fn reader(&mut self) {
        let wait = self.dice.between(10_000, 60_000);
        self.after(wait, Happening::Reader);
        let leads = |node: &&Node| node.is_leader() && node.paused_until <= self.at_us;
        let leaders: Vec<u64> = self.nodes.values().filter(leads).map(|node| node.id).collect();
        let index = i32::try_from(self.dice.below(PARTITIONS as u64)).expect("few");
        if let Some(node) = self.dice.pick(&leaders) {
            self.read(node, index);
        }
    }

    /// Asks a node for a read of a partition.
    pub(crate) fn read(&mut self, node: u64, index: i32) {
        let end = self.oracle.end(index);
        if let Some(caller) = self.node(node).call(Call::Read(index, end)) {
            if self.mutation == Some(Mutation::ReadWithoutRound) && self.nodes[&node].is_leader() {
                return self.answer(node, caller, Answer::Read(Ok(())));
            }
            self.event(node, Event::Read { caller });
        }
    }

    /// Sends the next record of a client to a node. Returns its value.
    pub(crate) fn request(&mut self, client: usize, node: u64, index: i32) -> Value {
        self.open_partitions(node);
        let value = self.next_value;
        self.next_value += 1;
        let (record, item) = self.clients[client].request(value, index);
        self.after(6_000_000, Happening::Timeout { client, value: record.value });
        let call = Call::Append(client, record);
        if let Some(caller) = self.node(node).call(call) {
            let order = SendOrder::default();
            self.event(node, Event::Append { caller, items: vec![item], order });
        }
        record.value
    }

    /// A leader whose state has no partitions opens them first.
    fn open_partitions(&mut self, node: u64) {
        let has_none =
            |n: &Node| n.process.as_ref().is_some_and(|p| p.state.0.borrow().partitions.is_empty());
        if !self.nodes.get(&node).is_some_and(|n| n.is_leader() && has_none(n)) {
            return;
        }
        let open = |index| OpenPartition { partition: partition(index), epoch_base: 0 };
        let command = ShardCommand::OpenPartitions((0..PARTITIONS).map(open).collect());
        self.propose(node, command);
    }

    /// Proposes a command of the operator.
    pub(crate) fn propose(&mut self, node: u64, command: ShardCommand) {
        if let Some(caller) = self.node(node).call(Call::Command) {
            self.event(node, Event::Propose { caller, command: Command::Shard(command) });
        }
    }

    pub(crate) fn answer(&mut self, node: u64, caller: Caller, answer: Answer) {
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
                self.oracle.seen(node, index, seen, end);
            }
            (Call::Change, Answer::Changed(Ok(()) | Err(ChangeError::Rejected(_)))) => {
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
}
