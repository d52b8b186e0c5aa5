//! Sets that end, change or come from another replica; retention and compaction meanwhile.

use super::*;
use crate::testing::records;

/// Delivers so many messages.
fn deliver(pair: &mut Pair, sending: &mut Sending, receiving: &mut Receiving, messages: usize) {
    let until = pair.delivered + messages;
    while pair.delivered < until {
        pair.step(sending, receiving).expect("nothing fails");
        assert!(!pair.installed, "it is to be interrupted");
    }
}

fn opened() -> Receiving {
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    receiving
}

/// The sender restarts: its sets end, and the receiver fetches what changed.
#[test]
fn a_set_that_ends_is_continued_with_the_difference() {
    let disk = SimDisk::new(1);
    let mut sending = Sending::with_records(&disk);
    let (mut receiving, mut pair) = (opened(), Pair::new());
    deliver(&mut pair, &mut sending, &mut receiving, 150);
    let first = pair.pieces_bytes;
    sending.append(10);
    sending.checkpoint();
    drop(sending);
    disk.power_cycle(1);
    let mut sending = Sending::open(&disk);
    pair.in_flight.clear();
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    let again = pair.pieces_bytes - first;
    let whole = {
        let (mut receiving, mut pair) = (opened(), Pair::new());
        pair.run(&mut sending, &mut receiving).expect("nothing fails");
        pair.pieces_bytes
    };
    assert!(again < whole - first * 2 / 3, "{again} of {whole} after {first}");
    check_installed(&sending, receiving);
}

/// Nothing has changed since: only the list and what was missing are fetched.
#[test]
fn the_same_files_are_not_fetched_again_under_another_set() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let (mut receiving, mut pair) = (opened(), Pair::new());
    deliver(&mut pair, &mut sending, &mut receiving, 100);
    sending.source = Source::new(Arc::clone(sending.shard.checkpointer.store()), OPTIONS);
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    let whole = {
        let (mut receiving, mut pair) = (opened(), Pair::new());
        pair.run(&mut sending, &mut receiving).expect("nothing fails");
        pair.pieces_bytes
    };
    assert!(pair.pieces_bytes < whole + 10_000, "{} of {whole}", pair.pieces_bytes);
    check_installed(&sending, receiving);
}

/// The leader changes; the files of the new one are cut at other places.
#[test]
fn another_replica_continues_the_transfer() {
    let mut first = Sending::with_records(&SimDisk::new(1));
    let mut second = Sending::open(&SimDisk::new(2));
    for _ in 0..2 {
        second.append(40);
        second.checkpoint();
    }
    second.append_large(3);
    second.append(5);
    second.checkpoint();
    let (mut receiving, mut pair) = (opened(), Pair::new());
    deliver(&mut pair, &mut first, &mut receiving, 150);
    pair.in_flight.clear();
    receiving.receiver.begin(SHARD, LEARNER, SENDER + 1).expect("nothing fails");
    pair.run(&mut second, &mut receiving).expect("nothing fails");
    check_installed(&second, receiving);
}

/// Records that retention removes are sent as long as the set is pinned, and go afterwards.
#[test]
fn retention_keeps_the_files_of_a_pinned_set() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let data = sending.shard.checkpointer.store().data().clone();
    let pinned = sending.content();
    let (mut receiving, mut pair) = (opened(), Pair::new());
    deliver(&mut pair, &mut sending, &mut receiving, 10);
    let before = segment_names(&data, partition(1));
    for _ in 0..4 {
        let log = sending.shard.log(1);
        log.set_log_start(log.high_watermark());
        {
            let mut capture = sending.shard.captured.0.lock();
            let state = capture.state.partitions.get_mut(&partition(1)).expect("it is open");
            state.log_start = state.next_offset;
        }
        sending.append(3);
        sending.checkpoint();
    }
    let still = segment_names(&data, partition(1));
    assert!(before.iter().all(|name| still.contains(name)), "{before:?} {still:?}");
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    let mut receiving = reopened(receiving, LEARNER);
    assert_eq!(receiving.content.take(), Some(pinned), "it is one set");
    while pair.deliver(&mut sending, &mut receiving).expect("nothing fails") {}
    sending.append(1);
    sending.checkpoint();
    let after = segment_names(&data, partition(1));
    assert!(!before.iter().any(|name| after.contains(name)), "{before:?} {after:?}");
}

