//! Decides which committed offsets expire.
//!
//! While a group has members its offsets are kept, except for topics that no member reads. After
//! the last member left they are kept for `offsets.retention.minutes`. Offsets of a group that
//! never had members (a simple consumer's) expire by the time of their commit. An expiry time set
//! by an old client replaces the retention. Offsets of a topic that the group is bound to never
//! expire.

use std::sync::Arc;

use ropewalk_shard::PartitionId;
use ropewalk_shard::state::Group;
use ropewalk_shard::state::group::CommittedOffset;

use super::subscription::SubscribedTopics;

/// The start of the retention time of a group's offsets.
enum Base<'a> {
    /// For all offsets: when the last member left.
    Since(i64),
    /// For each offset: its commit.
    Commit,
    /// For offsets of topics without a subscriber: their commit.
    CommitUnless(&'a SubscribedTopics),
    /// Nothing expires now: the group is rebalancing, or its subscriptions are unknown.
    Never,
}

/// The topic of an offset.
pub(crate) struct Topic {
    /// The current name of the topic.
    pub(crate) name: Arc<str>,
    /// Whether the group is bound to the topic.
    pub(crate) is_bound: bool,
}

/// The expired offsets, each with the time of its commit. `is_stable` is the coordinator's view of
/// the members; `topic` looks up a partition's topic.
pub(crate) fn expired(
    group: &Group,
    is_stable: bool,
    topic: impl Fn(&PartitionId) -> Option<Topic>,
    now_ms: i64,
    retention_ms: i64,
) -> Vec<(PartitionId, i64)> {
    let subscribed = SubscribedTopics::of(group);
    let base = base(group, is_stable, &subscribed);
    let is_old = |partition: &PartitionId, committed: &CommittedOffset| {
        let topic = topic(partition);
        if topic.as_ref().is_some_and(|topic| topic.is_bound) {
            return false;
        }
        let since_ms = match base {
            Base::Since(since_ms) => since_ms,
            Base::Commit => committed.time_ms,
            Base::CommitUnless(subscribed) => {
                // A topic without a name is deleted, and its offsets are removed with it.
                if topic.is_none_or(|topic| subscribed.includes(&topic.name)) {
                    return false;
                }
                committed.time_ms
            }
            Base::Never => return false,
        };
        match committed.expires_ms {
            Some(expires_ms) => now_ms >= expires_ms,
            None => now_ms.saturating_sub(since_ms) >= retention_ms,
        }
    };
    let offsets = group.offsets.iter();
    offsets
        .filter(|(id, committed)| is_old(id, committed))
        .map(|(id, c)| (*id, c.time_ms))
        .collect()
}

fn base<'a>(group: &Group, is_stable: bool, subscribed: &'a SubscribedTopics) -> Base<'a> {
    if group.protocol_type.is_empty() {
        return Base::Commit;
    }
    if group.members.is_empty() {
        return group.empty_since_ms.map_or(Base::Commit, Base::Since);
    }
    match subscribed {
        SubscribedTopics::To(_) if is_stable => Base::CommitUnless(subscribed),
        SubscribedTopics::To(_) | SubscribedTopics::Unknown => Base::Never,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use ropewalk_shard::TopicId;
    use ropewalk_shard::command::Member;
    use uuid::Uuid;

    use super::*;

    const RETENTION_MS: i64 = 1_000;

    fn orders() -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(1)), index: 0 }
    }

    fn refunds() -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(2)), index: 0 }
    }

    fn name(id: &PartitionId) -> Option<Topic> {
        let name = if *id == orders() { "orders" } else { "refunds" }.into();
        Some(Topic { name, is_bound: false })
    }

    fn committed(time_ms: i64, expires_ms: Option<i64>) -> CommittedOffset {
        CommittedOffset {
            offset: 5,
            leader_epoch: -1,
            metadata: String::new(),
            time_ms,
            expires_ms,
        }
    }

    fn group(protocol_type: &str) -> Group {
        let offsets = [(orders(), committed(100, None)), (refunds(), committed(200, None))].into();
        Group { protocol_type: protocol_type.into(), offsets, ..Group::default() }
    }

    fn with_member(mut group: Group, metadata: &'static [u8]) -> Group {
        let member = Member {
            member_id: "m".into(),
            instance_id: None,
            client_id: String::new(),
            client_host: String::new(),
            rebalance_timeout_ms: 0,
            session_timeout_ms: 0,
            protocols: vec![("range".into(), Bytes::from_static(metadata))],
            assignment: Bytes::new(),
        };
        group.protocol = Some("range".into());
        group.members = BTreeMap::from([("m".into(), member)]);
        group
    }

    fn ids(group: &Group, is_stable: bool, now_ms: i64) -> Vec<PartitionId> {
        let old = expired(group, is_stable, name, now_ms, RETENTION_MS);
        old.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_simple_groups_offsets_age_from_their_commit() {
        let group = group("");
        assert_eq!(ids(&group, false, 1_099), []);
        assert_eq!(ids(&group, false, 1_100), [orders()]);
        assert_eq!(ids(&group, false, 1_200), [orders(), refunds()]);
        let old = expired(&group, false, name, 1_100, RETENTION_MS);
        assert_eq!(old, [(orders(), 100)], "with the commit that grew old");
    }

    #[test]
    fn an_empty_groups_offsets_age_from_the_last_member_on() {
        let group = Group { empty_since_ms: Some(5_000), ..group("consumer") };
        assert_eq!(ids(&group, false, 5_999), []);
        assert_eq!(ids(&group, false, 6_000), [orders(), refunds()]);
    }

    #[test]
    fn offsets_of_a_stable_group_expire_only_for_unsubscribed_topics() {
        let reads_orders = b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff";
        let group = with_member(group("consumer"), reads_orders);
        assert_eq!(ids(&group, true, i64::MAX), [refunds()]);
        assert_eq!(ids(&group, true, 1_199), []);
        assert_eq!(ids(&group, false, i64::MAX), [], "not while it rebalances");
    }

    #[test]
    fn what_a_group_reads_may_be_unknown_and_then_nothing_ages() {
        let group = with_member(group("consumer"), b"?");
        assert_eq!(ids(&group, true, i64::MAX), []);
        let reads_orders = b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff";
        let group = with_member(self::group("connect"), reads_orders);
        assert_eq!(ids(&group, true, i64::MAX), []);
    }

    #[test]
    fn a_bound_groups_offsets_never_age() {
        let bound_to_orders =
            |id: &PartitionId| name(id).map(|topic| Topic { is_bound: *id == orders(), ..topic });
        let mut group = Group { empty_since_ms: Some(0), ..group("consumer") };
        group.offsets.insert(orders(), committed(100, Some(150)));
        let old = expired(&group, false, bound_to_orders, i64::MAX, RETENTION_MS);
        assert_eq!(old, [(refunds(), 200)]);
    }

    #[test]
    fn an_expiry_of_the_clients_own_counts_instead() {
        let mut group = group("");
        group.offsets.insert(orders(), committed(100, Some(150)));
        group.offsets.insert(refunds(), committed(100, Some(9_000)));
        assert_eq!(ids(&group, false, 149), []);
        assert_eq!(ids(&group, false, 150), [orders()]);
        assert_eq!(ids(&group, false, 8_999), [orders()]);
    }
}
