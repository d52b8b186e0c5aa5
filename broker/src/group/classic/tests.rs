//! Every transition of the state machine, and the cases in which real clients fail.
//!
//! [`Desk`] replaces the coordinator: it keeps the replies, and applies records at once unless
//! `hold` is set.

use std::collections::BTreeMap;

use bytes::Bytes;
use ropewalk_shard::command::MemberClaim;
use ropewalk_shard::state::Group;
use uuid::Uuid;

use super::record::applied;
use super::*;

mod joining;
mod statics;
mod syncing;
mod time;
mod restart;

/// The coordinator's part, for tests.
struct Desk {
    machine: ClassicGroup,
    now_ms: i64,
    replies: BTreeMap<Token, Reply>,
    record: Option<Group>,
    /// Records that are not durable yet, while `hold` is set.
    held: Vec<Persist>,
    hold: bool,
    next: Token,
}

const SESSION_MS: i64 = 10_000;
const REBALANCE_MS: i64 = 60_000;

/// No initial delay, because most tests do not need it.
fn rules() -> Rules {
    Rules { initial_delay_ms: 0, ..Rules::default() }
}

fn new_join(member_id: &str) -> Join {
    Join {
        member_id: member_id.to_owned(),
        instance_id: None,
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: SESSION_MS as i32,
        rebalance_timeout_ms: REBALANCE_MS as i32,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(&["orders"]))],
        unique: Uuid::from_u128(0),
        needs_known_id: false,
        can_skip_assignment: true,
    }
}

fn static_join(instance: &str) -> Join {
    Join { instance_id: Some(instance.to_owned()), ..new_join("") }
}

/// A consumer's subscription, version 0.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 0];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((-1i32).to_be_bytes());
    out.into()
}

fn claim(member_id: &str, generation: i32) -> MemberClaim {
    MemberClaim { member_id: member_id.to_owned(), instance_id: None, generation }
}

fn leaver(member_id: &str) -> Leaver {
    Leaver { member_id: member_id.to_owned(), instance_id: None }
}

fn part_of(member_id: &str) -> Bytes {
    Bytes::from(format!("part of {member_id}"))
}

impl Desk {
    fn new(rules: Rules) -> Self {
        Self {
            machine: ClassicGroup::new("g".to_owned(), rules),
            now_ms: 0,
            replies: BTreeMap::new(),
            record: None,
            held: Vec::new(),
            hold: false,
            next: 1,
        }
    }

    fn take_in(&mut self, output: Output) {
        for (token, reply) in output.replies {
            let before = self.replies.insert(token, reply);
            assert_eq!(before, None, "a waiter is answered once");
        }
        self.held.extend(output.persists);
        if !self.hold {
            self.release();
        }
        while self.machine.next_deadline_ms() <= self.now_ms {
            let output = self.machine.tick(self.now_ms);
            self.take_in(output);
        }
    }

    /// Makes all pending records durable.
    fn release(&mut self) {
        for Persist { sequence, record } in std::mem::take(&mut self.held) {
            self.record = Some(applied(record));
            let output = self.machine.persisted(sequence, Ok(()), self.now_ms);
            self.take_in(output);
        }
    }

    /// Fails all pending records.
    fn fail(&mut self) {
        for Persist { sequence, .. } in std::mem::take(&mut self.held) {
            let result = Err(Refusal::NotAvailable);
            let output = self.machine.persisted(sequence, result, self.now_ms);
            self.take_in(output);
        }
    }

    fn restart(&mut self) {
        let record = self.record.clone().unwrap_or_default();
        let rules = self.machine.rules;
        self.machine = ClassicGroup::restore("g".to_owned(), &record, rules, self.now_ms);
        self.held.clear();
    }

    fn join(&mut self, mut join: Join) -> Token {
        let token = self.next;
        self.next += 1;
        join.unique = Uuid::from_u128(u128::from(token));
        let output = self.machine.join(join, token, self.now_ms);
        self.take_in(output);
        token
    }