/// A full disk needs the space more than a transfer does.
#[test]
fn a_full_disk_ends_the_sets_of_the_sender() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let data = sending.shard.checkpointer.store().data().clone();
    let (mut receiving, mut pair) = (opened(), Pair::new());
    deliver(&mut pair, &mut sending, &mut receiving, 60);
    let before = segment_names(&data, partition(1));
    sending.shard.checkpointer.store().budget().set_disk_full(true);
    for _ in 0..3 {
        let log = sending.shard.log(1);
        log.set_log_start(log.high_watermark());
        sending.append(3);
        sending.checkpoint();
    }
    let after = segment_names(&data, partition(1));
    assert!(!before.iter().any(|name| after.contains(name)), "{before:?} {after:?}");
    sending.shard.checkpointer.store().budget().set_disk_full(false);
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

fn value(text: &'static [u8]) -> impl Fn(i64) -> Option<Vec<u8>> + Clone {
    move |_| Some(text.to_vec())
}

/// A shard in which a key has an old value in the first segments and a tombstone in later ones.
fn with_tombstone(disk: &SimDisk) -> Sending {
    let mut sending = Sending::open(disk);
    sending.shard.append_some([(Some(100), value(&[1; 300]))].into_iter(), 0);
    sending.append(60);
    sending.checkpoint();
    sending.shard.append_some([(Some(100), |_: i64| None)].into_iter(), 0);
    for _ in 0..3 {
        sending.append(60);
        sending.checkpoint();
    }
    sending
}

fn has_key(sending: &Sending) -> bool {
    records(&sending.shard.log(0)).iter().any(|(_, key)| *key == 100)
}

/// Compacts until the tombstone, which the first pass keeps for `delete.retention.ms`, is gone.
fn compact(sending: &mut Sending, from_ms: i64) {
    for round in 0..4 {
        sending.append(60);
        sending.checkpoint();
        sending.append(60);
        sending.checkpoint();
        sending.shard.clean(from_ms + round * 100_000).expect("cleaned");
    }
}

