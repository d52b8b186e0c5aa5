//! Random histories of a group: clients that join, leave, stop, repeat requests or restart, a disk
//! that is slow or full, a coordinator that restarts.
//!
//! The oracle uses only what clients received and what was durable at that time.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_shard::command::MemberClaim;
use ropewalk_shard::state::Group;
use uuid::Uuid;

use super::record::applied;
use super::*;

const CLIENTS: usize = 6;
/// The first half of the clients are static members.
const STATIC: usize = CLIENTS / 2;
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 20_000;
/// The longest wait: a new member's limit or the initial delay and the rebalance, and a sync.
const WAIT_MS_MAX: i64 = NEW_MEMBER_WAIT_MS + 2 * REBALANCE_MS as i64;

#[derive(Debug, Clone)]
enum Step {
    /// A client sends its regular next request: join, sync or heartbeat.
    Act(usize),
    /// It sends the same request again on another connection.
    Repeat(usize),
    /// It joins again without a reason, perhaps with other topics.
    Rejoin(usize, bool),
    /// Its process restarts without its member id.
    Reboot(usize),
    Leave(usize),
    Commit(usize),
    Pass(i64),
    /// The disk completes the pending records.
    Durable,
    Full,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let step = prop_oneof![
        12 => client.clone().prop_map(Step::Act),
        1 => client.clone().prop_map(Step::Repeat),
        2 => (client.clone(), any::<bool>()).prop_map(|(c, other)| Step::Rejoin(c, other)),
        2 => client.clone().prop_map(Step::Reboot),
        1 => client.clone().prop_map(Step::Leave),
        2 => client.prop_map(Step::Commit),
        3 => (0..SESSION_MS as i64 / 2).prop_map(Step::Pass),
        1 => (0..2 * i64::from(REBALANCE_MS)).prop_map(Step::Pass),
        8 => Just(Step::Durable),
        1 => Just(Step::Full),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..200)
}

#[derive(Debug, Default, Clone)]
struct Client {
    member_id: String,
    generation: Option<i32>,
    /// The members that it has to assign as leader; it does so with its next sync.
    lead: Option<Vec<String>>,
    assigned: bool,
    topics: u8,
    waits: Option<Token>,
}

struct World {
    machine: ClassicGroup,
    now_ms: i64,
    durable: Group,
    on_the_way: Vec<Persist>,
    clients: Vec<Client>,
    /// Pending requests: the client, the time and the member id.
    open: BTreeMap<Token, (usize, i64, String)>,
    next: Token,
    /// By generation: the assignment that its leader sent.
    assignments: HashMap<i32, BTreeMap<String, Bytes>>,
    /// By generation: its leader, as clients received it.
    leaders: HashMap<i32, usize>,
    /// By member id: the newest generation that it received.
    published: HashMap<String, i32>,
    /// The highest generation that was durable at any time.
    highest: i32,
}

fn rules() -> Rules {
    Rules { initial_delay_ms: 3_000, members_max: CLIENTS - 1, ..Rules::default() }
}

impl World {
    fn new() -> Self {
        Self {
            machine: ClassicGroup::new("g".to_owned(), rules()),
            now_ms: 0,
            durable: Group::default(),
            on_the_way: Vec::new(),
            clients: vec![Client::default(); CLIENTS],
            open: BTreeMap::new(),
            next: 1,
            assignments: HashMap::new(),
            leaders: HashMap::new(),
            published: HashMap::new(),
            highest: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Act(client) if self.clients[client].waits.is_none() => self.act(client),
            Step::Act(_) => {}
            Step::Repeat(client) => self.act(client),
            Step::Rejoin(client, other) => {
                self.clients[client].topics ^= u8::from(other);
                self.join(client);
            }
            Step::Reboot(client) => {
                let topics = self.clients[client].topics;
                self.clients[client] = Client { topics, ..Client::default() };
                self.join(client);
            }
            Step::Leave(client) => self.leave(client),
            Step::Commit(client) => self.commit(client),
            Step::Pass(ms) => self.pass(ms),
            Step::Durable => self.settle(Ok(())),
            Step::Full => self.settle(Err(Refusal::NotAvailable)),
            Step::Restart => self.restart(),
        }
    }

    fn act(&mut self, client: usize) {
        match self.clients[client].generation {
            None => self.join(client),
            Some(_) if !self.clients[client].assigned => self.sync(client),
            Some(_) => self.heartbeat(client),
        }
    }

