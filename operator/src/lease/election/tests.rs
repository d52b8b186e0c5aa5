//! Races for the Lease on a model of the API server: one object, stale writes are refused.

use proptest::prelude::*;

use super::*;

/// A model of the API server with one Lease.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    /// Carries a step out; `None` is a conflict.
    fn write(&mut self, step: Step) -> Option<Lease> {
        let mut lease = match step {
            Step::Wait => return None,
            Step::Create(lease) => {
                if self.lease.is_some() {
                    return None;
                }
                *lease
            }
            Step::Replace(lease) => {
                let current = self.lease.as_ref()?.metadata.resource_version.clone();
                if current != lease.metadata.resource_version {
                    return None;
                }
                *lease
            }
        };
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Some(lease)
    }
}

fn wall() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time")
}

fn candidate(identity: &str) -> Election {
    Election::new("ropewalk".into(), identity.into(), Timing::default())
}

fn turn(candidate: &mut Election, server: &mut Server, now: Instant) -> bool {
    let step = candidate.step(server.lease.clone().as_ref(), now, wall());
    match server.write(step) {
        Some(lease) => {
            candidate.wrote(&lease, now);
            true
        }
        None => false,
    }
}

fn holds(candidate: &Election, now: Instant) -> bool {
    candidate.holds_until().is_some_and(|until| now < until)
}

#[test]
fn k2_a_lease_lasts_as_long_as_its_holder_says() {
    let start = Instant::now();
    let timing = Timing { duration: Duration::from_secs(60), ..Timing::default() };
    let mut holder = Election::new("ropewalk".into(), "slow".into(), timing);
    let (mut server, mut other) = (Server::default(), candidate("other"));
    assert!(turn(&mut holder, &mut server, start));
    for second in [0, 30, 59] {
        let now = start + Duration::from_secs(second);
        assert!(!turn(&mut other, &mut server, now), "after {second} s of 60");
    }
    assert!(turn(&mut other, &mut server, start + Duration::from_secs(60)));
}

#[test]
fn k2_an_expired_lease_is_taken_by_one_of_two() {
    let (mut server, start) = (Server::default(), Instant::now());
    let (mut old, mut a, mut b) = (candidate("old"), candidate("a"), candidate("b"));
    assert!(turn(&mut old, &mut server, start));
    let read = server.lease.clone();
    assert_eq!(a.step(read.as_ref(), start, wall()), Step::Wait);
    assert_eq!(b.step(read.as_ref(), start, wall()), Step::Wait);
    let late = start + Duration::from_secs(16);
    let (step_a, step_b) =
        (a.step(read.as_ref(), late, wall()), b.step(read.as_ref(), late, wall()));
    assert!(server.write(step_a).is_some(), "the first takes it");
    assert!(server.write(step_b).is_none(), "the second read what is no longer there");
    let spec = server.lease.and_then(|lease| lease.spec).expect("a record");
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(1)));
}

#[test]
fn the_clock_in_the_record_does_not_matter() {
    let (mut server, start) = (Server::default(), Instant::now());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    let step = a.step(None, start, Timestamp::from_second(0).expect("1970"));
    let lease = server.write(step).expect("created");
    a.wrote(&lease, start);
    // By the times in the record the Lease ended decades ago.
    assert!(!turn(&mut b, &mut server, start + Duration::from_secs(1)));
    assert!(!turn(&mut b, &mut server, start + Duration::from_secs(14)));
    assert!(turn(&mut b, &mut server, start + Duration::from_secs(17)));
}

#[test]
fn k2_a_renewal_counts_from_when_its_write_was_begun() {
    let (mut server, begun) = (Server::default(), Instant::now());
    let mut a = candidate("a");
    let step = a.step(None, begun + Duration::from_secs(7), wall());
    let lease = server.write(step).expect("created");
    a.wrote(&lease, begun);
    assert_eq!(a.holds_until(), Some(begun + Timing::default().renew_deadline));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let (mut server, start) = (Server::default(), Instant::now());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    assert!(turn(&mut a, &mut server, start));
    let freed = a.release(server.lease.as_ref().expect("a lease"), wall()).expect("ours");
    assert!(server.write(Step::Replace(Box::new(freed))).is_some());
    assert!(turn(&mut b, &mut server, start));
    assert!(a.release(server.lease.as_ref().expect("a lease"), wall()).is_none(), "not ours");
}

#[test]
fn k2_who_lost_the_lease_knows_it_when_it_looks() {
    let (mut server, start) = (Server::default(), Instant::now());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    assert!(turn(&mut a, &mut server, start));
    assert!(!turn(&mut b, &mut server, start));
    let late = start + Duration::from_secs(20);
    assert!(turn(&mut b, &mut server, late));
    assert!(!turn(&mut a, &mut server, late));
    assert!(a.holds_until().is_none());
}

proptest! {
    /// Three candidates act in any order, some of them paused for a while: two never hold the Lease
    /// at the same time.
    #[test]
    fn k2_never_two_leaders(turns in prop::collection::vec((0_usize..3, 0_u64..9000), 1..400)) {
        let mut server = Server::default();
        let mut candidates = [candidate("a"), candidate("b"), candidate("c")];
        let mut now = Instant::now();
        for (who, pause_ms) in turns {
            now += Duration::from_millis(pause_ms);
            turn(&mut candidates[who], &mut server, now);
            let leaders = candidates.iter().filter(|candidate| holds(candidate, now)).count();
            prop_assert!(leaders <= 1);
        }
    }
}
