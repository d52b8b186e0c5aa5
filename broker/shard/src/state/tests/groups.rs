//! Committed offsets and generations of groups.

use super::*;

#[test]
fn o3_only_the_current_generation_commits() {
    let mut state = opened();
    assert_eq!(change(&mut state, commit(None, 1)), Outcome::Done);
    change(&mut state, generation(2, &["m"]));
    let refused = |r| Outcome::GroupRefused(r);
    assert_eq!(
        change(&mut state, commit(Some(("m", 1)), 9)),
        refused(group::Refusal::IllegalGeneration)
    );
    assert_eq!(
        change(&mut state, commit(Some(("x", 2)), 9)),
        refused(group::Refusal::UnknownMember)
    );
    assert_eq!(change(&mut state, commit(None, 9)), refused(group::Refusal::UnknownMember));
    let delete = ShardCommand::DeleteGroup { group: "g".into() };
    assert_eq!(change(&mut state, delete), refused(group::Refusal::NotEmpty));
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 1);
    // A later commit replaces, also a lower one.
    assert_eq!(change(&mut state, commit(Some(("m", 2)), 4)), Outcome::Done);
    assert_eq!(change(&mut state, commit(Some(("m", 2)), 3)), Outcome::Done);
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 3);
}

#[test]
fn o3_the_old_process_of_a_static_member_is_fenced() {
    let mut state = opened();
    let ShardCommand::SetGeneration(mut set) = generation(1, &["new"]) else { unreachable!() };
    set.members[0].instance_id = Some("place".into());
    change(&mut state, ShardCommand::SetGeneration(set));
    let admit = |member_id: &str| {
        let instance_id = Some("place".to_owned());
        let claim = MemberClaim { member_id: member_id.into(), instance_id, generation: 1 };
        state.groups["g"].admit(Some(&claim))
    };
    assert_eq!(admit("new"), Ok(()));
    assert_eq!(admit("old"), Err(group::Refusal::FencedInstance));
}

#[test]
fn a_group_without_members_knows_since_when() {
    let mut state = opened();
    change(&mut state, generation(1, &["m"]));
    assert_eq!(state.groups["g"].empty_since_ms, None);
    change(&mut state, generation(2, &[]));
    assert!(state.groups["g"].empty_since_ms.is_some(), "its offsets age from here on");
}

#[test]
fn o3_an_offset_that_was_committed_again_does_not_expire() {
    let mut state = opened();
    change(&mut state, commit(None, 1));
    let committed_ms = state.groups["g"].offsets[&partition()].time_ms;
    let expire = |committed_ms| ShardCommand::ExpireOffsets {
        group: "g".into(),
        offsets: vec![(partition(), committed_ms)],
    };
    assert_eq!(change(&mut state, expire(committed_ms - 1)), Outcome::Done);
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 1);
    change(&mut state, generation(1, &["m"]));
    assert_eq!(change(&mut state, expire(committed_ms)), Outcome::Done);
    assert!(state.groups["g"].offsets.is_empty(), "it has members, and stays");
    change(&mut state, generation(2, &[]));
    assert_eq!(change(&mut state, expire(committed_ms)), Outcome::Done);
    assert!(!state.groups.contains_key("g"), "neither members nor offsets are left");
    let refused = Outcome::GroupRefused(group::Refusal::NoSuchGroup);
    assert_eq!(change(&mut state, expire(committed_ms)), refused);
}

#[test]
fn deleting_topics_forgets_what_was_committed_for_them() {
    let mut state = opened();
    change(&mut state, commit(None, 1));
    change(&mut state, ShardCommand::RemoveTopics(vec![partition().topic]));
    assert!(state.groups["g"].offsets.is_empty());
}

#[test]
fn a_bound_group_begins_only_where_it_has_committed_nothing() {
    let mut state = opened();
    let second = PartitionId { index: 1, ..partition() };
    change(&mut state, commit(None, 4));
    let group = "g".to_owned();
    let offsets = vec![(partition(), 0), (second, 9)];
    let (_, effects) =
        run(&mut state, Command::Shard(ShardCommand::StartOffsets { group, offsets }));
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 4, "O3: a commit is kept");
    assert_eq!(state.groups["g"].offsets[&second].offset, 9);
    assert_eq!(effects, [Effect::GroupChanged("g".into())], "nothing was processed");
    let (group, offsets) = ("h".to_owned(), vec![]);
    change(&mut state, ShardCommand::StartOffsets { group, offsets });
    assert!(!state.groups.contains_key("h"), "nothing to begin with makes no group");
}
