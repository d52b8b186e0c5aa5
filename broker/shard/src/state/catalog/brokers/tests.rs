//! Brokers join and are removed, replicas are added and removed, and no id is used twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::command::{CatalogCommand, FORMAT_MAX};
use crate::state::catalog::{Answer, Change};

const SHARD: ShardId = ShardId(1);
const FIRST: BrokerId = BrokerId(0);

fn catalog() -> Catalog {
    Catalog::first("cluster".to_owned(), FIRST, 2)
}

fn start(incarnation: u64) -> BrokerInfo {
    BrokerInfo { incarnation, ..BrokerInfo::default() }
}

fn register(broker: i32, incarnation: u64) -> CatalogCommand {
    CatalogCommand::RegisterBroker { broker: BrokerId(broker), info: start(incarnation) }
}

fn forget(broker: i32) -> CatalogCommand {
    CatalogCommand::ForgetBroker { broker: BrokerId(broker) }
}

fn place(broker: i32) -> CatalogCommand {
    CatalogCommand::PlaceReplica { shard: SHARD, broker: BrokerId(broker) }
}

fn set_role(replica: ReplicaId, role: Role) -> CatalogCommand {
    CatalogCommand::SetRole { shard: SHARD, replica, role }
}

fn remove(replica: ReplicaId) -> CatalogCommand {
    CatalogCommand::RemoveReplica { shard: SHARD, replica }
}

fn run(catalog: &mut Catalog, command: CatalogCommand) -> Answer {
    let (answer, change) = catalog.apply(0, command);
    assert_eq!(change, Change::Placement);
    answer
}

/// Runs a command twice: the answer is the same again.
fn twice(catalog: &mut Catalog, command: CatalogCommand) -> Answer {
    let answer = run(catalog, command.clone());
    let before = catalog.clone();
    assert_eq!(run(catalog, command), answer);
    catalog.revision = before.revision;
    assert_eq!(*catalog, before, "nothing was left to do");
    answer
}

fn placed(catalog: &mut Catalog, broker: i32) -> ReplicaId {
    let answer = twice(catalog, place(broker));
    let Answer::Replica(replica) = answer else { panic!("{answer:?}") };
    replica
}

/// The voter that the shard begins with.
fn first_voter(catalog: &Catalog) -> ReplicaId {
    catalog.shards[&SHARD].on(FIRST).expect("it has one").0
}

#[test]
fn a_shard_moves_to_another_broker_and_the_first_one_can_be_forgotten_when_it_is_empty() {
    let mut catalog = catalog();
    let old = first_voter(&catalog);
    assert_eq!(twice(&mut catalog, register(1, 1)), Answer::Done);
    let new = placed(&mut catalog, 1);
    let refused = run(&mut catalog, set_role(old, Role::Leaving));
    assert_eq!(refused, Answer::Refused(Refusal::LastVoter { shard: SHARD, replica: old }));
    assert_eq!(twice(&mut catalog, set_role(new, Role::Voter)), Answer::Done);
    let stays = Refusal::ReplicaStays { shard: SHARD, replica: old };
    assert_eq!(run(&mut catalog, remove(old)), Answer::Refused(stays));
    assert_eq!(twice(&mut catalog, set_role(old, Role::Leaving)), Answer::Done);
    let leaves = Refusal::ReplicaLeaves { shard: SHARD, replica: old };
    assert_eq!(run(&mut catalog, set_role(old, Role::Voter)), Answer::Refused(leaves.clone()));
    assert_eq!(run(&mut catalog, place(0)), Answer::Refused(leaves));
    assert!(!catalog.is_removed(SHARD, old));
    assert_eq!(twice(&mut catalog, remove(old)), Answer::Done);
    assert!(catalog.is_removed(SHARD, old) && !catalog.is_removed(SHARD, new));
    let holds = Refusal::BrokerHoldsReplicas { broker: FIRST, replicas: 2 };
    assert_eq!(run(&mut catalog, forget(0)), Answer::Refused(holds), "the catalog and shard 2");
    catalog.shards.retain(|shard, _| *shard == SHARD);
    assert_eq!(twice(&mut catalog, forget(0)), Answer::Done);
    assert_eq!(catalog.brokers.keys().collect::<Vec<_>>(), [&BrokerId(1)]);
}

