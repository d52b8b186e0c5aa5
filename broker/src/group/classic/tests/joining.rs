//! Tests of joins, leaves, limits, protocols.

use super::*;
use crate::group::SizeLimit;
use crate::limits;

#[test]
fn from_v4_a_new_member_must_come_back_with_its_id() {
    let mut desk = Desk::new(rules());
    let mut ask = new_join("");
    ask.needs_known_id = true;
    let token = desk.join(ask.clone());
    let Some(Reply::NotJoined { member_id, refusal }) = desk.replies.get(&token) else { panic!() };
    assert_eq!(*refusal, Refusal::MemberIdRequired);
    let member_id = member_id.clone();
    assert_eq!(desk.state(), "Empty");
    ask.member_id.clone_from(&member_id);
    let token = desk.join(ask);
    assert_eq!(desk.joined(token).member_id, member_id);
}

#[test]
fn an_unused_id_expires_and_then_holds_up_nothing() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    let mut ask = new_join("");
    ask.needs_known_id = true;
    desk.join(ask);
    assert_eq!(desk.state(), "Stable", "an id alone changes nothing");
    let token = desk.join(new_join(&ids[0]));
    assert!(desk.waits(token), "the rebalance waits for the unused id");
    desk.pass(SESSION_MS);
    assert_eq!(desk.joined(token).generation, 2);
    assert_eq!(desk.joined(token).members.len(), 1);
}

#[test]
fn an_id_that_was_never_issued_is_unknown() {
    let mut desk = Desk::new(rules());
    let token = desk.join(new_join("ghost"));
    assert_eq!(desk.refused(token), Refusal::UnknownMember);
    desk.stable(1);
    let token = desk.join(new_join("ghost"));
    assert_eq!(desk.refused(token), Refusal::UnknownMember);
}

#[test]
fn the_first_rebalance_waits_for_company_and_longer_while_it_comes() {
    let mut desk = Desk::new(Rules::default());
    let first = desk.join(new_join(""));
    desk.pass(2_000);
    let second = desk.join(new_join(""));
    desk.pass(1_000);
    assert!(desk.waits(first), "a member joined: the delay is extended");
    desk.pass(2_999);
    assert!(desk.waits(second));
    desk.pass(1);
    assert_eq!(desk.joined(first).generation, 1);
    assert_eq!(desk.joined(second).generation, 1);
    let leaders = [first, second].map(|t| desk.joined(t).members.len());
    assert_eq!(leaders, [2, 0], "only the leader receives the members");
}

#[test]
fn company_extends_the_wait_no_further_than_the_rebalance_timeout() {
    let mut desk = Desk::new(Rules::default());
    let mut join = new_join("");
    join.rebalance_timeout_ms = 7_000;
    let first = desk.join(join.clone());
    for _ in 0..6 {
        desk.pass(1_000);
        desk.join(join.clone());
    }
    desk.pass(999);
    assert!(desk.waits(first));
    desk.pass(1);
    assert_eq!(desk.joined(first).members.len(), 7);
}

#[test]
fn a_group_whose_only_member_left_before_the_delay_ended_is_empty() {
    let mut desk = Desk::new(Rules::default());
    let mut ask = new_join("");
    ask.needs_known_id = true;
    let token = desk.join(ask.clone());
    let Some(Reply::NotJoined { member_id, .. }) = desk.replies.get(&token) else { panic!() };
    ask.member_id = member_id.clone();
    let token = desk.join(ask.clone());
    assert_eq!(desk.leave(&[leaver(&ask.member_id)]), [Ok(())]);
    assert_eq!(desk.refused(token), Refusal::UnknownMember);
    desk.pass(3_000);
    assert_eq!(desk.state(), "Empty");
    assert!(desk.machine.is_idle());
}