    fn ask(&mut self, client: usize) -> Token {
        let token = self.next;
        self.next += 1;
        let member_id = self.clients[client].member_id.clone();
        self.open.insert(token, (client, self.now_ms, member_id));
        self.clients[client].waits = Some(token);
        token
    }

    fn instance(client: usize) -> Option<String> {
        (client < STATIC).then(|| format!("instance-{client}"))
    }

    fn claim(&self, client: usize) -> MemberClaim {
        MemberClaim {
            member_id: self.clients[client].member_id.clone(),
            instance_id: Self::instance(client),
            generation: self.clients[client].generation.unwrap_or(-1),
        }
    }

    fn join(&mut self, client: usize) {
        let token = self.ask(client);
        let Client { member_id, topics, .. } = self.clients[client].clone();
        let join = Join {
            member_id,
            instance_id: Self::instance(client),
            client_id: format!("client-{client}"),
            client_host: String::new(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::copy_from_slice(&[topics]))],
            unique: Uuid::from_u128(u128::from(token)),
            needs_known_id: client.is_multiple_of(2),
            can_skip_assignment: client.is_multiple_of(3),
        };
        let output = self.machine.join(join, token, self.now_ms);
        self.take_in(output);
    }

    fn sync(&mut self, client: usize) {
        let token = self.ask(client);
        let claim = self.claim(client);
        let members = self.clients[client].lead.clone().unwrap_or_default();
        let part = |id: &String| {
            let part = format!("{id} in {} by {client} as {token}", claim.generation);
            (id.clone(), Bytes::from(part))
        };
        let assignments: Vec<_> = members.iter().map(part).collect();
        let request = SyncRequest { claim, protocol_type: None, protocol: None, assignments };
        let output = self.machine.sync(request, token, self.now_ms);
        self.take_in(output);
    }

    fn heartbeat(&mut self, client: usize) {
        let claim = self.claim(client);
        match self.machine.heartbeat(&claim, self.now_ms) {
            Ok(()) => {
                assert_eq!(claim.generation, self.machine.generation);
                assert!(claim.generation <= self.highest, "G1: only durable numbers are good");
            }
            Err(refusal) => self.refused(client, refusal),
        }
    }

    /// The reaction of a client to an error.
    fn refused(&mut self, client: usize, refusal: Refusal) {
        let client = &mut self.clients[client];
        client.generation = None;
        client.assigned = false;
        client.lead = None;
        if matches!(
            refusal,
            Refusal::UnknownMember | Refusal::FencedInstance | Refusal::GroupFull { .. }
        ) {
            client.member_id.clear();
        }
    }

    fn leave(&mut self, client: usize) {
        let leaver = Leaver {
            member_id: self.clients[client].member_id.clone(),
            instance_id: Self::instance(client),
        };
        let (_, output) = self.machine.leave(&[leaver], self.now_ms);
        self.take_in(output);
        let topics = self.clients[client].topics;
        self.clients[client] = Client { topics, ..Client::default() };
    }

    fn commit(&mut self, client: usize) {
        let claim = self.claim(client);
        if self.machine.check_commit(Some(&claim), self.now_ms).is_ok() {
            assert!(self.clients[client].generation.is_some(), "o3: {claim:?}");
            // Apply must accept what the state machine accepts: the record agrees once the
            // in-flight records have been applied.
            let newest = self.on_the_way.last().map(|p| applied(p.record.clone()));
            let group = newest.unwrap_or_else(|| self.durable.clone());
            assert_eq!(group.admit(Some(&claim)), Ok(()), "o3: {claim:?}");
        }
    }

    fn pass(&mut self, ms: i64) {
        let end_ms = self.now_ms + ms;
        while self.machine.next_deadline_ms() <= end_ms {
            self.now_ms = self.machine.next_deadline_ms().max(self.now_ms);
            let output = self.machine.tick(self.now_ms);
            self.take_in(output);
        }
        self.now_ms = end_ms;
    }

    fn settle(&mut self, result: Result<(), Refusal>) {
        for Persist { sequence, record } in std::mem::take(&mut self.on_the_way) {
            if result.is_ok() {
                assert!(record.generation >= self.highest, "generations do not go back");
                self.highest = record.generation;
                self.durable = applied(record);
            }
            let output = self.machine.persisted(sequence, result, self.now_ms);
            self.take_in(output);
        }
    }

    /// In-flight records may be applied or not; connections are closed.
    fn restart(&mut self) {
        for (index, Persist { record, .. }) in
            std::mem::take(&mut self.on_the_way).into_iter().enumerate()
        {
            if index > 0 {
                break;
            }
            self.highest = self.highest.max(record.generation);
            self.durable = applied(record);
        }
        self.open.clear();
        self.clients.iter_mut().for_each(|client| client.waits = None);
        self.machine = ClassicGroup::restore("g".to_owned(), &self.durable, rules(), self.now_ms);
        if self.durable.leader.is_some() {
            assert_eq!(self.machine.phase().name(), "Stable", "a restart costs no rebalance");
        }
    }

    fn take_in(&mut self, output: Output) {
        self.on_the_way.extend(output.persists);
        for (token, reply) in output.replies {
            let (client, _, member_id) =
                self.open.remove(&token).expect("answered once, and who asked");
            // The client may have another member id by now, or none, because its process restarted.
            self.check_reply(client, member_id, &reply);
            if self.clients[client].waits != Some(token) {
                continue;
            }
            self.clients[client].waits = None;
            match reply {
                Reply::Joined(joined) => self.joined(client, joined),
                Reply::NotJoined { member_id, refusal: Refusal::MemberIdRequired } => {
                    self.clients[client].member_id = member_id;
                }
                Reply::NotJoined { refusal, .. } | Reply::NotSynced(refusal) => {
                    self.refused(client, refusal);
                }
                Reply::Synced(_) => self.clients[client].assigned = true,
            }
        }
    }

    fn joined(&mut self, client: usize, joined: JoinResult) {
        let state = &mut self.clients[client];
        state.member_id = joined.member_id;
        state.generation = Some(joined.generation);
        state.assigned = false;
        let assigns = !joined.members.is_empty() && !joined.skip_assignment;
        state.lead = assigns.then(|| joined.members.into_iter().map(|m| m.member_id).collect());
    }

    fn check_reply(&mut self, client: usize, asked_as: String, reply: &Reply) {
        match reply {
            Reply::Joined(joined) => {
                assert!(joined.generation <= self.highest, "G1: durable before it is published");
                assert_eq!(joined.generation, self.machine.generation, "one at a time");
                let published = self.published.entry(joined.member_id.clone()).or_default();
                assert!(*published <= joined.generation, "generations only increase");
                *published = joined.generation;
                if !joined.members.is_empty() {
                    let first = self.leaders.entry(joined.generation).or_insert(client);
                    assert_eq!(*first, client, "one leader a generation");
                }
            }
            Reply::Synced(synced) => {
                let generation = self.machine.generation;
                assert_eq!(self.durable.generation, generation, "durable before it is published");
                assert!(self.durable.leader.is_some());
                let text = String::from_utf8(synced.assignment.to_vec()).expect("ours");
                if !text.is_empty() {
                    let by = self.leaders.get(&generation).expect("the generation has a leader");
                    let expected = format!(" in {generation} by {by} as ");
                    assert!(text.contains(&expected), "G2: {text}, not{expected}");
                }
                let parts = self.assignments.entry(generation).or_default();
                let part = parts.entry(asked_as).or_insert_with(|| synced.assignment.clone());
                assert_eq!(*part, synced.assignment, "G2: one assignment a generation");
            }
            Reply::NotJoined { .. } | Reply::NotSynced(_) => {}
        }
    }

    /// Every request is answered in time, if the disk completes its records.
    fn check_patience(&self) {
        for (token, (client, since_ms, _)) in &self.open {
            let waited_ms = self.now_ms - since_ms;
            assert!(waited_ms <= WAIT_MS_MAX, "G3: {client} waits {waited_ms} ms under {token}");
        }
    }

    /// Clients that behave correctly bring every group to a stable state.
    fn come_to_rest(&mut self) {
        for _ in 0..400 {
            self.settle(Ok(()));
            for client in 0..CLIENTS {
                if self.clients[client].waits.is_none() {
                    self.act(client);
                }
                self.settle(Ok(()));
            }
            self.pass(1_000);
            self.check_patience();
        }
        assert_eq!(self.machine.phase().name(), "Stable");
        let members = self.machine.members.len();
        assert!((1..CLIENTS).contains(&members), "{members} members");
    }
}

proptest! {
    #[test]
    fn o3_any_history_keeps_the_promises_of_a_group(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.settle_sometimes(step);
            world.check_patience();
        }
        world.come_to_rest();
    }
}

impl World {
    /// A disk is slow for seconds, not for minutes.
    fn settle_sometimes(&mut self, step: &Step) {
        if matches!(step, Step::Pass(_)) {
            self.settle(Ok(()));
        }
    }
}