/// Redpanda #28087 and #26790: a receiver that has the old value of a key, and would get the later
/// segments after their tombstone was removed, must not have the key.
#[test]
fn redpanda_28087_a_key_is_not_resurrected_when_its_tombstone_goes_during_a_transfer() {
    let disk = SimDisk::new(1);
    let mut sending = with_tombstone(&disk);
    assert!(has_key(&sending));
    let (mut receiving, mut pair) = (opened(), Pair::new());
    // The first segments, with the old value.
    let received = |receiving: &Receiving| {
        let data = data_of(&receiving.disk);
        let dirs = data.names(&data.partitions()).expect("listed");
        dirs.iter().filter(|dir| dir.contains("-0.")).any(|dir| {
            let dir = data.partitions().join(dir);
            let first = dir.join("00000000000000000000.log");
            receiving.disk.content(&first).is_some_and(|bytes| bytes.len() > 2_000)
        })
    };
    while !received(&receiving) {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    // While the set is pinned, nothing is compacted.
    let before = sending.shard.log(0).size_bytes();
    compact(&mut sending, 1_000_000);
    assert!(has_key(&sending) && sending.shard.log(0).size_bytes() > before);
    // The sender restarts, and compacts the tombstone away.
    drop(sending);
    disk.restart();
    let mut sending = Sending::open(&disk);
    pair.in_flight.clear();
    compact(&mut sending, 2_000_000);
    assert!(!has_key(&sending), "value and tombstone are gone");
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

/// Compaction and a pin exclude one another, in both orders.
#[test]
fn a_shard_is_not_compacted_while_it_is_sent() {
    let mut sending = with_tombstone(&SimDisk::new(1));
    let store = Arc::clone(sending.shard.checkpointer.store());
    {
        let _compacting = store.pins().compact(SHARD).expect("nothing is pinned");
        let waits = sending.source.offer(SHARD, SENDER, LEARNER, 0);
        assert_eq!(waits, []);
        assert_eq!(sending.source.transfers(), 1);
        assert!(sending.source.tick(1).is_empty());
    }
    assert!(store.pins().compact(SHARD).is_none(), "the pin that waits is next");
    assert_eq!(sending.source.tick(2).len(), 1, "it is offered now");
    assert!(store.pins().compact(SHARD).is_none());
    assert!(store.pins().compact(ShardId::CATALOG).is_some(), "another shard");
    let before = sending.shard.log(0).size_bytes();
    sending.shard.clean(10_000).expect("it waits");
    assert_eq!(sending.shard.log(0).size_bytes(), before);
    sending.source.tick(1 + limits::TRANSFER_IDLE_MS * 2);
    sending.shard.clean(100_000).expect("cleaned");
    assert!(sending.shard.log(0).size_bytes() < before);
}

/// D1: entries that the replica acknowledged stay.
#[test]
fn d1_a_replica_that_has_the_last_entry_takes_no_set() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let (mut receiving, mut pair) = (opened(), Pair::new());
    receiving.last = sending.snapshot().index;
    for _ in 0..50 {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    assert!(!pair.stops.is_empty());
    assert!(pair.stops.iter().all(|stop| *stop == StopReason::NotNeeded), "{:?}", pair.stops);
    assert_eq!(pair.pieces_bytes, 0);
    // It catches up by its log after the set was received, but before it is installed.
    receiving.last = 0;
    let mut pair = Pair::new();
    while receiving.receiver.complete().is_empty() {
        if !pair.deliver(&mut sending, &mut receiving).expect("nothing fails") {
            let (messages, _) = receiving.receiver.step(pair.now_ms).expect("nothing fails");
            pair.send(messages);
            pair.now_ms += 1_000;
        }
    }
    receiving.last = sending.snapshot().index;
    let stopped = receiving.install().expect("nothing fails");
    let reason = StopReason::NotNeeded;
    assert!(
        matches!(&stopped[..], [Message { body: Body::Stop { reason: r, .. }, .. }] if *r == reason)
    );
    assert_eq!(left_behind(&receiving.disk), Vec::<String>::new());
}

/// The names of all received files.
fn left_behind(disk: &SimDisk) -> Vec<String> {
    let data = data_of(disk);
    let mut names = data.names(&data.transfer(SHARD)).expect("listed");
    for dir in data.names(&data.partitions()).expect("listed") {
        names.extend(data.names(&data.partitions().join(dir)).expect("listed"));
    }
    names
}

/// A transfer that is given up leaves nothing, at once or after a crash.
#[test]
fn a_transfer_that_is_abandoned_is_removed() {
    let abandoned = |at: Option<u64>| {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let (mut receiving, mut pair) = (opened(), Pair::new());
        deliver(&mut pair, &mut sending, &mut receiving, 120);
        let disk = receiving.disk.clone();
        assert!(left_behind(&disk).len() > 5);
        if let Some(at) = at {
            disk.crash_at(disk.operations() + at);
        }
        let done = receiving.receiver.abandon(SHARD, LEARNER).is_ok();
        if done {
            assert_eq!(left_behind(&disk), Vec::<String>::new());
            return false;
        }
        drop(receiving);
        disk.power_cycle(at.unwrap_or_default());
        let mut receiving = match recovery::open(data_of(&disk), &options()) {
            // Its manifest is still there: it is continued, or abandoned again.
            Ok(opened) if !opened.receiving.is_empty() => {
                drop(opened);
                Receiving::open(&disk, LEARNER).expect("it opens")
            }
            Ok(_) => return true,
            Err(error) => panic!("{error}"),
        };
        receiving.receiver.abandon(SHARD, LEARNER).expect("nothing fails");
        assert_eq!(left_behind(&disk), Vec::<String>::new());
        true
    };
    assert!(!abandoned(None));
    assert!((1..100).position(|at| !abandoned(Some(at))).is_some_and(|operations| operations > 5));
}

/// A follower that caught up by its log has no use for what it received; recovery removes it.
#[test]
fn what_a_replica_no_longer_needs_is_removed_at_its_start() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let mut receiving = Receiving::open(&formatted(2, SENDER), SENDER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    deliver(&mut pair, &mut sending, &mut receiving, 120);
    let disk = receiving.disk.clone();
    assert!(left_behind(&disk).len() > 5);
    let data = data_of(&disk);
    let mut own = newest(&data);
    own.index = sending.snapshot().index;
    let key = ReplicaKey { shard: SHARD.0, replica: SENDER };
    let (index, term, conf_state) = (own.index, own.term, Bytes::new());
    let restarted = Record::SnapshotInstalled { key, index, term, conf_state };
    receiving.wal.write_round(&[restarted]).expect("durable");
    Snapshots::new(&data, SHARD).write(9, &own).expect("durable");
    let receiving = reopened(receiving, SENDER);
    assert_eq!(left_behind(&receiving.disk), Vec::<String>::new());
}
