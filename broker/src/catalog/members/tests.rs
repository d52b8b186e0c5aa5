//! Steps of leaders, and whole moves on a model of a shard.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ropewalk_shard::state::catalog::PlacedReplica;

use super::*;

fn listed(roles: &[(u64, Role)]) -> Placement {
    let placed = |(id, role): &(u64, Role)| {
        let broker = BrokerId(i32::try_from(*id).expect("few"));
        (ReplicaId(*id), PlacedReplica { broker, role: *role })
    };
    roles.iter().map(placed).collect()
}

fn voter(replica: u64) -> Progress {
    Progress { replica, matched: 10, is_voter: true, is_caught_up: true }
}

fn learner(replica: u64) -> Progress {
    Progress { is_voter: false, ..voter(replica) }
}

fn behind(member: Progress) -> Progress {
    Progress { matched: 1, is_caught_up: false, ..member }
}

/// The step of replica 1, if the catalog has assigned ids through 9.
fn step(roles: &[(u64, Role)], members: &[Progress]) -> Option<Step> {
    let listed = listed(roles);
    let led = Led { own: ReplicaId(1), listed: &listed, members };
    led.next_step(|replica| replica.0 < 10 && !listed.contains_key(&replica))
}

use Role::{Learner, Leaving, Voter};

#[test]
fn members_that_are_as_listed_need_no_step() {
    assert_eq!(step(&[(1, Voter)], &[voter(1)]), None);
    assert_eq!(step(&[(1, Voter), (2, Learner)], &[voter(1), learner(2)]), None);
}

#[test]
fn a_replica_becomes_a_learner_and_votes_when_it_has_caught_up() {
    for role in [Learner, Voter] {
        let added = step(&[(1, Voter), (2, role)], &[voter(1)]);
        assert_eq!(added, Some(Step::Add(ReplicaId(2))));
    }
    let roles = [(1, Voter), (2, Voter)];
    assert_eq!(step(&roles, &[voter(1), behind(learner(2))]), None);
    assert_eq!(step(&roles, &[voter(1), learner(2)]), Some(Step::Promote(ReplicaId(2))));
}

#[test]
fn no_voter_is_removed_before_its_successor_votes_nor_before_the_others_have_its_entries() {
    let roles = [(1, Voter), (2, Voter), (3, Leaving), (4, Voter)];
    let members = [voter(1), voter(2), voter(3), learner(4)];
    assert_eq!(step(&roles, &members), Some(Step::Promote(ReplicaId(4))));
    let members = [voter(1), voter(2), voter(3), voter(4)];
    assert_eq!(step(&roles, &members), Some(Step::Remove(ReplicaId(3))));
    let members = [voter(1), behind(voter(2)), voter(3), behind(voter(4))];
    assert_eq!(step(&roles, &members), None, "only this replica has all entries");
    let members = [voter(1), behind(voter(2)), voter(3), voter(4)];
    assert_eq!(step(&roles, &members), Some(Step::Remove(ReplicaId(3))));
    // A dead replica of three.
    let roles = [(1, Voter), (2, Voter), (3, Leaving)];
    let members = [voter(1), voter(2), behind(voter(3))];
    assert_eq!(step(&roles, &members), Some(Step::Remove(ReplicaId(3))));
}

#[test]
fn a_leader_that_has_to_go_hands_over_to_a_voter_that_stays() {
    let roles = [(1, Leaving), (2, Leaving), (3, Voter), (4, Voter)];
    let members = [voter(1), behind(voter(2)), voter(3), behind(voter(4))];
    // Replica 2 cannot be spared: of 1, 3 and 4 two have all entries, and 1 counts.
    assert_eq!(step(&roles, &members), Some(Step::Remove(ReplicaId(2))));
    let members = [voter(1), voter(3), behind(voter(4))];
    assert_eq!(step(&roles, &members), Some(Step::Transfer(ReplicaId(3))));
    let members = [voter(1), behind(voter(3)), behind(voter(4))];
    assert_eq!(step(&roles, &members), Some(Step::Forget(ReplicaId(2))));
    // Of a replica that the catalog has removed altogether.
    let members = [voter(1), voter(2)];
    assert_eq!(step(&[(2, Voter)], &members), Some(Step::Transfer(ReplicaId(2))));
}

#[test]
fn a_member_that_an_old_view_does_not_list_stays() {
    let roles = [(1, Voter), (2, Voter), (3, Voter)];
    let members = |other| [voter(1), voter(2), voter(3), learner(other)];
    assert_eq!(step(&roles, &members(12)), None, "its id was assigned later");
    assert_eq!(step(&roles, &members(7)), Some(Step::Remove(ReplicaId(7))));
    let voters = |other| [voter(1), voter(2), voter(3), voter(other)];
    assert_eq!(step(&roles, &voters(12)), None);
    assert_eq!(step(&roles, &voters(7)), Some(Step::Remove(ReplicaId(7))));
}

