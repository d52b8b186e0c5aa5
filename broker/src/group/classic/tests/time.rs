//! Session and rebalance timeouts, and what happens when they end.

use super::*;

#[test]
fn a_silent_member_is_out_and_the_others_rebalance() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.pass(SESSION_MS - 1);
    assert_eq!(desk.heartbeat(&ids[0], 1), Ok(()));
    assert_eq!(desk.state(), "Stable");
    desk.pass(1);
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(&ids[1], 1), Err(Refusal::UnknownMember));
    let token = desk.join(new_join(&ids[0]));
    assert_eq!(desk.joined(token).members.len(), 1);
}

#[test]
fn heartbeats_during_a_rebalance_keep_the_session() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let token = desk.join(new_join(&ids[0]));
    for _ in 0..4 {
        desk.pass(SESSION_MS - 1);
        assert_eq!(desk.heartbeat(&ids[1], 1), Err(Refusal::RebalanceInProgress));
    }
    assert!(desk.waits(token));
    desk.pass(SESSION_MS);
    assert_eq!(desk.joined(token).members.len(), 1, "silence ends the wait for it");
}

#[test]
fn who_waits_for_us_is_not_silent() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let token = desk.join(new_join(&ids[0]));
    for _ in 0..5 {
        desk.pass(SESSION_MS - 1);
        let _ = desk.heartbeat(&ids[1], 1);
    }
    assert!(desk.waits(token), "its own session ended long ago");
    desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(token).generation, 2);
    desk.pass(SESSION_MS - 1);
    assert_eq!(desk.heartbeat(&ids[0], 2), Ok(()), "a new session from the answer on");
}

#[test]
fn a_new_member_waits_five_minutes_at_most() {
    let mut desk = Desk::new(rules());
    let mut join = new_join("");
    join.rebalance_timeout_ms = 3_600_000;
    let ids = desk.stable_with(vec![join.clone()]);
    let newcomer = desk.join(join);
    let mut left_ms = NEW_MEMBER_WAIT_MS - 1;
    while left_ms > 0 {
        let step_ms = left_ms.min(SESSION_MS - 1);
        desk.pass(step_ms);
        left_ms -= step_ms;
        assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::RebalanceInProgress));
    }
    assert!(desk.waits(newcomer));
    desk.pass(1);
    assert_eq!(desk.refused(newcomer), Refusal::UnknownMember);
}

#[test]
fn who_does_not_fetch_its_part_in_time_is_out() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.join(new_join(&ids[0]));
    desk.join(new_join(&ids[1]));
    desk.sync(claim(&ids[0], 2), &[]);
    assert_eq!(desk.state(), "Stable");
    let mut left_ms = REBALANCE_MS;
    while left_ms > 1 {
        let step_ms = (left_ms - 1).min(SESSION_MS - 1);
        desk.pass(step_ms);
        left_ms -= step_ms;
        assert_eq!(desk.heartbeat(&ids[0], 2), Ok(()));
        assert_eq!(desk.heartbeat(&ids[1], 2), Ok(()));
    }
    desk.pass(1);
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(&ids[1], 2), Err(Refusal::UnknownMember));
    assert_eq!(desk.heartbeat(&ids[0], 2), Err(Refusal::RebalanceInProgress));
}

#[test]
fn a_leader_that_never_assigns_is_removed_after_a_bounded_wait() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.join(new_join(&ids[0]));
    desk.join(new_join(&ids[1]));
    let parked = desk.sync(claim(&ids[1], 2), &[]);
    let mut left_ms = REBALANCE_MS;
    while left_ms > 0 {
        assert!(desk.waits(parked));
        assert_eq!(desk.heartbeat(&ids[0], 2), Ok(()));
        let step_ms = left_ms.min(SESSION_MS - 1);
        desk.pass(step_ms);
        left_ms -= step_ms;
    }
    assert_eq!(desk.refused(parked), Refusal::RebalanceInProgress);
    let token = desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(token).leader, ids[1]);
}

#[test]
fn a_group_that_all_abandon_becomes_empty() {
    let mut desk = Desk::new(rules());
    desk.stable(3);
    desk.pass(SESSION_MS);
    assert_eq!(desk.state(), "Empty");
    assert!(desk.machine.is_idle());
    assert_eq!(desk.machine.next_deadline_ms(), i64::MAX);
}

#[test]
fn emptiness_that_could_not_be_kept_is_tried_again() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    desk.hold = true;
    desk.leave(&[leaver(&ids[0])]);
    desk.fail();
    assert!(!desk.machine.is_idle());
    desk.hold = false;
    desk.pass(2_000);
    assert!(desk.machine.is_idle());
    assert!(desk.record.as_ref().unwrap().members.is_empty());
}

#[test]
fn a_rebalance_that_only_silent_static_members_remain_in_ends_with_their_sessions() {
    let mut desk = Desk::new(rules());
    let mut patient = static_join("a");
    patient.session_timeout_ms = 300_000;
    let ids = desk.stable_with(vec![patient, new_join("")]);
    let dynamic = ids.iter().find(|id| desk.instance_of(id).is_none()).unwrap().clone();
    desk.leave(&[leaver(&dynamic)]);
    desk.pass(REBALANCE_MS * 2);
    assert_eq!(desk.state(), "PreparingRebalance");
    desk.pass(300_000);
    assert_eq!(desk.state(), "Empty");
}