#[test]
fn a_broker_that_was_forgotten_never_comes_back() {
    let mut catalog = catalog();
    run(&mut catalog, register(1, 4));
    catalog.apply(0, CatalogCommand::ReportLevel { broker: BrokerId(1), level: 3 });
    assert_eq!(twice(&mut catalog, forget(1)), Answer::Done);
    let refusal = Refusal::BrokerForgotten { broker: BrokerId(1) };
    assert_eq!(run(&mut catalog, register(1, 5)), Answer::Refused(refusal));
    let unknown = |broker| Answer::Refused(Refusal::NoSuchBroker { broker: BrokerId(broker) });
    assert_eq!(run(&mut catalog, place(1)), unknown(1));
    assert_eq!(run(&mut catalog, forget(7)), unknown(7));
    let drain = |broker| CatalogCommand::SetStanding {
        broker: BrokerId(broker),
        standing: Standing::Draining,
    };
    assert_eq!(run(&mut catalog, drain(1)), unknown(1));
    // A report that was late does not hold the feature level down.
    catalog.apply(0, CatalogCommand::ReportLevel { broker: BrokerId(1), level: 3 });
    catalog.apply(0, CatalogCommand::ReportLevel { broker: FIRST, level: FORMAT_MAX + 1 });
    assert_eq!(catalog.level, FORMAT_MAX + 1);
}

#[test]
fn forgetting_the_broker_that_read_least_raises_the_level() {
    let mut catalog = catalog();
    run(&mut catalog, register(1, 1));
    catalog.apply(0, CatalogCommand::ReportLevel { broker: FIRST, level: FORMAT_MAX + 1 });
    assert_eq!(catalog.level, FORMAT_MAX, "broker 1 has not reported");
    run(&mut catalog, forget(1));
    assert_eq!(catalog.level, FORMAT_MAX + 1);
}

#[test]
fn an_older_start_is_refused_and_a_newer_one_keeps_the_standing() {
    let mut catalog = catalog();
    let broker = BrokerId(1);
    run(&mut catalog, register(1, 3));
    let drain = CatalogCommand::SetStanding { broker, standing: Standing::Draining };
    assert_eq!(twice(&mut catalog, drain), Answer::Done);
    let stale = |incarnation| Refusal::StaleIncarnation { broker, incarnation, newest: 3 };
    // 0 is a broker with an empty directory.
    for incarnation in [0, 2] {
        let answer = run(&mut catalog, register(1, incarnation));
        assert_eq!(answer, Answer::Refused(stale(incarnation)));
    }
    let info = BrokerInfo { rack: Some("b".to_owned()), ..start(4) };
    let again = CatalogCommand::RegisterBroker { broker, info };
    assert_eq!(twice(&mut catalog, again), Answer::Done);
    let known = &catalog.brokers[&broker];
    assert_eq!((known.incarnation, known.rack.as_deref()), (4, Some("b")));
    assert_eq!(known.standing, Standing::Draining);
}

#[test]
fn r1_no_more_brokers_join_than_can_hold_the_catalog() {
    let mut catalog = catalog();
    let max = limits::BROKERS_MAX;
    for broker in 1..max {
        let broker = i32::try_from(broker).expect("few");
        assert_eq!(run(&mut catalog, register(broker, 1)), Answer::Done);
    }
    let refused = Answer::Refused(Refusal::TooManyBrokers { max });
    assert_eq!(run(&mut catalog, register(100, 1)), refused);
    assert_eq!(run(&mut catalog, register(1, 2)), Answer::Done, "it is one of them");
    let max = limits::FORGOTTEN_BROKERS_MAX;
    catalog.removed_brokers.extend((0..).map(|n| BrokerId(1000 + n)).take(max));
    assert_eq!(run(&mut catalog, forget(1)), Answer::Refused(Refusal::TooManyBrokers { max }));
}

