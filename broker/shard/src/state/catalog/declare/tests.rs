//! Owners, epochs and bindings, applied through encoded entries.

use proptest::prelude::*;

use super::*;
use crate::command::{self, CatalogCommand, Command, Envelope, PartitionPlacement};
use crate::id::ShardId;
use crate::limits;
use crate::state::catalog::Answer;
use crate::state::{Outcome, State};

const TERM: u64 = 3;

fn run(state: &mut State, command: CatalogCommand) -> Answer {
    let written = command::encode(TERM, 5_000, &Command::Catalog(command));
    let entry = Envelope::decode(&written).expect("our own entry");
    let Outcome::Catalog { answer, .. } = state.apply(TERM, entry, &mut Vec::new()) else {
        panic!("the catalog answers")
    };
    answer
}

fn id() -> TopicId {
    TopicId(uuid::Uuid::from_u128(7))
}

fn orders(owner: &str, partitions: u32, configs: &[(&str, &str)]) -> NewTopic {
    let home = |n| PartitionPlacement { shard: ShardId(n + 1), epoch_base: 0 };
    let text = |text: &str| text.to_owned();
    NewTopic {
        id: id(),
        name: text("orders"),
        partitions: (0..partitions).map(home).collect(),
        configs: configs.iter().map(|(key, value)| (text(key), text(value))).collect(),
        owner: Some(text(owner)),
    }
}

fn declare(state: &mut State, topic: NewTopic, exists: bool) -> Result<DeclareOutcome, Refusal> {
    let answer = run(state, CatalogCommand::DeclareTopic { topic, exists });
    if let Answer::Refused(refusal) = answer {
        return Err(refusal);
    }
    let Answer::Declared(declared) = answer else { panic!("{answer:?}") };
    Ok(declared)
}

fn release(owner: &str, delete: bool) -> CatalogCommand {
    CatalogCommand::ReleaseTopic { topic: id(), owner: owner.to_owned(), delete }
}

fn bind(owner: &str, group: &str, start: StartPosition) -> CatalogCommand {
    let (owner, group) = (owner.to_owned(), group.to_owned());
    CatalogCommand::BindGroup { topic: id(), owner, group, start }
}

fn made() -> State {
    let mut state = State::new();
    declare(&mut state, orders("me", 2, &[("retention.ms", "1")]), false).expect("made");
    state
}

fn catalog(state: &State) -> &Catalog {
    state.catalog.as_ref().expect("it is the catalog's shard")
}

fn owned_by_me<T>() -> Result<T, Refusal> {
    Err(Refusal::OwnedByAnother { owner: "me".into() })
}

#[test]
fn a_declared_topic_is_made_once_and_then_put_right() {
    let mut state = State::new();
    let first = declare(&mut state, orders("me", 2, &[("a", "1"), ("b", "1")]), false);
    let first = first.expect("made");
    assert!(first.created && !first.adopted && first.changed.is_empty());
    let again = declare(&mut state, orders("me", 2, &[("a", "1"), ("b", "1")]), true);
    let again = again.expect("as it is");
    assert!(!again.created && !again.adopted && again.changed.is_empty(), "{again:?}");
    let other = declare(&mut state, orders("me", 4, &[("b", "2"), ("c", "1")]), true);
    let other = other.expect("reconciled");
    assert_eq!(other.partitions, 4);
    assert_eq!(other.changed, ["partitions", "config.a", "config.b", "config.c"]);
    let fewer = declare(&mut state, orders("me", 1, &[("b", "2"), ("c", "1")]), true);
    let fewer = fewer.expect("partitions are never taken away");
    assert_eq!((fewer.partitions, fewer.changed.len()), (4, 0));
}

#[test]
fn a_topic_of_another_is_refused_and_one_of_nobody_adopted() {
    let mut state = made();
    let before = state.clone();
    assert_eq!(declare(&mut state, orders("you", 9, &[]), true), owned_by_me());
    assert_eq!(catalog(&state).topics, catalog(&before).topics);
    assert_eq!(run(&mut state, release("me", false)), Answer::Released { deleted: false });
    let adopted = declare(&mut state, orders("you", 2, &[]), true).expect("it had no owner");
    assert!(adopted.adopted && !adopted.created);
    assert_eq!(adopted.changed, ["config.retention.ms"]);
}

#[test]
fn what_changed_since_the_proposer_looked_is_never_written_over() {
    let mut state = made();
    assert_eq!(declare(&mut state, orders("me", 2, &[]), false), Err(Refusal::Replaced));
    let other = NewTopic { id: TopicId(uuid::Uuid::from_u128(8)), ..orders("me", 2, &[]) };
    assert_eq!(declare(&mut state, other, true), Err(Refusal::Replaced));
    run(&mut state, release("me", true));
    // Its id is not used again: files of its first incarnation may still exist.
    assert_eq!(declare(&mut state, orders("me", 2, &[]), true), Err(Refusal::Replaced));
}

