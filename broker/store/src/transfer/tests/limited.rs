//! Bounds: transfers at once, bytes in memory, bytes per second, space on the disk.

use ropewalk_disk::{Fault, Operation};

use super::*;
use crate::limits;

/// Each of them is a broker of its own.
fn receivers(replicas: [u64; 3]) -> Vec<(Receiving, Vec<Bytes>)> {
    let open = |replica| {
        let mut receiving =
            Receiving::open(&formatted(replica, LEARNER), LEARNER).expect("it opens");
        receiving.replica = replica;
        receiving.receiver.begin(SHARD, replica, SENDER).expect("nothing fails");
        (receiving, Vec::new())
    };
    replicas.map(open).into()
}

#[test]
fn r1_two_replicas_are_sent_to_at_once_and_the_third_waits() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let mut all = receivers([77, 78, 79]);
    let (mut now_ms, mut order, mut most) = (0, Vec::new(), 0);
    while order.len() < 3 {
        now_ms += 10;
        let ticked = sending.source.tick(now_ms);
        let mut to_receivers = ticked;
        for (receiving, _) in &mut all {
            let (mut out, _) = receiving.receiver.step(now_ms).expect("nothing fails");
            out.extend(receiving.install().expect("nothing fails"));
            for message in out {
                if matches!(message.body, Body::Stop { reason: StopReason::Installed, .. }) {
                    order.push(message.from);
                }
                to_receivers.extend(sending.source.handle(&message, now_ms));
            }
        }
        most = most.max(sending.source.transfers());
        for message in to_receivers {
            for (receiving, _) in all.iter_mut().filter(|(one, _)| one.replica == message.to) {
                let need = |_, _, _| true;
                let out = receiving.receiver.handle(&message, &need, now_ms);
                for answer in out.expect("nothing fails") {
                    sending.source.handle(&answer, now_ms);
                }
            }
        }
        assert!(now_ms < 10_000_000, "{order:?}");
    }
    assert_eq!((most, order[2]), (limits::TRANSFERS_MAX, 79));
}

#[test]
fn r1_two_shards_are_received_at_once_and_the_third_waits() {
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    let receiver = &mut receiving.receiver;
    for shard in [1, 2, 3] {
        receiver.begin(ShardId(shard), LEARNER, SENDER).expect("nothing fails");
    }
    assert_eq!(receiver.shards(), [ShardId(1), ShardId(2)]);
    // A third sender gets an answer.
    let set = message::SetId { replica: SENDER, number: 1 };
    let last = EntryId { index: 9, term: 1 };
    let members = ropewalk_shard::engine::Members::lone(SENDER);
    let offer = message::Offer { set, last, members, list_bytes: 9, list_sum: 0, files_bytes: 9 };
    let offered =
        Message { shard: ShardId(3), from: SENDER, to: LEARNER, body: Body::Offer(offer) };
    let need = |_, _, _| true;
    let refused = receiver.handle(&offered, &need, 0).expect("nothing fails");
    let busy = Body::Stop { set, reason: StopReason::Busy };
    assert_eq!(refused, [offered.answer(busy)]);
    receiver.abandon(ShardId(1), LEARNER).expect("nothing fails");
    assert_eq!(receiver.shards(), [ShardId(2), ShardId(3)]);
}

/// One piece at a time is in memory, besides the list while it is fetched.
#[test]
fn r1_the_bytes_in_memory_are_bounded() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    let (mut pair, mut most) = (Pair::new(), 0);
    while !pair.installed {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
        most = most.max(receiving.receiver.memory_bytes());
    }
    assert!(pair.pieces_bytes > 60 * OPTIONS.piece_bytes_max as usize);
    let overhead = 200;
    assert!(pair.in_flight_bytes_max <= OPTIONS.piece_bytes_max as usize + overhead);
    assert!(most <= 8_000, "{most} bytes of the list");
}

/// Neither side exceeds its rate.
#[test]
fn r1_the_rate_of_both_sides_holds() {
    for slow_sender in [true, false] {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
        let slow = Options { bytes_per_second: 40_000, ..OPTIONS };
        if slow_sender {
            sending.source = Source::new(Arc::clone(sending.shard.checkpointer.store()), slow);
        } else {
            receiving.receiver = Receiver::new(Arc::clone(&receiving.store), slow);
        }
        begin(&mut receiving).expect("nothing fails");
        let mut pair = Pair::new();
        // A full bucket would pass all of it.
        pair.now_ms = 0;
        drain(&mut sending, &mut receiving, slow_sender);
        pair.run(&mut sending, &mut receiving).expect("nothing fails");
        let seconds = pair.pieces_bytes as u64 / slow.bytes_per_second;
        let passed = pair.now_ms.unsigned_abs() / 1000;
        assert!(seconds >= 2 && passed >= seconds, "{passed} s for {seconds} s");
        check_installed(&sending, receiving);
    }
}

/// Takes the tokens of the burst.
fn drain(sending: &mut Sending, receiving: &mut Receiving, of_sender: bool) {
    if of_sender {
        sending.source.drain();
    } else {
        receiving.receiver.drain();
    }
}

/// A receiver that is full says so, takes no more, and continues when it has space.
#[test]
fn r1_a_full_receiver_refuses_and_the_sender_stops() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let disk = formatted(2, LEARNER);
    let mut receiving = Receiving::open(&disk, LEARNER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    while pair.delivered < 40 {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    // A write fails in the middle of a file.
    disk.inject(Fault {
        path_contains: "partitions".to_owned(),
        kind: std::io::ErrorKind::StorageFull,
        ..Fault::next(Operation::Write)
    });
    let used: u64 = 1;
    while pair.stops.is_empty() {
        pair.step(&mut sending, &mut receiving).expect("a full disk is no failure");
    }
    disk.set_capacity(Some(used));
    assert_eq!(pair.stops, [StopReason::Full]);
    let before = pair.pieces_bytes;
    for _ in 0..200 {
        pair.step(&mut sending, &mut receiving).expect("a full disk is no failure");
    }
    assert!(pair.pieces_bytes <= before, "nothing is sent to a full disk");
    assert_eq!(sending.source.transfers(), 0, "another may be sent to");
    // It asks for a set as soon as it has space, and has kept what it got.
    disk.set_capacity(None);
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

/// The space is checked before the first piece.
#[test]
fn r1_a_set_for_which_there_is_no_space_is_refused_at_once() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let disk = formatted(2, LEARNER);
    let mut receiving = Receiving::open(&disk, LEARNER).expect("it opens");
    let free = Options { disk_free_bytes_min: 50_000, ..OPTIONS };
    receiving.receiver = Receiver::new(Arc::clone(&receiving.store), free);
    let used = used_bytes(&disk);
    disk.set_capacity(Some(used + 60_000));
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    for _ in 0..100 {
        pair.step(&mut sending, &mut receiving).expect("a full disk is no failure");
    }
    assert!(!pair.stops.is_empty() && pair.stops.iter().all(|stop| *stop == StopReason::Full));
    assert!(pair.pieces_bytes < 30_000, "only the list: {}", pair.pieces_bytes);
    disk.set_capacity(None);
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

/// Sum of the lengths of all files, by trying.
fn used_bytes(disk: &SimDisk) -> u64 {
    disk.set_capacity(Some(1 << 40));
    let free = disk.free_bytes(&PathBuf::from("/data")).expect("known");
    disk.set_capacity(None);
    (1 << 40) - free
}
