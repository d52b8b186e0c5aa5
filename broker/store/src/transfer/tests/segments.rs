//! Logs that start late or have gaps.

use std::collections::VecDeque;

use ropewalk_shard::HistoryId;
use ropewalk_shard::manifest::ObjectRef;
use ropewalk_shard::state::Tier;

use super::*;

/// Redpanda #13798 and #25606: the first record that is left is in the middle of a batch.
#[test]
fn o4_a_log_that_starts_in_the_middle_of_a_batch_is_received_with_its_start() {
    for replica in [LEARNER, SENDER] {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        sending.append_large(2);
        sending.append(30);
        let log = sending.shard.log(1);
        // The second record of a batch of two.
        let start = sending.snapshot().state.partitions[&partition(1)].next_offset - 6;
        let chunk = log.read(start, 1, true).expect("readable");
        let header = ropewalk_batch::Header::parse(&chunk.bytes.concat()).expect("a batch");
        let start = if header.base_offset == start { start + 1 } else { start };
        log.set_log_start(start);
        {
            let mut capture = sending.shard.captured.0.lock();
            let state = capture.state.partitions.get_mut(&partition(1)).expect("it is open");
            state.log_start = start;
        }
        sending.append(0);
        sending.checkpoint();
        let named = sending.snapshot();
        assert_eq!(named.partitions[1].local_start, start);
        let mut receiving = Receiving::open(&formatted(2, replica), replica).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
        check_installed(&sending, receiving);
    }
}

/// A learner gets what is on the disk of the sender, and nothing that is in the bucket only.
#[test]
fn t1_o4_a_log_with_a_tier_is_received_from_its_local_start_on() {
    for replica in [LEARNER, SENDER] {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        sending.append_large(2);
        sending.append(150);
        sending.checkpoint();
        let log = sending.shard.log(1);
        let end = log.high_watermark();
        let start = end - 7;
        let before = segment_names(sending.shard.checkpointer.store().data(), partition(1)).len();
        log.set_local_start(start);
        {
            let mut capture = sending.shard.captured.0.lock();
            let state = capture.state.partitions.get_mut(&partition(1)).expect("it is open");
            state.tier = Some(Box::new(tier(start, end)));
        }
        sending.append(0);
        sending.checkpoint();
        assert_eq!(sending.snapshot().partitions[1].local_start, start);
        assert_eq!(sending.content().logs[&1].0, 0, "the log starts where it did");
        let mut receiving = Receiving::open(&formatted(2, replica), replica).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
        let received = segment_names(&data_of(&receiving.disk), partition(1)).len();
        assert!(received < before, "{received} of {before} files");
        check_installed(&sending, receiving);
    }
}

/// A tier whose records through `end` are in the bucket, and below `local_start` nowhere else.
fn tier(local_start: i64, end: i64) -> Tier {
    let object = ObjectRef {
        base: 0,
        end,
        history: HistoryId(0),
        term: 1,
        size_bytes: 1,
        digest: 1,
        max_timestamp_ms: 0,
        first_epoch: 0,
    };
    Tier {
        is_enabled: true,
        local_start,
        end,
        dropped: 0,
        dropped_ms: 0,
        deleted: 0,
        pages: VecDeque::new(),
        objects: [object].into(),
        replaced: Vec::new(),
    }
}

/// Compaction leaves gaps, merges segments and empties some.
#[test]
fn o4_segments_with_gaps_are_received_as_they_are() {
    let disk = SimDisk::new(1);
    let mut sending = Sending::open(&disk);
    for _ in 0..5 {
        sending.append(150);
        sending.checkpoint();
    }
    sending.shard.clean(10_000).expect("cleaned");
    let content = sending.content();
    assert!(content.logs[&0].2.len() < content.logs[&1].2.len() / 2, "it is compacted");
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    begin(&mut receiving).expect("nothing fails");
    Pair::new().run(&mut sending, &mut receiving).expect("nothing fails");
    let sent = segment_names(sending.shard.checkpointer.store().data(), partition(0));
    assert_eq!(segment_names(&data_of(&receiving.disk), partition(0)), sent);
    check_installed(&sending, receiving);
}