#[test]
fn a_leaving_replica_is_forgotten_when_it_is_no_member() {
    let roles = [(1, Voter), (2, Leaving)];
    assert_eq!(step(&roles, &[voter(1), learner(2)]), Some(Step::Remove(ReplicaId(2))));
    assert_eq!(step(&roles, &[voter(1)]), Some(Step::Forget(ReplicaId(2))));
}

#[test]
fn a_broker_holds_the_replica_that_stays_there() {
    let placement = listed(&[(1, Voter), (2, Leaving), (3, Learner)]);
    let held = [1, 2, 3, 4].map(|broker| placed_on(&placement, BrokerId(broker)));
    assert_eq!(held, [Some(ReplicaId(1)), None, Some(ReplicaId(3)), None]);
}

/// A shard that does what its leader says. Some members may never catch up.
struct Model {
    listed: Placement,
    members: BTreeMap<u64, Progress>,
    slow: BTreeSet<u64>,
    leader: u64,
}

impl Model {
    fn take(&mut self) -> bool {
        let members: Vec<_> = self.members.values().copied().collect();
        let led = Led { own: ReplicaId(self.leader), listed: &self.listed, members: &members };
        let Some(step) = led.next_step(|replica| !self.listed.contains_key(&replica)) else {
            return false;
        };
        match step {
            Step::Add(id) => {
                assert!(self.listed.contains_key(&id) && !self.members.contains_key(&id.0));
                let is_caught_up = !self.slow.contains(&id.0);
                self.members.insert(id.0, Progress { is_caught_up, ..learner(id.0) });
            }
            Step::Promote(id) => {
                let member = self.members.get_mut(&id.0).expect("a member");
                assert!(!member.is_voter && member.is_caught_up);
                member.is_voter = true;
            }
            Step::Remove(id) => {
                assert_ne!(id.0, self.leader);
                let removed = self.members.remove(&id.0).expect("a member");
                let voters = || self.members.values().filter(|member| member.is_voter);
                let ready = voters().filter(|member| member.is_caught_up).count();
                assert!(!removed.is_voter || 2 * ready > voters().count());
            }
            Step::Transfer(id) => {
                let next = self.members[&id.0];
                assert!(next.is_voter && next.is_caught_up);
                self.leader = id.0;
            }
            Step::Forget(id) => {
                assert!(!self.members.contains_key(&id.0));
                self.listed.remove(&id).expect("listed");
            }
        }
        true
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Learner), Just(Voter), Just(Leaving)]
}

proptest! {
    /// From any members to any placement with one voter that has all entries.
    #[test]
    fn the_steps_end_with_the_members_of_the_catalog(
        roles in prop::collection::btree_map(1_u64..7, role(), 0..6),
        voters in prop::collection::btree_set(1_u64..7, 1..5),
        learners in prop::collection::btree_set(1_u64..7, 0..3),
        slow in prop::collection::btree_set(1_u64..7, 0..3),
        first in any::<prop::sample::Index>(),
    ) {
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.push((8, Voter));
        let progress = |id: &u64, is_voter| {
            (*id, Progress { is_voter, is_caught_up: !slow.contains(id), ..voter(*id) })
        };
        let mut members: BTreeMap<_, _> = learners.iter().map(|id| progress(id, false)).collect();
        members.extend(voters.iter().map(|id| progress(id, true)));
        let leader = *voters.iter().nth(first.index(voters.len())).expect("one");
        members.get_mut(&leader).expect("a member").is_caught_up = true;
        let mut slow = slow;
        slow.remove(&leader);
        let mut model = Model { listed: listed(&roles), members, slow, leader };
        let steps = (0..100).take_while(|_| model.take()).count();
        prop_assert!(steps < 100, "they do not end");
        if model.slow.is_empty() {
            for (id, placed) in &model.listed {
                let votes = model.members.get(&id.0).map(|member| member.is_voter);
                match placed.role {
                    Voter => prop_assert_eq!(votes, Some(true)),
                    // It may have voted before the catalog listed it as a learner.
                    Learner => prop_assert!(votes.is_some()),
                    Leaving => prop_assert!(false, "{:?} is still listed", id),
                }
            }
            let all: BTreeSet<_> = model.listed.keys().map(|id| id.0).collect();
            prop_assert_eq!(model.members.keys().copied().collect::<BTreeSet<_>>(), all);
        }
    }
}