#[test]
fn a_newcomer_makes_everybody_join_again() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let newcomer = desk.join(new_join(""));
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::RebalanceInProgress));
    let first = desk.join(new_join(&ids[0]));
    assert!(desk.waits(newcomer) && desk.waits(first));
    let second = desk.join(new_join(&ids[1]));
    for token in [newcomer, first, second] {
        assert_eq!(desk.joined(token).generation, 2);
        assert_eq!(desk.joined(token).leader, ids[0], "the leader stays");
    }
    assert_eq!(desk.joined(first).members.len(), 3);
}

#[test]
fn who_does_not_join_in_time_is_out() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let waiting = desk.join(Join { protocols: other_topics(), ..new_join(&ids[1]) });
    // The leader is alive and does not join.
    let mut left_ms = REBALANCE_MS;
    while left_ms > 5_000 {
        desk.pass(5_000);
        left_ms -= 5_000;
        assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::RebalanceInProgress));
    }
    assert!(desk.waits(waiting));
    desk.pass(left_ms);
    let joined = desk.joined(waiting);
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
    assert_eq!(joined.leader, ids[1]);
    assert_eq!(desk.heartbeat(&ids[0], 1), Err(Refusal::UnknownMember));
}

fn other_topics() -> Vec<(String, Bytes)> {
    vec![("range".to_owned(), subscription(&["orders", "payments"]))]
}

impl Desk {
    fn refused_if_any(&self, token: Token) -> Option<Refusal> {
        match self.replies.get(&token) {
            Some(Reply::NotJoined { refusal, .. } | Reply::NotSynced(refusal)) => Some(*refusal),
            _ => None,
        }
    }
}

#[test]
fn a_follower_that_joins_again_gets_the_same_generation_but_a_leader_forces_a_rebalance() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let follower = desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(follower).generation, 1);
    assert!(desk.joined(follower).members.is_empty());
    assert_eq!(desk.state(), "Stable");
    let leader = desk.join(new_join(&ids[0]));
    assert!(desk.waits(leader));
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_follower_with_other_topics_forces_a_rebalance() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let token = desk.join(Join { protocols: other_topics(), ..new_join(&ids[1]) });
    assert!(desk.waits(token));
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_lost_join_answer_is_given_again_and_other_topics_start_over() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    desk.join(new_join(&ids[0]));
    desk.join(new_join(&ids[1]));
    assert_eq!(desk.state(), "CompletingRebalance");
    let again = desk.join(new_join(&ids[0]));
    assert_eq!((desk.joined(again).generation, desk.joined(again).members.len()), (2, 2));
    let again = desk.join(new_join(&ids[1]));
    assert_eq!((desk.joined(again).generation, desk.joined(again).members.len()), (2, 0));

    let parked = desk.sync(claim(&ids[1], 2), &[]);
    let changed = desk.join(Join { protocols: other_topics(), ..new_join(&ids[0]) });
    assert!(desk.waits(changed));
    assert_eq!(desk.refused(parked), Refusal::RebalanceInProgress);
}

#[test]
fn a_second_join_of_one_member_ends_the_first() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let first = desk.join(new_join(&ids[0]));
    let second = desk.join(new_join(&ids[0]));
    assert_eq!(desk.refused(first), Refusal::RebalanceInProgress);
    assert!(desk.waits(second));
}

#[test]
fn members_vote_for_a_protocol_that_all_support() {
    let lists = |names: &[&str]| -> Vec<(String, Bytes)> {
        names.iter().map(|name| ((*name).to_owned(), subscription(&["orders"]))).collect()
    };
    let with = |names: &[&str]| Join { protocols: lists(names), ..new_join("") };
    let mut desk = Desk::new(rules());
    desk.stable_with(vec![
        with(&["range", "sticky", "round"]),
        with(&["sticky", "round", "range"]),
        with(&["x", "sticky", "range"]),
    ]);
    assert_eq!(desk.machine.protocol.as_deref(), Some("sticky"));

    let token = desk.join(with(&["x"]));
    assert_eq!(desk.refused(token), Refusal::InconsistentProtocol, "not common to all");
    let token = desk.join(with(&[]));
    assert_eq!(desk.refused(token), Refusal::InconsistentProtocol);
    let token = desk.join(Join { protocol_type: "connect".to_owned(), ..with(&["sticky"]) });
    assert_eq!(desk.refused(token), Refusal::InconsistentProtocol);
    let token = desk.join(Join { protocol_type: String::new(), ..with(&["sticky"]) });
    assert_eq!(desk.refused(token), Refusal::InconsistentProtocol);
}

