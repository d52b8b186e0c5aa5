//! The log on a real disk, through its threads.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use ropewalk_disk::{Direct, Disk, Options as DiskOptions, RealDisk};
use ropewalk_wal::{
    Answers, HardState, LogId, Options, Record, RecoveredLog, ReplicaKey, Submission, Wal,
    WalHandle, Writer,
};

const SMALL: Options = Options {
    file_bytes: 256 << 10,
    first_file_bytes: 64 << 10,
    files_bytes_max: 64 << 20,
    spares_max: 4,
    prefilled: 0,
};

fn key(shard: u32) -> ReplicaKey {
    ReplicaKey { shard, replica: u64::from(shard) + 100 }
}

fn entry(shard: u32, index: u64, data: Vec<u8>) -> Record {
    let data = Bytes::from(data).into();
    Record::Entry { key: key(shard), index, term: 3, kind: 0, data }
}

fn created(shard: u32) -> Record {
    let conf_state = Bytes::from_static(b"voters");
    Record::Created { key: key(shard), index: 1, term: 1, conf_state }
}

fn open(dir: &Path, direct: Direct) -> (Wal, RecoveredLog) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(DiskOptions { direct }));
    Wal::open(disk, dir, SMALL).expect("the log opens")
}

fn submit_and_wait(handle: &WalHandle, records: Vec<Record>) {
    let (told, durable) = mpsc::channel();
    handle.submit(Submission::new(records, move |result| {
        told.send(result.map_err(|error| error.to_string())).expect("the test waits");
    }));
    durable.recv().expect("an answer").expect("durable");
}

#[test]
fn d1_what_was_reported_durable_is_there_after_reopening() {
    for direct in [Direct::Auto, Direct::Off] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (wal, recovered) = open(dir.path(), direct);
        assert!(recovered.replicas.is_empty());
        let handle = Writer::spawn(wal, Answers::give, |_| {}).expect("threads start");
        submit_and_wait(&handle, vec![created(0), created(1)]);
        let state = HardState { term: 3, vote: 101, commit: 2 };
        submit_and_wait(&handle, vec![Record::HardState { key: key(1), state }]);
        let threads: Vec<_> = (0..2)
            .map(|shard| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    for index in 2..200 {
                        let data = vec![index as u8; index as usize * 17];
                        submit_and_wait(&handle, vec![entry(shard, index, data)]);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let stats = handle.stats();
        assert!(stats.files > 1, "{stats:?}");
        assert_eq!(stats.records, 3 + 2 * 198);
        handle.close();

        let (wal, recovered) = open(dir.path(), direct);
        assert!(recovered.notes.is_empty(), "{:?}", recovered.notes);
        for shard in 0..2 {
            let replica = &recovered.replicas[&key(shard)];
            assert_eq!(replica.damage, None);
            assert_eq!(replica.truncated, LogId { index: 1, term: 1 });
            assert_eq!(&replica.conf_state[..], b"voters");
            assert_eq!(replica.entries.len(), 198);
            for (meta, index) in replica.entries.iter().zip(2_u64..) {
                assert_eq!((meta.index, meta.term), (index, 3));
                let data = wal.read(&meta.location).expect("the payload is there");
                assert_eq!(data, vec![index as u8; index as usize * 17]);
            }
        }
        assert_eq!(recovered.replicas[&key(1)].hard_state, state);
    }
}

#[test]
fn files_are_recycled_once_they_are_released() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (wal, _) = open(dir.path(), Direct::Auto);
    let handle = Writer::spawn(wal, Answers::give, |_| {}).expect("threads start");
    submit_and_wait(&handle, vec![created(0)]);
    let mut pinned = 0;
    for index in 2..2000 {
        submit_and_wait(&handle, vec![entry(0, index, vec![7; 3000])]);
        if index % 50 == 0 {
            pinned += handle.pinned_by_oldest().len();
            submit_and_wait(&handle, vec![Record::Truncated { key: key(0), index, term: 3 }]);
            handle.release([(key(0), index + 1)].into());
        }
    }
    assert!(pinned > 10, "the full files hold entries that are needed: {pinned}");
    let stats = handle.stats();
    assert!(stats.bytes <= 8 * SMALL.file_bytes, "{stats:?}");
    handle.close();
    let (_, recovered) = open(dir.path(), Direct::Auto);
    let replica = &recovered.replicas[&key(0)];
    assert_eq!(replica.damage, None);
    assert_eq!(replica.entries.first().map(|entry| entry.index), Some(1951));
    assert_eq!(replica.entries.last().map(|entry| entry.index), Some(1999));
}
