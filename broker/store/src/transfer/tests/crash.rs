//! The power may go at any operation of either broker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Receives the shard on this disk, through the crash that is planned there.
fn receive(disk: &SimDisk, replica: u64, sending: &mut Sending) -> Result<Receiving, String> {
    let mut receiving = Receiving::open(disk, replica).map_err(|error| error.to_string())?;
    if receiving.content.is_none() {
        assert_eq!(receiving.last, u64::from(replica != LEARNER), "D4: nothing is half installed");
        begin(&mut receiving).map_err(|error| error.to_string())?;
        let mut pair = Pair::new();
        pair.run(sending, &mut receiving).map_err(|error| error.to_string())?;
    }
    Ok(receiving)
}

/// Receives, crashes at an operation, and receives to the end. Returns whether it did crash.
fn receive_through_a_crash(
    sending: &mut Sending,
    disk: &SimDisk,
    replica: u64,
    at: u64,
    seed: u64,
) -> bool {
    disk.crash_at(at);
    match receive(disk, replica, sending) {
        Ok(receiving) => {
            check_installed(sending, receiving);
            return false;
        }
        Err(error) => assert!(disk.crashed(), "at operation {at}: {error}"),
    }
    if seed.is_multiple_of(3) {
        disk.restart()
    } else {
        disk.power_cycle(seed)
    }
    let receiving = receive(disk, replica, sending);
    check_installed(sending, receiving.unwrap_or_else(|error| panic!("operation {at}: {error}")));
    true
}

#[test]
fn d1_power_may_go_at_any_operation_of_the_receiver() {
    for replica in [LEARNER, SENDER] {
        let mut sending = Sending::with_few_records(&SimDisk::new(1));
        let mut at = 1;
        let disk = |at| formatted(at, replica);
        while receive_through_a_crash(&mut sending, &disk(at), replica, at, at) {
            at += 1;
        }
        assert!(at > 80, "only {at} operations");
    }
}

/// Each sync is needed: without it, some crash leaves another shard than the one that was sent. The
/// last operations are those of the installation.
#[test]
fn d1_no_sync_of_the_receiver_is_superfluous() {
    let mut sending = Sending::with_few_records(&SimDisk::new(1));
    let operations = {
        let disk = formatted(1, SENDER);
        receive(&disk, SENDER, &mut sending).expect("nothing fails");
        disk.operations()
    };
    let labels =
        ["transfer", "transfer-directory", "transfer-manifest", "transfer-manifest-directory"];
    for label in labels {
        let is_found = (1..40).any(|seed| {
            (operations - 12..=operations).any(|at| {
                let disk = formatted(1, SENDER);
                disk.ignore_syncs(label);
                let received = catch_unwind(AssertUnwindSafe(|| {
                    receive_through_a_crash(&mut sending, &disk, SENDER, at, seed)
                }));
                received.is_err()
            })
        });
        assert!(is_found, "{label}");
    }
}

/// Twice, at any two operations.
#[test]
fn d1_power_may_go_again_while_a_transfer_is_continued() {
    for seed in 0..150 {
        let replica = if seed % 2 == 0 { LEARNER } else { SENDER };
        let mut sending = Sending::with_few_records(&SimDisk::new(1));
        let (disk, mut dice) = (formatted(seed, replica), ropewalk_disk::Dice::new(seed));
        let received = (0..50).find_map(|crash| {
            if crash < 4 {
                disk.crash_at(1 + dice.below(90));
            }
            let received = receive(&disk, replica, &mut sending);
            if received.is_err() {
                assert!(disk.crashed());
                disk.power_cycle(dice.draw());
            }
            received.ok()
        });
        check_installed(&sending, received.expect("it is received in the end"));
    }
}

/// The sender continues to write, and crashes at any operation of that.
#[test]
fn d1_power_may_go_at_any_operation_of_the_sender() {
    let mut at = 1;
    loop {
        let disk = SimDisk::new(at);
        let mut sending = Sending::with_few_records(&disk);
        let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        disk.crash_at(disk.operations() + at);
        let (mut pair, mut crashes) = (Pair::new(), 0);
        let mut writes = 0;
        while !pair.installed {
            let is_due = pair.delivered / 12 > writes && writes < 4;
            if is_due {
                writes += 1;
                // A checkpoint that cannot remove a file continues.
                let _ = catch_unwind(AssertUnwindSafe(|| sending.shard.append_and_checkpoint(3)));
            }
            if disk.crashed() {
                crashes += 1;
                drop(sending);
                pair.in_flight.clear();
                disk.power_cycle(at);
                sending = Sending::open(&disk);
            }
            pair.step(&mut sending, &mut receiving).expect("the receiver does not fail");
        }
        // What was written after the set was pinned comes with another set.
        let behind = sending.snapshot().index > newest(&data_of(&receiving.disk)).index;
        if behind {
            receiving = reopened(receiving, LEARNER);
            begin(&mut receiving).expect("nothing fails");
            Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
        }
        check_installed(&sending, receiving);
        if crashes == 0 {
            break;
        }
        at += 1;
    }
    assert!(at > 30, "only {at} operations");
}

