//! A damaged byte is refused and fetched again, wherever it is.

use super::*;

#[test]
fn d3_a_byte_that_is_damaged_in_transit_is_fetched_again() {
    for seed in 0..15 {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let (mut pair, mut dice) = (Pair::new(), ropewalk_disk::Dice::new(seed));
        let mut damaged = 0;
        while !pair.installed {
            if let Some(message) = pair.in_flight.first_mut()
                && dice.one_in(10)
            {
                let mut bytes = message.to_vec();
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1_u8 << dice.below(8);
                *message = bytes.into();
                damaged += 1;
            }
            pair.step(&mut sending, &mut receiving).expect("nothing fails");
        }
        assert!(damaged > 5 && pair.stops.iter().all(|stop| *stop == StopReason::Installed));
        check_installed(&sending, receiving);
    }
}

/// All files of the receiver that no snapshot names.
fn received(disk: &SimDisk) -> Vec<PathBuf> {
    let data = data_of(disk);
    let mut found = Vec::new();
    let mut dirs = vec![data.transfer(SHARD)];
    let partitions = data.names(&data.partitions()).expect("listed");
    dirs.extend(partitions.into_iter().map(|name| data.partitions().join(name)));
    for dir in dirs {
        found.extend(data.names(&dir).expect("listed").into_iter().map(|name| dir.join(name)));
    }
    found
}

/// A flip in any received file is found before it is installed.
#[test]
fn d3_a_byte_that_is_damaged_on_the_disk_of_the_receiver_is_fetched_again() {
    let mut found = 0;
    for seed in 0..60 {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let disk = formatted(2, LEARNER);
        let mut receiving = Receiving::open(&disk, LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let (mut pair, mut dice) = (Pair::new(), ropewalk_disk::Dice::new(seed));
        let moment = 20 + dice.below(90) as usize;
        while pair.delivered < moment {
            pair.step(&mut sending, &mut receiving).expect("nothing fails");
        }
        let files = received(&disk);
        let path = &files[dice.below(files.len() as u64) as usize];
        let length = disk.content(path).expect("it is there").len() as u64;
        // A file that is not on the disk yet cannot be damaged there.
        let _ = length > 0 && disk.corrupt(path, dice.below(length), 1 << dice.below(8));
        if seed % 3 == 0 {
            receiving = reopened(receiving, LEARNER);
            pair.in_flight.clear();
            begin(&mut receiving).expect("nothing fails");
        }
        while !pair.installed {
            pair.step(&mut sending, &mut receiving).expect("nothing fails");
            found += u64::from(receiving.receiver.refused() > 0);
        }
        check_installed(&sending, receiving);
    }
    assert!(found > 0, "no damage was found");
}

/// What the sender's disk has lost is not passed on.
#[test]
fn d3_a_byte_that_is_damaged_on_the_disk_of_the_sender_is_refused() {
    let source = SimDisk::new(1);
    let mut sending = Sending::with_records(&source);
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    let data = data_of(&source);
    let files = sending.snapshot().partitions[1].clone();
    let dir = data.partition(files.partition, files.incarnation);
    let log = data.names(&dir).expect("listed").into_iter().find(|name| name.ends_with(".log"));
    let log = dir.join(log.expect("there is a segment"));
    assert!(source.corrupt(&log, 200, 4));
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    for _ in 0..2_000 {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    assert!(!pair.installed && receiving.receiver.refused() > 1);
    assert!(pair.stops.iter().all(|stop| *stop == StopReason::Damaged), "{:?}", pair.stops);
    // Its repair, or another replica, has the right bytes.
    assert!(source.corrupt(&log, 200, 4));
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

/// A sender whose files are missing offers nothing.
#[test]
fn d3_a_set_with_a_missing_file_is_not_offered() {
    let source = SimDisk::new(1);
    let mut sending = Sending::with_records(&source);
    let data = data_of(&source);
    let files = sending.snapshot().partitions[1].clone();
    let dir = data.partition(files.partition, files.incarnation);
    for name in data.names(&dir).expect("listed").into_iter().skip(2).take(2) {
        source.remove(&dir.join(name)).expect("it is there");
    }
    let answers = sending.source.offer(SHARD, SENDER, LEARNER, 0);
    assert!(answers.iter().all(|message| message.body == Body::Wait), "{answers:?}");
    assert_eq!(sending.source.transfers(), 0);
}

/// Without its manifest a transfer begins again, and what it had is removed.
#[test]
fn d3_a_damaged_manifest_is_not_used() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let disk = formatted(2, SENDER);
    let mut receiving = Receiving::open(&disk, SENDER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    let mut pair = Pair::new();
    while pair.delivered < 60 {
        pair.step(&mut sending, &mut receiving).expect("nothing fails");
    }
    let manifest = data_of(&disk).transfer(SHARD).join("manifest");
    assert!(disk.corrupt(&manifest, 40, 1));
    let mut receiving = reopened(receiving, SENDER);
    assert_eq!(received(&disk), Vec::<PathBuf>::new());
    begin(&mut receiving).expect("nothing fails");
    Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}