#[test]
fn k4_only_the_owner_deletes_and_nobodys_topic_stays() {
    let mut state = made();
    let refused = Refusal::OwnedByAnother { owner: "me".into() };
    assert_eq!(run(&mut state, release("you", true)), Answer::Refused(refused.clone()));
    assert_eq!(run(&mut state, release("you", false)), Answer::Refused(refused));
    run(&mut state, bind("me", "g", StartPosition::Earliest));
    assert_eq!(run(&mut state, release("me", false)), Answer::Released { deleted: false });
    assert!(catalog(&state).bindings.is_empty(), "its bindings went with its owner");
    assert_eq!(run(&mut state, release("me", true)), Answer::Released { deleted: false });
    assert!(catalog(&state).topics.contains_key(&id()));
    declare(&mut state, orders("me", 2, &[]), true).expect("adopted");
    assert_eq!(run(&mut state, release("me", true)), Answer::Released { deleted: true });
    assert_eq!(run(&mut state, release("me", true)), Answer::Released { deleted: false });
}

#[test]
fn a_binding_remembers_how_many_partitions_there_were() {
    let mut state = made();
    assert_eq!(run(&mut state, bind("me", "g", StartPosition::Latest)), Answer::Done);
    declare(&mut state, orders("me", 5, &[]), true).expect("grown");
    run(&mut state, bind("me", "g", StartPosition::Latest));
    let binding = catalog(&state).bindings[&id()]["g"];
    assert_eq!(binding, Binding { start: StartPosition::Latest, partitions: 2 });
    let foreign = run(&mut state, bind("you", "g", StartPosition::Latest));
    assert_eq!(foreign, Answer::Refused(Refusal::OwnedByAnother { owner: "me".into() }));
    let unbind = |owner: &str| CatalogCommand::UnbindGroup {
        topic: id(),
        owner: owner.into(),
        group: "g".into(),
    };
    assert!(matches!(run(&mut state, unbind("you")), Answer::Refused(_)));
    assert_eq!(run(&mut state, unbind("me")), Answer::Done);
    assert_eq!(run(&mut state, unbind("me")), Answer::Done);
    assert!(catalog(&state).bindings.is_empty());
}

#[test]
fn a_deleted_topic_takes_its_bindings_along() {
    let mut state = made();
    run(&mut state, bind("me", "g", StartPosition::Earliest));
    run(&mut state, CatalogCommand::DeleteTopics(vec![id()]));
    assert!(catalog(&state).bindings.is_empty());
    let late = run(&mut state, bind("me", "g", StartPosition::Earliest));
    assert_eq!(late, Answer::Refused(Refusal::NoSuchTopic));
}

fn claim(state: &mut State) -> u64 {
    let claim = CatalogCommand::ClaimFence { holder: "pod".into(), lease_uid: "lease".into() };
    let Answer::Fence { epoch, .. } = run(state, claim) else { panic!("a claim has an epoch") };
    epoch
}

fn fenced(epoch: u64, command: CatalogCommand) -> CatalogCommand {
    CatalogCommand::Fenced { epoch, command: Box::new(command) }
}

proptest! {
    /// K2: whatever the order of claims and calls, a call is carried out only if no newer epoch was
    /// claimed before it, and every claim gets a higher epoch than any before it.
    #[test]
    fn k2_an_older_epoch_changes_nothing(acts in prop::collection::vec(prop::option::of(0_u64..6), 1..40)) {
        let mut state = made();
        let mut newest = 0;
        for act in acts {
            let Some(epoch) = act else {
                let claimed = claim(&mut state);
                prop_assert!(claimed > newest);
                newest = claimed;
                continue;
            };
            let before = catalog(&state).clone();
            let answer = run(&mut state, fenced(epoch, release("me", false)));
            if epoch < newest {
                prop_assert_eq!(answer, Answer::Refused(Refusal::StaleEpoch { newest }));
                prop_assert_eq!(&catalog(&state).topics, &before.topics);
                prop_assert_eq!(&catalog(&state).fence, &before.fence);
            } else {
                prop_assert_eq!(answer, Answer::Released { deleted: false });
                newest = epoch;
                declare(&mut state, orders("me", 2, &[]), true).expect("nobody's again");
            }
        }
    }
}

#[test]
fn k2_no_epoch_that_a_caller_names_ends_the_minting_of_epochs() {
    let mut state = made();
    assert_eq!(claim(&mut state), 1);
    for epoch in [u64::MAX, u64::MAX - 1, limits::FENCE_EPOCH_ADOPTED_MAX + 1] {
        let answer = run(&mut state, fenced(epoch, release("me", false)));
        assert_eq!(answer, Answer::Refused(Refusal::EpochTooHigh { epoch, newest: 1 }));
    }
    let adopted = limits::FENCE_EPOCH_ADOPTED_MAX;
    let answer = run(&mut state, fenced(adopted, release("me", false)));
    assert_eq!(answer, Answer::Released { deleted: false });
    assert_eq!(claim(&mut state), adopted + 1);
    declare(&mut state, orders("me", 2, &[]), true).expect("nobody's again");
    let answer = run(&mut state, fenced(adopted + 1, release("me", false)));
    assert_eq!(answer, Answer::Released { deleted: false });
}
