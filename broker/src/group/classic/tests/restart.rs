//! A restart or a move of the coordinator costs the members nothing.

use super::*;

#[test]
fn a_restart_costs_no_rebalance() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(3);
    desk.pass(SESSION_MS - 1);
    desk.restart();
    assert_eq!(desk.state(), "Stable");
    desk.pass(SESSION_MS - 1);
    for id in &ids {
        assert_eq!(desk.heartbeat(id, 1), Ok(()), "a full session from the restart on");
    }
    let sync = desk.sync(claim(&ids[1], 1), &[]);
    assert_eq!(desk.synced(sync), &part_of(&ids[1]));
    let follower = desk.join(new_join(&ids[2]));
    assert_eq!(desk.joined(follower).generation, 1);
    assert_eq!(desk.machine.describe().protocol, "range");
}

#[test]
fn after_a_restart_the_silent_are_out_after_one_session() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.restart();
    desk.pass(SESSION_MS - 1);
    assert_eq!(desk.heartbeat(&ids[0], 1), Ok(()));
    desk.pass(1);
    assert_eq!(desk.state(), "PreparingRebalance");
    let token = desk.join(new_join(&ids[0]));
    assert_eq!((desk.joined(token).generation, desk.joined(token).members.len()), (2, 1));
}

#[test]
fn a_static_member_may_start_again_across_a_restart() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable_with(vec![static_join("a"), static_join("b")]);
    let (instance, old) = (desk.instance_of(&ids[0]).unwrap(), ids[0].clone());
    desk.restart();
    let token = desk.join(static_join(&instance));
    let joined = desk.joined(token).clone();
    assert_eq!((joined.generation, joined.skip_assignment), (1, true));
    let sync =
        desk.sync(MemberClaim { instance_id: Some(instance), ..claim(&joined.member_id, 1) }, &[]);
    assert_eq!(desk.synced(sync), &part_of(&old));
}

#[test]
fn a_generation_is_not_published_before_it_is_durable() {
    let mut desk = Desk::new(rules());
    desk.hold = true;
    let token = desk.join(new_join(""));
    assert!(desk.waits(token));
    desk.fail();
    assert_eq!(desk.refused(token), Refusal::NotAvailable);
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_restart_between_join_and_assignment_neither_repeats_the_number_nor_goes_back() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.join(new_join(&ids[0]));
    desk.join(new_join(&ids[1]));
    desk.restart();
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(&ids[0], 2), Err(Refusal::RebalanceInProgress));
    assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::IllegalGeneration));
    let sync = desk.sync(claim(&ids[0], 2), &[&ids[0]]);
    assert_eq!(desk.refused(sync), Refusal::RebalanceInProgress);
    let tokens = [0, 1].map(|i| desk.join(new_join(&ids[i])));
    for token in tokens {
        assert_eq!(desk.joined(token).generation, 3);
    }
}

#[test]
fn a_generation_number_that_was_not_made_durable_was_never_published() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    desk.hold = true;
    let token = desk.join(new_join(&ids[0]));
    assert!(desk.waits(token));
    desk.restart();
    assert_eq!(desk.state(), "Stable");
    assert_eq!(desk.heartbeat(&ids[0], 1), Ok(()));
}

#[test]
fn an_empty_group_keeps_its_number() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    desk.leave(&[leaver(&ids[0])]);
    desk.restart();
    assert_eq!(desk.state(), "Empty");
    assert!(desk.machine.is_idle());
    let token = desk.join(new_join(""));
    assert_eq!(desk.joined(token).generation, 3);
}

#[test]
fn joins_that_wait_for_the_disk_are_taken_along_by_the_next_newcomer() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    desk.hold = true;
    let first = desk.join(new_join(&ids[0]));
    let second = desk.join(new_join(""));
    assert!(desk.waits(first) && desk.waits(second));
    desk.hold = false;
    desk.release();
    for token in [first, second] {
        assert_eq!(desk.joined(token).generation, 3, "2 was never published");
    }
    assert_eq!(desk.joined(first).members.len(), 2);
}