#[test]
fn what_does_not_exist_is_named() {
    let mut catalog = catalog();
    let shard = ShardId(9);
    let no_shard = || Answer::Refused(Refusal::NoSuchShard { shard });
    let replica = ReplicaId(1);
    let place = CatalogCommand::PlaceReplica { shard, broker: FIRST };
    assert_eq!(run(&mut catalog, place), no_shard());
    let leave = CatalogCommand::SetRole { shard, replica, role: Role::Leaving };
    assert_eq!(run(&mut catalog, leave), no_shard());
    assert_eq!(run(&mut catalog, CatalogCommand::RemoveReplica { shard, replica }), no_shard());
    let replica = ReplicaId(catalog.next_replica_id);
    let unknown = Answer::Refused(Refusal::NoSuchReplica { shard: SHARD, replica });
    assert_eq!(run(&mut catalog, set_role(replica, Role::Voter)), unknown);
    assert_eq!(run(&mut catalog, remove(replica)), unknown, "it was never placed");
    let voter = first_voter(&catalog);
    let votes = Refusal::ReplicaVotes { shard: SHARD, replica: voter };
    assert_eq!(run(&mut catalog, set_role(voter, Role::Learner)), Answer::Refused(votes));
}

fn change(broker: i32, from: Standing, to: Standing) -> CatalogCommand {
    CatalogCommand::ChangeStanding { broker: BrokerId(broker), from, to }
}

fn restarting(incarnation: u64) -> Standing {
    Standing::Restarting { incarnation, deadline_ms: 5_000 }
}

/// Brokers 0 to `brokers`, and shard 1 with voters on those listed.
fn catalog_of(brokers: i32, voters: &[i32]) -> Catalog {
    let mut catalog = catalog();
    for broker in 1..brokers {
        run(&mut catalog, register(broker, 1));
    }
    catalog.shards.retain(|shard, _| *shard == SHARD);
    let placed = |broker: &i32| PlacedReplica { broker: BrokerId(*broker), role: Role::Voter };
    let replicas = voters
        .iter()
        .map(|broker| (ReplicaId(u64::from(broker.unsigned_abs()) + 100), placed(broker)));
    catalog.shards.get_mut(&SHARD).expect("it is there").replicas = replicas.collect();
    catalog.next_replica_id = 200;
    catalog
}

#[test]
fn a_drain_is_refused_when_too_few_brokers_stay_unless_fewer_replicas_are_accepted() {
    let mut catalog = catalog_of(3, &[0, 1, 2]);
    let refused = |broker, staying| Refusal::TooFewBrokers {
        broker: BrokerId(broker),
        staying,
        shards: vec![(SHARD, 3)],
    };
    let drain = |broker| change(broker, Standing::Serving, Standing::Draining);
    assert_eq!(twice(&mut catalog, drain(2)), Answer::Refused(refused(2, 2)));
    let to_fewer = change(2, Standing::Serving, Standing::DrainingToFewer);
    assert_eq!(twice(&mut catalog, to_fewer), Answer::Done);
    assert_eq!(twice(&mut catalog, drain(1)), Answer::Refused(refused(1, 1)));
    // With a fourth broker, and without the promise that was given up.
    run(&mut catalog, register(3, 1));
    assert_eq!(twice(&mut catalog, drain(1)), Answer::Refused(refused(1, 2)));
    let stays = change(2, Standing::DrainingToFewer, Standing::Serving);
    assert_eq!(twice(&mut catalog, stays), Answer::Done);
    assert_eq!(twice(&mut catalog, drain(1)), Answer::Done);
    assert_eq!(twice(&mut catalog, drain(0)), Answer::Refused(refused(0, 2)));
    let answer = twice(&mut catalog, drain(3));
    assert_eq!(answer, Answer::Refused(refused(3, 2)), "it votes nowhere, and broker 1 needs it");
    run(&mut catalog, change(1, Standing::Draining, Standing::Serving));
    assert_eq!(twice(&mut catalog, drain(3)), Answer::Done);
}

#[test]
fn the_last_broker_is_never_drained() {
    let mut catalog = catalog_of(2, &[0]);
    let drain = |broker| change(broker, Standing::Serving, Standing::DrainingToFewer);
    assert_eq!(twice(&mut catalog, drain(1)), Answer::Done);
    let broker = BrokerId(0);
    let refused = Refusal::TooFewBrokers { broker, staying: 0, shards: vec![(SHARD, 1)] };
    assert_eq!(twice(&mut catalog, drain(0)), Answer::Refused(refused));
}

