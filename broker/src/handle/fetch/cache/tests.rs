//! Tests of the session cache: epochs, owners, eviction, bounds.

use proptest::prelude::*;

use super::*;

fn owner() -> Owner {
    Owner { listener: "PLAINTEXT".into(), uses_ids: true }
}

fn counter() -> impl FnMut() -> i32 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

fn cache(sessions_max: usize) -> (Cache<&'static str>, Instant) {
    (Cache::new(sessions_max), Instant::now())
}

#[test]
fn a_session_accepts_its_next_epoch_only() {
    let (mut cache, now) = cache(2);
    let id = cache.create(now, owner(), ("a", 3), counter()).expect("there is room");
    let named = |epoch| Named { id, epoch };
    let take = |cache: &mut Cache<_>, epoch| cache.take(now, named(epoch), &owner());
    for epoch in [0, -1, 2, i32::MAX] {
        let taken = take(&mut cache, epoch);
        assert_eq!(taken, Err(ErrorCode::InvalidFetchSessionEpoch), "epoch {epoch}");
    }
    assert_eq!(take(&mut cache, 1), Ok("a"));
    for epoch in [1, 2] {
        let taken = take(&mut cache, epoch);
        assert_eq!(taken, Err(ErrorCode::InvalidFetchSessionEpoch), "1 is in progress");
    }
    cache.put_back(named(1), ("b", 4));
    assert_eq!((cache.len(), cache.partitions()), (1, 4));
    assert_eq!(take(&mut cache, 1), Err(ErrorCode::InvalidFetchSessionEpoch));
    assert_eq!(take(&mut cache, 2), Ok("b"));
    assert_eq!(next_epoch(i32::MAX), 1, "0 and below have other meanings");
}

#[test]
fn a_session_belongs_to_its_listener_and_form_of_names() {
    let (mut cache, now) = cache(2);
    let id = cache.create(now, owner(), ("a", 3), counter()).expect("there is room");
    let named = Named { id, epoch: 1 };
    let foreign = Owner { listener: "OTHER".into(), ..owner() };
    assert_eq!(cache.take(now, named, &foreign), Err(ErrorCode::FetchSessionIdNotFound));
    cache.close(id, &foreign.listener);
    assert_eq!(cache.len(), 1);
    let by_name = Owner { uses_ids: false, ..owner() };
    assert_eq!(cache.take(now, named, &by_name), Err(ErrorCode::FetchSessionTopicIdError));
    let unknown = Named { id: id + 1, ..named };
    assert_eq!(cache.take(now, unknown, &owner()), Err(ErrorCode::FetchSessionIdNotFound));
    assert_eq!(cache.take(now, named, &owner()), Ok("a"), "nothing of that changed it");
    cache.close(id, &owner().listener);
    assert_eq!((cache.len(), cache.partitions()), (0, 0));
    cache.put_back(named, ("a", 3));
    assert_eq!(cache.len(), 0, "it was closed while its request was in progress");
}

#[test]
fn r1_an_idle_or_an_older_and_smaller_session_makes_room() {
    let (mut cache, now) = cache(2);
    let mut ids = counter();
    let mut create = |cache: &mut Cache<_>, at: u64, partitions| {
        let at = now + Duration::from_secs(at);
        cache.create(at, owner(), ("s", partitions), &mut ids)
    };
    assert_eq!(create(&mut cache, 0, 5), Some(1));
    assert_eq!(create(&mut cache, 60, 3), Some(2));
    assert_eq!(create(&mut cache, 100, 100), None, "both are young");
    assert_eq!(cache.evictions(), 0);
    let used = cache.take(now + Duration::from_secs(119), Named { id: 1, epoch: 1 }, &owner());
    assert_eq!(used, Ok("s"));
    cache.put_back(Named { id: 1, epoch: 1 }, ("s", 5));
    assert_eq!(create(&mut cache, 121, 5), None, "1 is old enough, but as large");
    assert_eq!(create(&mut cache, 121, 6), Some(3), "1 is old and smaller");
    assert_eq!((cache.len(), cache.partitions(), cache.evictions()), (2, 9, 1));
    assert_eq!(create(&mut cache, 180, 1), None, "2 is idle for 120 s, not longer");
    assert_eq!(create(&mut cache, 181, 1), Some(4), "2 is idle, however small the new one is");
    assert_eq!((cache.len(), cache.partitions(), cache.evictions()), (2, 7, 2));
    assert_eq!(Cache::new(0).create(now, owner(), ("s", 1), counter()), None, "none are wanted");
}

#[test]
fn an_id_is_positive_and_not_in_use() {
    let (mut cache, now) = cache(3);
    let mut ids = [0, i32::MIN, 7, 7, -1].into_iter();
    let mut create = || cache.create(now, owner(), ("s", 1), || ids.next().expect("another"));
    assert_eq!(create(), Some(7));
    assert_eq!(create(), Some(i32::MAX));
}

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Take(i32),
    PutBack(i32, usize),
    Close(i32),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let most = limits::FETCH_SESSION_PARTITIONS_MAX;
    let step = prop_oneof![
        4 => (1..=most).prop_map(Step::Create),
        4 => (1..20).prop_map(Step::Take),
        4 => (1..20, 1..=most).prop_map(|(id, partitions)| Step::PutBack(id, partitions)),
        1 => (1..20).prop_map(Step::Close),
        1 => (1..200_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..150)
}

proptest! {
    #[test]
    fn r1_sessions_and_their_memory_are_bounded_and_counted(steps in steps()) {
        let (mut cache, mut now) = cache(12);
        let mut ids = counter();
        let mut taken = HashMap::new();
        for step in steps {
            match step {
                Step::Create(partitions) => {
                    cache.create(now, owner(), ("s", partitions), &mut ids);
                }
                Step::Take(id) => {
                    let epoch = cache.sessions.get(&id).map_or(1, |cached| cached.epoch);
                    if cache.take(now, Named { id, epoch }, &owner()).is_ok() {
                        taken.insert(id, epoch);
                    }
                }
                Step::PutBack(id, partitions) => {
                    if let Some(epoch) = taken.remove(&id) {
                        cache.put_back(Named { id, epoch }, ("s", partitions));
                    }
                }
                Step::Close(id) => cache.close(id, &owner().listener),
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            let counted: usize = cache.sessions.values().map(|cached| cached.partitions).sum();
            prop_assert_eq!(cache.partitions(), counted);
            prop_assert!(cache.len() <= 12);
            let bytes = memory(cache.len(), cache.partitions());
            prop_assert!(bytes <= limits::FETCH_SESSIONS_BYTES_MAX, "{bytes}");
        }
    }
}