#[test]
fn an_empty_group_takes_any_protocol_type() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(1);
    desk.leave(&[leaver(&ids[0])]);
    assert_eq!(desk.state(), "Empty");
    let token = desk.join(Join { protocol_type: "connect".to_owned(), ..new_join("") });
    assert_eq!(desk.joined(token).protocol_type.as_deref(), Some("connect"));
}

#[test]
fn session_timeouts_have_bounds() {
    let mut desk = Desk::new(rules());
    for (timeout_ms, refused) in
        [(5_999, true), (6_000, false), (1_800_000, false), (1_800_001, true)]
    {
        let join = Join { session_timeout_ms: timeout_ms, ..new_join("") };
        let token = desk.join(join);
        let refusal = desk.refused_if_any(token);
        let expected = Refusal::InvalidSessionTimeout {
            asked_ms: timeout_ms,
            min_ms: 6_000,
            max_ms: 1_800_000,
        };
        assert_eq!(refusal, refused.then_some(expected), "{timeout_ms}");
    }
    let refusal = Refusal::InvalidSessionTimeout { asked_ms: 1, min_ms: 2, max_ms: 3 };
    let says = refusal.to_string();
    assert!(says.starts_with("session.timeout.ms is 1, must be between 2 (group.min."), "{says}");
}

#[test]
fn r1_what_a_member_says_about_itself_is_bounded() {
    let mut desk = Desk::new(rules());
    let metadata = |bytes: usize| vec![("range".to_owned(), Bytes::from(vec![0; bytes]))];
    let many = (0..65).map(|n| (format!("protocol-{n}"), Bytes::new())).collect();
    let long = "x".repeat(limits::MEMBER_NAME_BYTES_MAX + 1);
    let joins = [
        (Join { protocols: metadata(1 << 20), ..new_join("") }, SizeLimit::Member),
        (Join { protocols: many, ..new_join("") }, SizeLimit::Protocols),
        (Join { client_id: long.clone(), ..new_join("") }, SizeLimit::Name),
        (Join { instance_id: Some(long.clone()), ..new_join("") }, SizeLimit::Name),
        (Join { protocol_type: long, ..new_join("") }, SizeLimit::Name),
    ];
    for (join, expected) in joins {
        let token = desk.join(join);
        let refusal = desk.refused(token);
        let Refusal::TooLarge { what, size, size_max } = refusal else { panic!("{refusal:?}") };
        assert_eq!(what, expected);
        assert!(size > size_max, "{size} {size_max}");
    }
    assert_eq!(desk.machine.metadata_bytes(), 0, "nothing of them is kept");
}

#[test]
fn r1_what_a_group_keeps_of_its_members_is_bounded_and_counted() {
    let mut desk = Desk::new(rules());
    let large = |id: &str, bytes: usize| Join {
        protocols: vec![("range".to_owned(), Bytes::from(vec![0; bytes]))],
        ..new_join(id)
    };
    for _ in 0..4 {
        desk.join(large("", 1_000_000));
    }
    let before = desk.machine.metadata_bytes();
    assert!((4_000_000..limits::GROUP_METADATA_BYTES_MAX).contains(&before), "{before}");
    let token = desk.join(large("", 1_000_000));
    let expected = SizeLimit::Group;
    let refusal = desk.refused(token);
    assert!(matches!(refusal, Refusal::TooLarge { what, .. } if what == expected), "{refusal:?}");
    assert_eq!(desk.machine.metadata_bytes(), before);

    let ids: Vec<String> = desk.machine.members.iter().map(|(id, _)| id.clone()).collect();
    let token = desk.join(large(&ids[0], 1_000_000));
    let refusal = desk.refused_if_any(token);
    assert_eq!(refusal, None, "a member that comes again replaces what it said before");
    assert_eq!(desk.machine.metadata_bytes(), before);
    desk.leave(&ids.iter().map(|id| leaver(id)).collect::<Vec<_>>());
    assert_eq!(desk.machine.metadata_bytes(), 0);
}