    fn sync(&mut self, claim: MemberClaim, parts: &[&str]) -> Token {
        let token = self.next;
        self.next += 1;
        let assignments = parts.iter().map(|id| ((*id).to_owned(), part_of(id))).collect();
        let request = SyncRequest { claim, protocol_type: None, protocol: None, assignments };
        let output = self.machine.sync(request, token, self.now_ms);
        self.take_in(output);
        token
    }

    fn heartbeat(&mut self, member_id: &str, generation: i32) -> Result<(), Refusal> {
        self.machine.heartbeat(&claim(member_id, generation), self.now_ms)
    }

    fn commit(&mut self, member_id: &str, generation: i32) -> Result<(), Refusal> {
        self.machine.check_commit(Some(&claim(member_id, generation)), self.now_ms)
    }

    fn leave(&mut self, leavers: &[Leaver]) -> Vec<Result<(), Refusal>> {
        let (results, output) = self.machine.leave(leavers, self.now_ms);
        self.take_in(output);
        results.unwrap()
    }

    /// Advances the time, deadline by deadline.
    fn pass(&mut self, ms: i64) {
        let end = self.now_ms + ms;
        while self.machine.next_deadline_ms() <= end {
            self.now_ms = self.machine.next_deadline_ms().max(self.now_ms);
            let output = self.machine.tick(self.now_ms);
            self.take_in(output);
        }
        self.now_ms = end;
    }

    fn state(&self) -> &'static str {
        self.machine.phase().name()
    }

    #[track_caller]
    fn joined(&self, token: Token) -> &JoinResult {
        match self.replies.get(&token) {
            Some(Reply::Joined(joined)) => joined,
            other => panic!("not joined: {other:?}"),
        }
    }

    #[track_caller]
    fn synced(&self, token: Token) -> &Bytes {
        match self.replies.get(&token) {
            Some(Reply::Synced(synced)) => &synced.assignment,
            other => panic!("not synced: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(&self, token: Token) -> Refusal {
        match self.replies.get(&token) {
            Some(Reply::NotJoined { refusal, .. } | Reply::NotSynced(refusal)) => *refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn waits(&self, token: Token) -> bool {
        !self.replies.contains_key(&token)
    }

    /// A stable group of `count` new members; their ids, the leader's first.
    fn stable(&mut self, count: usize) -> Vec<String> {
        self.stable_with((0..count).map(|_| new_join("")).collect())
    }

    /// The same with these members.
    fn stable_with(&mut self, joins: Vec<Join>) -> Vec<String> {
        let delay_ms = std::mem::replace(&mut self.machine.rules.initial_delay_ms, 1);
        let tokens: Vec<_> = joins.into_iter().map(|join| self.join(join)).collect();
        self.pass(tokens.len() as i64 + 1);
        self.machine.rules.initial_delay_ms = delay_ms;
        let mut ids: Vec<_> = tokens.iter().map(|t| self.joined(*t).member_id.clone()).collect();
        let leader = self.joined(tokens[0]).leader.clone();
        ids.sort_by_key(|id| *id != leader);
        let generation = self.machine.generation;
        let parts: Vec<_> = ids.iter().map(String::as_str).collect();
        for id in &ids {
            let instance_id = self.instance_of(id);
            let sync = self.sync(MemberClaim { instance_id, ..claim(id, generation) }, &parts);
            assert_eq!(self.synced(sync), &part_of(id));
        }
        assert_eq!(self.state(), "Stable");
        ids
    }

    fn instance_of(&self, id: &str) -> Option<String> {
        self.machine.members.get(id).and_then(|member| member.instance_id.clone())
    }
}

#[test]
fn one_member_alone_becomes_leader_and_gets_its_assignment() {
    let mut desk = Desk::new(rules());
    let join = desk.join(new_join(""));
    let joined = desk.joined(join).clone();
    assert_eq!((joined.generation, joined.protocol.as_deref()), (1, Some("range")));
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 1);
    assert_eq!(desk.state(), "CompletingRebalance");

    let sync = desk.sync(claim(&joined.member_id, 1), &[&joined.member_id]);
    assert_eq!(desk.synced(sync), &part_of(&joined.member_id));
    assert_eq!(desk.state(), "Stable");
    assert_eq!(desk.heartbeat(&joined.member_id, 1), Ok(()));
    assert_eq!(desk.record.as_ref().unwrap().leader, Some(joined.leader));
}

#[test]
fn a_member_id_names_the_client_or_its_instance() {
    let mut desk = Desk::new(rules());
    let join = desk.join(new_join(""));
    assert!(desk.joined(join).member_id.starts_with("client-00000000-"));
    let mut desk = Desk::new(rules());
    let join = desk.join(static_join("till-3"));
    assert!(desk.joined(join).member_id.starts_with("till-3-00000000-"));
}

#[test]
fn a_dead_group_refuses_every_pending_and_later_request() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let join = desk.join(new_join(&ids[0]));
    assert!(desk.waits(join));
    let output = desk.machine.kill(Refusal::NotCoordinator);
    desk.take_in(output);
    assert_eq!(desk.refused(join), Refusal::NotCoordinator);
    assert_eq!(desk.state(), "Dead");
    assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::NotCoordinator));
    let late = desk.join(new_join(""));
    assert_eq!(desk.refused(late), Refusal::NotCoordinator);
    let late = desk.sync(claim(&ids[0], 1), &[]);
    assert_eq!(desk.refused(late), Refusal::NotCoordinator);
    assert_eq!(desk.machine.check_commit(None, 0), Err(Refusal::NotCoordinator));
    assert_eq!(desk.machine.leave(&[leaver(&ids[0])], 0).0, Err(Refusal::NotCoordinator));
}