/// A restart of the receiver loses no more than what was not saved.
#[test]
fn a_restart_continues_where_it_was() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let whole = {
        let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let mut pair = Pair::new();
        pair.run(&mut sending, &mut receiving).expect("nothing fails");
        pair.pieces_bytes
    };
    let disk = formatted(3, LEARNER);
    let mut receiving = Receiving::open(&disk, LEARNER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    while pair.pieces_bytes < whole * 3 / 4 {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    let mut receiving = reopened(receiving, LEARNER);
    assert_eq!(receiving.receiving, [(SHARD, LEARNER)], "recovery knows of it");
    begin(&mut receiving).expect("nothing fails");
    let mut rest = Pair::new();
    rest.run(&mut sending, &mut receiving).expect("nothing fails");
    let list = pair.pieces_bytes + rest.pieces_bytes;
    let unsaved = OPTIONS.unsynced_bytes_max as usize + 2 * OPTIONS.piece_bytes_max as usize;
    assert!(list <= whole + unsaved + 8_000, "{list} of {whole}");
    check_installed(&sending, receiving);
}

/// A replica that is destroyed while it is received: its manifest is there, or it is gone.
#[test]
fn d4_power_may_go_while_a_replica_that_is_received_is_destroyed() {
    let mut sending = Sending::with_few_records(&SimDisk::new(1));
    let mut at = 1;
    loop {
        let disk = formatted(at, LEARNER);
        let mut receiving = Receiving::open(&disk, LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let mut pair = Pair::new();
        while pair.pieces_bytes < 6_000 {
            pair.step(&mut sending, &mut receiving).expect("nothing fails");
        }
        assert_eq!(reopened_shards(&disk).0, [(SHARD, LEARNER)]);
        disk.crash_at(disk.operations() + at);
        let done = destroy_learner(&mut receiving);
        let crashed = disk.crashed();
        assert!(done.is_ok() || crashed, "operation {at}: {done:?}");
        drop(receiving);
        disk.power_cycle(at);
        for _ in 0..2 {
            let (receiving, destroyed) = reopened_shards(&disk);
            assert_eq!(receiving.is_empty(), destroyed == Some(LEARNER), "operation {at}");
            assert!(done.is_err() || receiving.is_empty(), "operation {at}: it comes back");
        }
        if !crashed {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} operations");
}

fn destroy_learner(receiving: &mut Receiving) -> Result<(), WorkError> {
    crate::destroyed::mark(receiving.store.data(), SHARD, LEARNER)?;
    receiving.receiver.abandon(SHARD, LEARNER)?;
    crate::destroy::destroy(&receiving.store, SHARD, LEARNER, &[], &mut receiving.wal)
}

/// The shards that recovery continues to receive, and the replica of the shard that is destroyed.
/// Nothing is damaged.
fn reopened_shards(disk: &SimDisk) -> (Vec<(ShardId, u64)>, Option<u64>) {
    let opened = recovery::open(data_of(disk), &options()).expect("it opens");
    assert_eq!(opened.damaged, []);
    (opened.receiving, opened.destroyed.get(&SHARD).copied())
}

/// A shard comes back as another replica: the mark of the one before is removed.
#[test]
fn d4_the_mark_of_a_destroyed_replica_ends_with_the_next_installation() {
    let mut sending = Sending::with_few_records(&SimDisk::new(1));
    let disk = formatted(1, SENDER);
    let mut receiving = Receiving::open(&disk, SENDER).expect("it opens");
    crate::destroyed::mark(receiving.store.data(), SHARD, SENDER).expect("marked");
    crate::destroy::destroy(&receiving.store, SHARD, SENDER, &[], &mut receiving.wal)
        .expect("nothing fails");
    (receiving.replica, receiving.hard_state, receiving.last) = (LEARNER, None, 0);
    begin(&mut receiving).expect("nothing fails");
    Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
    let marks = crate::destroyed::marks(receiving.store.data(), SHARD).expect("listed");
    assert_eq!(marks, [0; 0]);
    drop(receiving);
    disk.power_cycle(5);
    let receiving = Receiving::open(&disk, LEARNER).expect("it opens");
    assert!(receiving.content == Some(sending.content()), "it is what was sent");
}