#[test]
fn a_full_group_admits_no_further_member() {
    let mut desk = Desk::new(Rules { members_max: 2, ..rules() });
    let ids = desk.stable(2);
    let token = desk.join(new_join(""));
    assert_eq!(desk.refused(token), Refusal::GroupFull { members_max: 2 });
    assert_eq!(desk.state(), "Stable");
    let token = desk.join(new_join(&ids[0]));
    assert!(desk.waits(token), "those that are in stay in");
    let token = desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(token).generation, 2);
}

#[test]
fn when_the_limit_was_lowered_the_last_to_come_back_is_out() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(3);
    desk.machine.rules.members_max = 2;
    let tokens: Vec<_> = ids.iter().map(|id| desk.join(new_join(id))).collect();
    assert_eq!(desk.refused(tokens[2]), Refusal::GroupFull { members_max: 2 });
    assert_eq!(desk.joined(tokens[0]).members.len(), 2);
    assert_eq!(desk.joined(tokens[1]).generation, 2);
}

#[test]
fn leaving_starts_a_rebalance_and_the_last_one_leaves_an_empty_group() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    assert_eq!(
        desk.leave(&[leaver(&ids[0]), leaver("ghost")]),
        [Ok(()), Err(Refusal::UnknownMember)]
    );
    assert_eq!(desk.state(), "PreparingRebalance");
    let token = desk.join(new_join(&ids[1]));
    assert_eq!(desk.joined(token).leader, ids[1]);
    assert_eq!(desk.leave(&[leaver(&ids[1])]), [Ok(())]);
    assert_eq!(desk.state(), "Empty");
    assert_eq!(desk.machine.generation, 3);
    let record = desk.record.as_ref().unwrap();
    assert_eq!((record.generation, record.members.len()), (3, 0));
    assert!(desk.machine.is_idle());
}

#[test]
fn leaving_while_one_waits_ends_the_wait() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let join = desk.join(new_join(&ids[0]));
    desk.leave(&[leaver(&ids[0])]);
    assert_eq!(desk.refused(join), Refusal::UnknownMember);
    desk.join(new_join(&ids[1]));
    let parked = desk.sync(claim(&ids[1], 2), &[]);
    assert!(!desk.waits(parked));
}

#[test]
fn the_last_that_was_waited_for_leaves_and_the_others_go_on() {
    let mut desk = Desk::new(rules());
    let ids = desk.stable(2);
    let join = desk.join(new_join(&ids[0]));
    assert!(desk.waits(join));
    desk.leave(&[leaver(&ids[1])]);
    assert_eq!(desk.joined(join).generation, 2);
}

#[test]
fn an_administrator_removes_static_members_by_instance_id() {
    let mut desk = Desk::new(rules());
    desk.stable_with(vec![static_join("a"), static_join("b")]);
    let by_instance =
        |id: &str| Leaver { member_id: String::new(), instance_id: Some(id.to_owned()) };
    let results = desk.leave(&[by_instance("a"), by_instance("c"), leaver("")]);
    assert_eq!(results, [Ok(()), Err(Refusal::UnknownMember), Err(Refusal::UnknownMember)]);
    assert_eq!(desk.machine.members.len(), 1);
    assert_eq!(desk.state(), "PreparingRebalance");
}
