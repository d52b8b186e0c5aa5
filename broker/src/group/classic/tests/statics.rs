//! Static members: a process that returns with its instance id (KIP-345, KIP-814).

use super::*;

fn wants(instance: &str, topics: &[&str]) -> Join {
    Join { protocols: vec![("range".to_owned(), subscription(topics))], ..static_join(instance) }
}

/// Two static members; (leader's, follower's) instance id and member id.
fn pair(desk: &mut Desk) -> [(String, String); 2] {
    let ids = desk.stable_with(vec![static_join("a"), static_join("b")]);
    [0, 1].map(|i| (desk.instance_of(&ids[i]).unwrap(), ids[i].clone()))
}

fn of(instance: &str, member_id: &str, generation: i32) -> MemberClaim {
    MemberClaim { instance_id: Some(instance.to_owned()), ..claim(member_id, generation) }
}

#[test]
fn a_restarted_static_follower_keeps_its_assignment_without_a_rebalance() {
    let mut desk = Desk::new(rules());
    let [leader, follower] = pair(&mut desk);
    let token = desk.join(static_join(&follower.0));
    let joined = desk.joined(token).clone();
    assert_ne!(joined.member_id, follower.1);
    assert_eq!((joined.generation, joined.skip_assignment), (1, false));
    assert_eq!((joined.leader.as_str(), joined.members.len()), (leader.1.as_str(), 0));
    assert_eq!(desk.state(), "Stable");
    assert_eq!(desk.machine.heartbeat(&of(&leader.0, &leader.1, 1), desk.now_ms), Ok(()));
    let sync = desk.sync(of(&follower.0, &joined.member_id, 1), &[]);
    assert_eq!(desk.synced(sync), &part_of(&follower.1));
    assert!(desk.record.as_ref().unwrap().members.contains_key(&joined.member_id));
}

#[test]
fn the_old_process_is_fenced_in_everything() {
    let mut desk = Desk::new(rules());
    let [_, follower] = pair(&mut desk);
    desk.join(static_join(&follower.0));
    let old = of(&follower.0, &follower.1, 1);
    let now_ms = desk.now_ms;
    assert_eq!(desk.machine.heartbeat(&old, now_ms), Err(Refusal::FencedInstance));
    assert_eq!(desk.machine.check_commit(Some(&old), now_ms), Err(Refusal::FencedInstance));
    let token = desk.sync(old, &[]);
    assert_eq!(desk.refused(token), Refusal::FencedInstance);
    let token = desk.join(Join { member_id: follower.1.clone(), ..static_join(&follower.0) });
    assert_eq!(desk.refused(token), Refusal::FencedInstance);
    let leaver = Leaver { member_id: follower.1.clone(), instance_id: Some(follower.0.clone()) };
    assert_eq!(desk.leave(&[leaver]), [Err(Refusal::FencedInstance)]);
    // Without the instance id the member is unknown.
    let unnamed = claim(&follower.1, 1);
    assert_eq!(desk.machine.heartbeat(&unnamed, now_ms), Err(Refusal::UnknownMember));
}

#[test]
fn what_the_old_process_waited_for_ends_fenced() {
    let mut desk = Desk::new(rules());
    let [leader, follower] = pair(&mut desk);
    let old = desk.join(Join { member_id: leader.1, ..static_join(&leader.0) });
    assert!(desk.waits(old));
    let new = desk.join(static_join(&leader.0));
    assert_eq!(desk.refused(old), Refusal::FencedInstance);
    assert!(desk.waits(new));
    let other = desk.join(Join { member_id: follower.1, ..static_join(&follower.0) });
    assert_eq!(desk.joined(new).generation, 2);
    assert_eq!(desk.joined(other).leader, desk.joined(new).member_id);
}

#[test]
fn a_restarted_static_leader_skips_the_assignment() {
    let mut desk = Desk::new(rules());
    let [leader, _] = pair(&mut desk);
    let token = desk.join(static_join(&leader.0));
    let joined = desk.joined(token);
    assert!(joined.skip_assignment);
    assert_eq!(joined.leader, joined.member_id, "it leads, and watches the topics");
    assert_eq!((joined.generation, joined.members.len()), (1, 2));
    assert_eq!(desk.state(), "Stable");
}

#[test]
fn before_kip_814_a_restarted_leader_gets_its_old_id_as_leader() {
    let mut desk = Desk::new(rules());
    let [leader, _] = pair(&mut desk);
    let token = desk.join(Join { can_skip_assignment: false, ..static_join(&leader.0) });
    let joined = desk.joined(token);
    assert!(!joined.skip_assignment);
    assert_eq!((joined.leader.as_str(), joined.members.len()), (leader.1.as_str(), 0));
    assert_eq!(desk.state(), "Stable");
}

