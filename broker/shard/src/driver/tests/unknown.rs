//! Answers to proposals when leadership is lost, the rest of the call is refused, or the driver
//! stops.

use super::*;

#[test]
fn what_a_lost_lead_leaves_unknown_is_not_overtaken() {
    let mut world = World::new();
    let sent = SendOrder::default();
    world.append_in(&sent, 1, &[numbered(0, 0)]);
    world.core.replica.depose();
    world.settle();
    assert_eq!(error(world.answer(1)), Some(ProposeError::Unknown));
    world.append_in(&sent, 2, &[numbered(0, 1)]);
    world.all_durable();
    assert_eq!(error(world.answer(2)), Some(ProposeError::Behind));
}

#[test]
fn a_call_of_which_a_part_was_proposed_is_unknown_when_the_rest_is_refused() {
    let mut world = World::new();
    world.append(1, &[batch(0, 9 * MIB), batch(1, 9 * MIB)]);
    world.pass(limits::FULL_WAIT_MAX + SECOND);
    let answered = error(world.answer(1));
    assert_eq!(answered, Some(ProposeError::Unknown), "the first batch may still be stored");
}

#[test]
fn a_stop_says_which_proposals_may_have_happened() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.propose(2, named("g"));
    world.append(3, &[batch(0, 10)]);
    world.propose(4, named("g"));
    world.core.take(Event::Read { caller: 5 }, world.now());
    world.answers = world.core.stop();
    let errors = [1, 2, 3, 4, 5].map(|caller| error(world.answer(caller)).expect("an error"));
    let (unknown, stopped) = (ProposeError::Unknown, ProposeError::Stopped);
    assert_eq!(errors, [unknown, unknown, stopped, stopped, stopped]);
}

#[test]
fn a_call_of_which_a_part_was_proposed_is_unknown_at_a_stop() {
    let mut world = World::new();
    world.append(1, &[batch(0, 9 * MIB), batch(1, 9 * MIB)]);
    world.answers = world.core.stop();
    assert_eq!(error(world.answer(1)), Some(ProposeError::Unknown));
}

#[test]
fn a_lost_lead_leaves_proposals_unknown_and_refuses_what_was_not_taken() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.propose(2, named("g"));
    world.append(3, &[batch(0, 10)]);
    world.core.replica.depose();
    world.settle();
    assert_eq!(error(world.answer(1)), Some(ProposeError::Unknown));
    assert_eq!(error(world.answer(2)), Some(ProposeError::Unknown));
    // It does not wait for a place in the pipeline.
    assert_eq!(error(world.answer(3)), Some(ProposeError::NotLeader));
    world.event(Event::Read { caller: 4 });
    assert_eq!(error(world.answer(4)), Some(ProposeError::NotLeader));
}
