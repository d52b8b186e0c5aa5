//! The leader's assignment and its delivery to all members.

use super::*;

/// A group of two whose joins are complete: (leader, follower, generation).
fn assigning(desk: &mut Desk) -> (String, String, i32) {
    let ids = desk.stable(2);
    desk.join(new_join(&ids[0]));
    desk.join(new_join(&ids[1]));
    assert_eq!(desk.state(), "CompletingRebalance");
    (ids[0].clone(), ids[1].clone(), 2)
}

#[test]
fn followers_wait_for_the_leader() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    let parked = desk.sync(claim(&follower, generation), &[]);
    assert!(desk.waits(parked));
    let first = desk.sync(claim(&leader, generation), &[&leader, &follower, "stranger"]);
    assert_eq!(desk.synced(first), &part_of(&leader));
    assert_eq!(desk.synced(parked), &part_of(&follower));
    assert!(!desk.record.as_ref().unwrap().members.contains_key("stranger"));
}

#[test]
fn who_comes_late_gets_it_too_and_who_was_forgotten_gets_nothing() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    desk.sync(claim(&leader, generation), &[&leader]);
    assert_eq!(desk.state(), "Stable");
    let late = desk.sync(claim(&follower, generation), &[&follower]);
    assert_eq!(desk.synced(late), &Bytes::new(), "only the leader assigns");
}

#[test]
fn an_assignment_is_not_sent_before_it_is_durable() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    desk.hold = true;
    let first = desk.sync(claim(&leader, generation), &[&leader, &follower]);
    let parked = desk.sync(claim(&follower, generation), &[]);
    assert!(desk.waits(first) && desk.waits(parked));
    desk.release();
    assert_eq!(desk.synced(parked), &part_of(&follower));
}

#[test]
fn a_leader_that_asks_again_does_not_assign_again() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    desk.hold = true;
    let first = desk.sync(claim(&leader, generation), &[&leader, &follower]);
    let second = desk.sync(claim(&leader, generation), &[]);
    assert_eq!(desk.refused(first), Refusal::RebalanceInProgress);
    desk.release();
    assert_eq!(desk.synced(second), &part_of(&leader));
}

#[test]
fn an_assignment_that_cannot_be_stored_is_not_sent() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    desk.hold = true;
    let parked = desk.sync(claim(&follower, generation), &[]);
    let first = desk.sync(claim(&leader, generation), &[&leader, &follower]);
    desk.fail();
    assert_eq!(desk.refused(first), Refusal::NotAvailable);
    assert_eq!(desk.refused(parked), Refusal::NotAvailable);
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_rebalance_overtakes_an_assignment_that_is_being_kept() {
    let mut desk = Desk::new(rules());
    let (leader, follower, generation) = assigning(&mut desk);
    desk.hold = true;
    let first = desk.sync(claim(&leader, generation), &[&leader, &follower]);
    let newcomer = desk.join(new_join(""));
    assert_eq!(desk.refused(first), Refusal::RebalanceInProgress);
    desk.hold = false;
    desk.release();
    assert_eq!(desk.state(), "PreparingRebalance");
    desk.join(new_join(&leader));
    desk.join(new_join(&follower));
    assert_eq!(desk.joined(newcomer).generation, generation + 1);
}

#[test]
fn claims_are_checked() {
    let mut desk = Desk::new(rules());
    let token = desk.sync(claim("m", 1), &[]);
    assert_eq!(desk.refused(token), Refusal::UnknownMember);
    let (leader, follower, generation) = assigning(&mut desk);
    let token = desk.sync(claim(&leader, generation - 1), &[]);
    assert_eq!(desk.refused(token), Refusal::IllegalGeneration);
    let token = desk.sync(claim("ghost", generation), &[]);
    assert_eq!(desk.refused(token), Refusal::UnknownMember);
    let wrong = SyncRequest {
        claim: claim(&follower, generation),
        protocol_type: Some("consumer".to_owned()),
        protocol: Some("sticky".to_owned()),
        assignments: Vec::new(),
    };
    let output = desk.machine.sync(wrong.clone(), 900, desk.now_ms);
    desk.take_in(output);
    assert_eq!(desk.refused(900), Refusal::InconsistentProtocol);
    let wrong = SyncRequest { protocol: None, protocol_type: Some("connect".to_owned()), ..wrong };
    let output = desk.machine.sync(wrong, 901, desk.now_ms);
    desk.take_in(output);
    assert_eq!(desk.refused(901), Refusal::InconsistentProtocol);
    desk.join(new_join(""));
    let token = desk.sync(claim(&follower, generation), &[]);
    assert_eq!(desk.refused(token), Refusal::RebalanceInProgress);
}

#[test]
fn heartbeats_are_welcome_before_the_assignment() {
    let mut desk = Desk::new(rules());
    let (_, follower, generation) = assigning(&mut desk);
    assert_eq!(desk.heartbeat(&follower, generation), Ok(()));
    assert_eq!(desk.heartbeat(&follower, generation - 1), Err(Refusal::IllegalGeneration));
}