#[test]
fn other_topics_or_another_protocol_make_a_rebalance() {
    let mut desk = Desk::new(rules());
    let [_, follower] = pair(&mut desk);
    let token = desk.join(wants(&follower.0, &["orders", "refunds"]));
    assert!(desk.waits(token));
    assert_eq!(desk.state(), "PreparingRebalance");

    let mut desk = Desk::new(rules());
    let both = |first: &str, second: &str, instance: &str| Join {
        protocols: [first, second].map(|p| (p.to_owned(), subscription(&["orders"]))).into(),
        ..static_join(instance)
    };
    let ids = desk.stable_with(vec![both("range", "sticky", "a"), both("range", "sticky", "b")]);
    let follower = desk.instance_of(&ids[1]).unwrap();
    let token = desk.join(Join {
        protocols: vec![("sticky".to_owned(), subscription(&["orders"]))],
        ..static_join(&follower)
    });
    assert!(desk.waits(token), "range is no longer common to all");
}

#[test]
fn what_a_consumer_owned_before_is_no_reason_to_rebalance() {
    let mut desk = Desk::new(rules());
    let [_, follower] = pair(&mut desk);
    let mut owns = subscription(&["orders"]).to_vec();
    owns.extend([0, 0, 0, 0]);
    let protocols = vec![("range".to_owned(), Bytes::from(owns))];
    let token = desk.join(Join { protocols, ..static_join(&follower.0) });
    assert_eq!(desk.joined(token).generation, 1);
}

#[test]
fn a_takeover_before_the_assignment_starts_over() {
    let mut desk = Desk::new(rules());
    let [leader, follower] = pair(&mut desk);
    desk.join(Join { member_id: leader.1.clone(), ..static_join(&leader.0) });
    desk.join(Join { member_id: follower.1, ..static_join(&follower.0) });
    assert_eq!(desk.state(), "CompletingRebalance");
    let token = desk.join(static_join(&follower.0));
    assert!(desk.waits(token), "the leader assigns to the old id");
    assert_eq!(desk.state(), "PreparingRebalance");
    let other = desk.join(Join { member_id: leader.1, ..static_join(&leader.0) });
    assert_eq!(desk.joined(other).generation, 3);
    assert_eq!(desk.joined(token).generation, 3);
}

#[test]
fn a_silent_static_member_outlives_the_rebalance_but_not_its_session() {
    let mut desk = Desk::new(rules());
    let mut patient = static_join("a");
    patient.session_timeout_ms = 120_000;
    let ids = desk.stable_with(vec![patient, new_join("")]);
    let dynamic = ids.iter().find(|id| desk.instance_of(id).is_none()).unwrap().clone();
    let newcomer = desk.join(new_join(""));
    let again = desk.join(new_join(&dynamic));
    desk.pass(REBALANCE_MS);
    assert_eq!(desk.joined(again).generation, 2);
    let leader = [again, newcomer].into_iter().find(|t| !desk.joined(*t).members.is_empty());
    assert_eq!(desk.joined(leader.unwrap()).members.len(), 3, "the static one keeps its place");
}

#[test]
fn a_full_group_lets_a_static_member_back_in() {
    let mut desk = Desk::new(Rules { members_max: 2, ..rules() });
    let [_, follower] = pair(&mut desk);
    let token = desk.join(static_join(&follower.0));
    assert_eq!(desk.joined(token).generation, 1);
    let token = desk.join(static_join("c"));
    assert_eq!(desk.refused(token), Refusal::GroupFull { members_max: 2 });
}

#[test]
fn a_takeover_is_not_published_before_it_is_durable() {
    let mut desk = Desk::new(rules());
    let [_, follower] = pair(&mut desk);
    desk.hold = true;
    let token = desk.join(static_join(&follower.0));
    assert!(desk.waits(token));
    desk.fail();
    assert_eq!(desk.refused(token), Refusal::NotAvailable);
    let token = desk.join(static_join(&follower.0));
    desk.release();
    assert_eq!(desk.joined(token).generation, 1);
    assert_eq!(desk.state(), "Stable");
}

#[test]
fn a_rebalance_during_a_takeover_takes_the_newcomer_along() {
    let mut desk = Desk::new(rules());
    let [leader, follower] = pair(&mut desk);
    desk.hold = true;
    let back = desk.join(static_join(&follower.0));
    let newcomer = desk.join(new_join(""));
    desk.hold = false;
    desk.release();
    assert!(desk.waits(back));
    desk.join(Join { member_id: leader.1, ..static_join(&leader.0) });
    assert_eq!(desk.joined(back).generation, 2);
    assert_eq!(desk.joined(newcomer).generation, 2);
}
