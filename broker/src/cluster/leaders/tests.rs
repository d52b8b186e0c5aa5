//! Who leads a shard, by reports in any order.

use proptest::prelude::*;

use super::super::report::{Flags, LedShard};
use super::*;
use ropewalk_shard::ReplicaId;

const SHARD: ShardId = ShardId(3);

fn report(broker: i32, (incarnation, sequence): (u64, u64), led: &[(ShardId, u64)]) -> Report {
    let led = led.iter().map(|(shard, term)| LedShard {
        shard: *shard,
        term: *term,
        replica: ReplicaId(1),
        bytes_per_second: 0,
        members: Vec::new(),
    });
    let flags = Flags::default();
    Report { broker: BrokerId(broker), incarnation, sequence, flags, led: led.collect() }
}

fn leader(broker: i32, term: u64) -> Option<Leader> {
    Some(Leader { broker: BrokerId(broker), term })
}

fn seen(term: u64, leader: Option<i32>) -> Option<Seen> {
    Some(Seen { term, leader: leader.map(BrokerId) })
}

#[test]
fn the_highest_term_wins_whoever_says_it() {
    let mut leaders = Leaders::default();
    let now = Instant::now();
    assert_eq!(leaders.leader(SHARD, None), None);
    leaders.hear(report(1, (1, 1), &[(SHARD, 5)]), now);
    leaders.hear(report(2, (1, 1), &[(SHARD, 7), (ShardId(4), 1)]), now);
    leaders.hear(report(3, (1, 1), &[(SHARD, 6)]), now);
    assert_eq!(leaders.leader(SHARD, None), leader(2, 7));
    assert_eq!(leaders.leader(SHARD, seen(6, Some(3))), leader(2, 7));
    assert_eq!(leaders.leader(SHARD, seen(7, None)), leader(2, 7), "its own vote, no news yet");
    assert_eq!(leaders.leader(SHARD, seen(8, Some(4))), leader(4, 8));
    assert_eq!(leaders.leader(SHARD, seen(8, None)), None, "the reported one has lost");
    assert_eq!(leaders.leader(ShardId(9), None), None);
}

#[test]
fn a_broker_whose_process_has_ended_leads_nothing_and_is_named_no_more() {
    let mut leaders = Leaders::default();
    let now = Instant::now();
    leaders.hear(report(1, (1, 5), &[(SHARD, 5)]), now);
    leaders.hear(report(2, (1, 5), &[(ShardId(4), 2)]), now);
    leaders.remove(BrokerId(1));
    assert_eq!(leaders.leader(SHARD, seen(5, None)), None);
    assert_eq!(leaders.last(SHARD, None), Seen { term: 5, leader: None });
    assert!(!leaders.is_fresh(BrokerId(1), now) && leaders.is_fresh(BrokerId(2), now));
    assert_eq!(leaders.leader(ShardId(4), None), leader(2, 2), "another one");
    leaders.hear(report(1, (2, 1), &[(SHARD, 6)]), now);
    assert_eq!(leaders.leader(SHARD, None), leader(1, 6), "its next process");
}

#[test]
fn a_report_replaces_the_earlier_one_of_its_broker_and_no_later_one() {
    let mut leaders = Leaders::default();
    let now = Instant::now();
    assert_eq!(leaders.hear(report(1, (1, 5), &[(SHARD, 5)]), now), News::Leaders);
    assert_eq!(leaders.hear(report(1, (1, 5), &[]), now), News::Outdated);
    assert_eq!(leaders.hear(report(1, (1, 4), &[]), now), News::Outdated);
    assert_eq!(leaders.leader(SHARD, None), leader(1, 5));
    assert_eq!(leaders.hear(report(1, (1, 6), &[(SHARD, 5)]), now), News::Same);
    assert_eq!(leaders.hear(report(1, (2, 1), &[]), now), News::Leaders, "it has started again");
    assert_eq!(leaders.leader(SHARD, None), None);
    assert_eq!(leaders.hear(report(1, (1, 9), &[(SHARD, 5)]), now), News::Outdated);
    assert_eq!(leaders.reports().len(), 1);
}