#[test]
fn k2_two_voters_of_three_are_never_restarted_at_once() {
    let mut catalog = catalog_of(5, &[0, 1, 2]);
    let prepare = |broker| change(broker, Standing::Serving, restarting(1));
    assert_eq!(twice(&mut catalog, prepare(1)), Answer::Done);
    let broker = BrokerId(2);
    let refused = Refusal::OtherRestarts { broker, shards: vec![SHARD] };
    assert_eq!(twice(&mut catalog, prepare(2)), Answer::Refused(refused));
    assert_eq!(twice(&mut catalog, prepare(4)), Answer::Done, "it has no replica of the shard");
    assert_eq!(twice(&mut catalog, change(1, restarting(1), Standing::Serving)), Answer::Done);
    assert_eq!(twice(&mut catalog, prepare(2)), Answer::Done);
    // Of five voters two may be away.
    let mut catalog = catalog_of(5, &[0, 1, 2, 3, 4]);
    assert_eq!(run(&mut catalog, prepare(1)), Answer::Done);
    assert_eq!(run(&mut catalog, prepare(2)), Answer::Done);
    assert!(matches!(run(&mut catalog, prepare(3)), Answer::Refused(_)));
}

#[test]
fn a_change_of_the_standing_gives_way_to_one_that_came_first() {
    let mut catalog = catalog_of(4, &[0, 1, 2]);
    let broker = BrokerId(1);
    assert_eq!(run(&mut catalog, change(1, Standing::Serving, restarting(1))), Answer::Done);
    let late = run(&mut catalog, change(1, Standing::Serving, Standing::Draining));
    assert_eq!(late, Answer::Refused(Refusal::StandingChanged { broker }));
    let late = run(&mut catalog, change(1, restarting(2), Standing::Serving));
    assert_eq!(late, Answer::Refused(Refusal::StandingChanged { broker }));
    assert_eq!(catalog.brokers[&broker].standing, restarting(1));
    let absent = run(&mut catalog, change(9, Standing::Serving, Standing::Draining));
    assert_eq!(absent, Answer::Refused(Refusal::NoSuchBroker { broker: BrokerId(9) }));
}

#[test]
fn a_new_start_keeps_a_prepared_restart_and_ends_one_that_did_not_happen() {
    let mut catalog = catalog_of(3, &[0, 1, 2]);
    let broker = BrokerId(1);
    run(&mut catalog, change(1, Standing::Serving, restarting(1)));
    run(&mut catalog, register(1, 2));
    assert_eq!(catalog.brokers[&broker].standing, restarting(1), "it may lack records");
    let late = Standing::NotRestarted { deadline_ms: 5_000 };
    run(&mut catalog, change(1, restarting(1), late));
    run(&mut catalog, register(1, 2));
    assert_eq!(catalog.brokers[&broker].standing, late, "it is the same start");
    run(&mut catalog, register(1, 3));
    assert_eq!(catalog.brokers[&broker].standing, Standing::Serving);
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Serving),
        Just(Standing::Draining),
        Just(Standing::DrainingToFewer),
        (1_u64..3).prop_map(restarting),
        Just(Standing::NotRestarted { deadline_ms: 5_000 }),
    ]
}

fn command() -> impl Strategy<Value = CatalogCommand> {
    let (broker, shard) = (0_i32..5, (0_u32..4).prop_map(ShardId));
    let replica = (1_u64..14).prop_map(ReplicaId);
    let role = prop_oneof![Just(Role::Learner), Just(Role::Voter), Just(Role::Leaving)];
    let standing = prop_oneof![Just(Standing::Serving), Just(Standing::Draining)];
    prop_oneof![
        2 => (broker.clone(), 0_u64..4).prop_map(|(broker, at)| register(broker, at)),
        1 => broker.clone().prop_map(forget),
        1 => (broker.clone(), standing).prop_map(|(broker, standing)| {
            CatalogCommand::SetStanding { broker: BrokerId(broker), standing }
        }),
        2 => (broker.clone(), any_standing(), any_standing())
            .prop_map(|(broker, from, to)| change(broker, from, to)),
        4 => (shard.clone(), broker).prop_map(|(shard, broker)| {
            CatalogCommand::PlaceReplica { shard, broker: BrokerId(broker) }
        }),
        6 => (shard.clone(), replica.clone(), role).prop_map(|(shard, replica, role)| {
            CatalogCommand::SetRole { shard, replica, role }
        }),
        4 => (shard, replica).prop_map(|(shard, replica)| {
            CatalogCommand::RemoveReplica { shard, replica }
        }),
    ]
}