#[test]
fn only_a_stable_group_shows_subscriptions_and_assignments() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    let shown = desk.machine.describe();
    assert_eq!((shown.state, shown.protocol.as_str()), ("Stable", "range"));
    assert_eq!(shown.members[0].metadata, subscription(&["orders"]));
    assert_eq!(shown.members[0].assignment, part_of(&ids[0]));

    desk.join(new_join(""));
    let shown = desk.machine.describe();
    assert_eq!((shown.state, shown.protocol.as_str()), ("PreparingRebalance", ""));
    assert_eq!(shown.protocol_type, "consumer");
    assert_eq!(shown.members.len(), 2);
    assert!(shown.members.iter().all(|m| m.metadata.is_empty() && m.assignment.is_empty()));
}

#[test]
fn o3_commits_are_fenced_by_member_and_generation() {
    let mut desk = Desk::new(rules());
    assert_eq!(desk.machine.check_commit(None, 0), Ok(()), "a simple group may commit");
    assert_eq!(desk.machine.check_commit(Some(&claim("m", 1)), 0), Err(Refusal::UnknownMember));

    let ids = desk.stable(2);
    assert_eq!(desk.commit(&ids[0], 1), Ok(()));
    assert_eq!(desk.commit(&ids[0], 0), Err(Refusal::IllegalGeneration));
    assert_eq!(desk.commit(&ids[0], 2), Err(Refusal::IllegalGeneration));
    assert_eq!(desk.commit("m", 1), Err(Refusal::UnknownMember));
    assert_eq!(desk.machine.check_commit(None, 0), Err(Refusal::UnknownMember));

    // While members must join again, the old generation may still commit its offsets.
    let first = desk.join(new_join(&ids[0]));
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.commit(&ids[1], 1), Ok(()));
    let second = desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(first).generation, 2);
    assert_eq!(desk.joined(second).generation, 2);

    // After that it may not, and the new generation has nothing to commit yet.
    assert_eq!(desk.state(), "CompletingRebalance");
    assert_eq!(desk.commit(&ids[1], 1), Err(Refusal::IllegalGeneration));
    assert_eq!(desk.commit(&ids[1], 2), Err(Refusal::RebalanceInProgress));
    desk.sync(claim(&ids[0], 2), &[]);
    assert_eq!(desk.commit(&ids[1], 2), Ok(()));
}

#[test]
fn a_commit_counts_as_a_heartbeat() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    for _ in 0..5 {
        desk.pass(SESSION_MS - 1);
        assert_eq!(desk.commit(&ids[0], 1), Ok(()));
    }
    desk.pass(SESSION_MS);
    assert_eq!(desk.state(), "Empty");
}