#[test]
fn a_broker_that_is_neither_connected_nor_heard_of_leads_nothing() {
    let mut leaders = Leaders::default();
    let start = Instant::now();
    leaders.hear(report(1, (1, 1), &[(SHARD, 5)]), start);
    leaders.hear(report(2, (1, 1), &[(SHARD, 6)]), start);
    let late = start + ALIVE_MAX;
    assert!(leaders.is_fresh(BrokerId(1), late - Duration::from_millis(1)));
    assert!(!leaders.is_fresh(BrokerId(1), late));
    assert!(!leaders.is_fresh(BrokerId(3), start), "never heard of");
    assert!(!leaders.forget_dead(late - Duration::from_millis(1), |_| false));
    assert!(leaders.forget_dead(late, |broker| broker == BrokerId(1)));
    assert_eq!(leaders.leader(SHARD, None), leader(1, 5));
    assert_eq!(leaders.led(SHARD).map(|led| led.term), Some(5));
    assert!(!leaders.forget_dead(late, |broker| broker == BrokerId(1)), "none is left");
}

/// Clients are informed of a leader that only this broker does not reach.
#[test]
fn the_last_leader_is_kept_until_another_one_is_known() {
    let mut leaders = Leaders::default();
    let (start, late, last) = (Instant::now(), Instant::now() + ALIVE_MAX, ShardId(4));
    let led_last = |leaders: &Leaders, broker| {
        let mut shards: Vec<_> = leaders.last_led(BrokerId(broker)).collect();
        shards.sort_unstable();
        shards
    };
    let is = |term, broker: Option<i32>| Seen { term, leader: broker.map(BrokerId) };
    assert_eq!(leaders.last(SHARD, None), is(0, None));
    assert_eq!(leaders.last(SHARD, seen(2, None)), is(2, None));
    leaders.hear(report(1, (1, 1), &[(SHARD, 5), (last, 3)]), start);
    assert!(leaders.forget_dead(late, |_| false));
    assert_eq!(leaders.leader(SHARD, seen(5, None)), None, "no decision is made by it");
    assert_eq!(leaders.last(SHARD, seen(5, None)), is(5, Some(1)));
    assert_eq!(leaders.last(SHARD, None), is(5, Some(1)));
    assert_eq!(leaders.last(SHARD, seen(6, None)), is(6, None), "it has lost");
    assert_eq!(leaders.last(SHARD, seen(6, Some(3))), is(6, Some(3)));
    assert_eq!(led_last(&leaders, 1), [SHARD, last]);

    leaders.hear(report(2, (1, 1), &[(SHARD, 6)]), late);
    assert_eq!(leaders.last(SHARD, seen(5, None)), is(6, Some(2)));
    assert_eq!((led_last(&leaders, 1), led_last(&leaders, 2)), (vec![last], vec![SHARD]));
    // It comes back and reports again.
    leaders.hear(report(1, (2, 1), &[(last, 4)]), late);
    leaders.hear(report(1, (2, 2), &[]), late);
    assert_eq!(leaders.last(last, None), is(4, None), "it said so itself");
    // It leads a shard again, in a later term.
    leaders.hear(report(2, (1, 2), &[(SHARD, 8)]), late);
    assert!(leaders.forget_dead(late + ALIVE_MAX, |_| false));
    assert_eq!(leaders.last(SHARD, None), is(8, Some(2)));
    leaders.hear(report(1, (2, 3), &[(SHARD, 7)]), late);
    assert_eq!(leaders.last(SHARD, seen(9, None)), is(9, None));
}

proptest! {
    /// Whatever order reports arrive in, the table ends as if only the last of each broker had
    /// come.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        sent in proptest::collection::vec((0_i32..3, 0_u64..3, 0_u64..20, 0_u64..9), 1..30),
        keys in proptest::collection::vec(any::<u32>(), 30),
    ) {
        let now = Instant::now();
        // One report for each order of a broker, as a broker never sends two.
        let all: BTreeMap<(i32, u64, u64), u64> =
            sent.iter().map(|(broker, start, at, term)| ((*broker, *start, *at), *term)).collect();
        let mut arrivals: Vec<_> = all.iter().zip(&keys).collect();
        arrivals.sort_by_key(|(_, key)| **key);
        let (mut found, mut expected) = (Leaders::default(), BTreeMap::new());
        for ((&(broker, start, at), &term), _) in arrivals {
            found.hear(report(broker, (start, at), &[(SHARD, term)]), now);
        }
        for (&(broker, ..), &term) in &all {
            // In the order of the map: the last is the newest.
            expected.insert(broker, term);
        }
        let terms: BTreeMap<i32, u64> = found
            .heard
            .iter()
            .map(|(broker, heard)| (broker.0, heard.terms[&SHARD]))
            .collect();
        prop_assert_eq!(&terms, &expected);
        let highest = expected.values().max().copied();
        prop_assert_eq!(found.leader(SHARD, None).map(|leader| leader.term), highest);
    }
}
