//! The durable record of a group: written at every completed join and assignment, and read when a
//! coordinator starts to coordinate the group.
//!
//! The record names the leader only once it has made the assignment. A record without a leader
//! states that the generation's number is used and its joins are complete.

use ropewalk_shard::command::{self, SetGeneration};
use ropewalk_shard::state::Group;

use super::member::Member;
use super::{ClassicGroup, Persist, Phase, Rules};

impl ClassicGroup {
    /// Restores a group from its record. No member is known to be alive, so each has one session
    /// timeout to send a heartbeat.
    pub(crate) fn restore(id: String, group: &Group, rules: Rules, now_ms: i64) -> Self {
        let mut machine = Self::new(id, rules);
        machine.generation = group.generation;
        machine.protocol_type =
            Some(group.protocol_type.clone()).filter(|protocol_type| !protocol_type.is_empty());
        if group.members.is_empty() {
            return machine;
        }
        machine.protocol.clone_from(&group.protocol);
        for (id, member) in &group.members {
            machine.members.insert(id.clone(), restored(member));
        }
        machine.expect_everybody(now_ms);
        match &group.leader {
            Some(leader) => {
                machine.leader = Some(leader.clone());
                machine.phase = Phase::Stable { sync_until_ms: None };
            }
            None => {
                machine.leader = machine.members.iter().next().map(|(id, _)| id.clone());
                let timeout_ms = machine.members.rebalance_timeout_ms();
                let until_ms = now_ms.saturating_add(timeout_ms);
                machine.phase = Phase::Preparing { until_ms, initial_delay: None };
                machine.wake_by(until_ms);
            }
        }
        machine
    }

    /// Emits a record of the current state, and returns the sequence number of its outcome.
    pub(super) fn persist(&mut self) -> u64 {
        self.write_down(self.leader.clone())
    }

    /// The same for a generation that has no assignment yet.
    pub(super) fn announce(&mut self) -> u64 {
        self.write_down(None)
    }

    fn write_down(&mut self, leader: Option<String>) -> u64 {
        self.sequence += 1;
        let record = SetGeneration {
            group: self.id.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader,
            members: self.members.iter().map(|(id, member)| written(id, member)).collect(),
        };
        self.output.persists.push(Persist { sequence: self.sequence, record });
        self.sequence
    }

    /// Restarts the session of every member: of those whose wait ended without a result, and of
    /// those restored after a restart.
    pub(super) fn expect_everybody(&mut self, now_ms: i64) {
        for id in self.members.ids_where(|_| true) {
            self.extend_session(&id, now_ms);
        }
    }
}

fn written(id: &str, member: &Member) -> command::Member {
    command::Member {
        member_id: id.to_owned(),
        instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        session_timeout_ms: member.session_timeout_ms,
        protocols: member.protocols.clone(),
        assignment: member.assignment.clone(),
    }
}

fn restored(member: &command::Member) -> Member {
    Member {
        instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        session_timeout_ms: member.session_timeout_ms,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        protocols: member.protocols.clone(),
        assignment: member.assignment.clone(),
        waiting: None,
        is_new: false,
        synced: true,
        session_until_ms: i64::MAX,
    }
}

/// A record in the form that [`ClassicGroup::restore`] reads.
#[cfg(test)]
pub(super) fn applied(record: SetGeneration) -> Group {
    let members = record.members.into_iter().map(|m| (m.member_id.clone(), m)).collect();
    Group {
        protocol_type: record.protocol_type,
        generation: record.generation,
        protocol: record.protocol,
        leader: record.leader,
        members,
        ..Group::default()
    }
}