proptest! {
    #[test]
    fn no_id_is_used_twice_every_shard_keeps_a_voter_and_refusals_change_nothing(
        commands in prop::collection::vec(command(), 1..150),
    ) {
        let mut catalog = catalog();
        let mut seen: BTreeMap<ReplicaId, (ShardId, BrokerId)> = BTreeMap::new();
        let mut gone: BTreeSet<ReplicaId> = BTreeSet::new();
        let mut forgotten: BTreeSet<BrokerId> = BTreeSet::new();
        for command in commands {
            let before = catalog.clone();
            let answer = run(&mut catalog, command.clone());
            prop_assert_eq!(catalog.revision, before.revision + 1);
            if matches!(answer, Answer::Refused(_)) {
                prop_assert_eq!(&Catalog { revision: before.revision, ..catalog.clone() }, &before);
            }
            let mut listed = BTreeSet::new();
            for (shard, info) in &catalog.shards {
                prop_assert!(voters(info) > 0, "{shard} has no voter after {command:?}");
                let brokers: BTreeSet<_> = info.replicas.values().map(|r| r.broker).collect();
                prop_assert_eq!(brokers.len(), info.replicas.len(), "two on one broker");
                for (replica, placed) in &info.replicas {
                    prop_assert!(catalog.brokers.contains_key(&placed.broker));
                    prop_assert!(!gone.contains(replica), "{replica:?} is back");
                    let place = (*shard, placed.broker);
                    prop_assert_eq!(*seen.entry(*replica).or_insert(place), place);
                    listed.insert(*replica);
                }
            }
            gone.extend(seen.keys().filter(|replica| !listed.contains(replica)));
            for replica in &gone {
                prop_assert!(catalog.is_removed(seen[replica].0, *replica));
            }
            forgotten.extend(before.brokers.keys().filter(|b| !catalog.brokers.contains_key(b)));
            prop_assert!(forgotten.iter().all(|b| !catalog.brokers.contains_key(b)));
            for (broker, info) in &catalog.brokers {
                let older = before.brokers.get(broker).map_or(0, |older| older.incarnation);
                prop_assert!(info.incarnation >= older);
            }
            let bytes = postcard::to_allocvec(&answer).expect("encodes");
            prop_assert_eq!(postcard::from_bytes::<Answer>(&bytes).expect("decodes"), answer);
        }
    }

    /// From whatever standing the brokers have, as the proposer of each change sees it.
    #[test]
    fn standings_leave_every_shard_its_majority_and_its_replicas(
        voters in prop::sample::subsequence((0..5).collect::<Vec<_>>(), 1..=5),
        changes in prop::collection::vec((0_i32..5, any_standing()), 1..40),
    ) {
        let mut catalog = catalog_of(5, &voters);
        for (broker, to) in changes {
            let from = catalog.brokers[&BrokerId(broker)].standing;
            run(&mut catalog, change(broker, from, to));
            let of = |broker: &i32| catalog.brokers[&BrokerId(*broker)].standing;
            let restarting = voters.iter().filter(|broker| of(broker).is_restarting()).count();
            prop_assert!(restarting <= 1 || 2 * (voters.len() - restarting) > voters.len());
            let staying = (0..5).filter(|broker| !of(broker).is_draining()).count();
            let draining = voters.iter().filter(|broker| of(broker).is_draining());
            prop_assert!(draining.clone().next().is_none() || staying > 0);
            let keeps = draining.clone().any(|broker| of(broker) == Standing::Draining);
            prop_assert!(!keeps || staying >= voters.len());
        }
    }

    #[test]
    fn a_repeated_command_has_the_same_answer_and_changes_nothing_more(
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut catalog = catalog();
        for command in commands {
            twice(&mut catalog, command);
        }
    }
}
