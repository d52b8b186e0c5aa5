//! Two brokers on simulated disks: one sends a shard to the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_disk::{Disk, SimDisk};
use ropewalk_shard::engine::EntryId;
use ropewalk_shard::state::partition::{EpochStart, Producer, ProducerBatch};
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, State};
use ropewalk_wal::{HardState, Record, ReplicaKey, Wal};

use super::message::{Body, Message, StopReason};
use super::*;
use crate::bootstrap;
use crate::directory::{DataDir, DataDirContents, Identity};
use crate::log::PartitionLog;
use crate::recovery::{self, OpenStore};
use crate::snapshot::Snapshots;
use crate::testing::{OneShard, partition};
use crate::work::{Next, WorkError};

mod crash;
mod damage;
mod limited;
mod segments;
mod sets;

const SHARD: ShardId = ShardId(1);
/// Raft id of the replica that sends.
const SENDER: u64 = 2;
/// Raft id of a replica that is new on the receiving broker. The replica that the broker is
/// formatted with has the id of [`SENDER`], as it would on another cluster.
const LEARNER: u64 = 77;

/// Small pieces, and frequent saves, so that many things happen between two of them.
const OPTIONS: Options = Options {
    bytes_per_second: 1 << 40,
    disk_free_bytes_min: 0,
    unsynced_bytes_max: 3_000,
    piece_bytes_max: 900,
};

/// The broker that sends.
struct Sending {
    shard: OneShard,
    source: Source,
}

impl Sending {
    fn open(disk: &SimDisk) -> Self {
        let shard = OneShard::open(disk).expect("it opens");
        let source = Source::new(Arc::clone(shard.checkpointer.store()), OPTIONS);
        Self { shard, source }
    }

    /// A shard with segments, spill files, two epochs, producers and groups of batches.
    fn with_records(disk: &SimDisk) -> Self {
        let mut sending = Self::open(disk);
        for _ in 0..4 {
            sending.append(20);
            sending.checkpoint();
        }
        sending.append_large(3);
        sending.checkpoint();
        sending.append(5);
        sending.checkpoint();
        sending
    }

    /// A shard with a little of each.
    fn with_few_records(disk: &SimDisk) -> Self {
        let mut sending = Self::open(disk);
        sending.append(3);
        sending.append_large(5);
        sending.checkpoint();
        sending.append(2);
        sending.checkpoint();
        sending
    }

    fn append(&self, count: i64) {
        self.shard.append(count);
        self.note_producers();
    }

    /// Appends batches that are larger than a piece, to partition 1.
    fn append_large(&self, count: usize) {
        let log = self.shard.log(1);
        for _ in 0..count {
            let bytes = Builder::new()
                .producer(9, 1, 40)
                .record(5, Some(&1_i64.to_le_bytes()), Some(&vec![6; 7_000]))
                .record(6, Some(&2_i64.to_le_bytes()), Some(b"2"))
                .build();
            let batch = StampedBatch::new(bytes, log.high_watermark(), 3).expect("a batch");
            log.append(batch, 5);
        }
        self.append(0);
    }

    /// Gives the captured state producers and epochs that depend on what was appended.
    fn note_producers(&self) {
        let mut capture = self.shard.captured.0.lock();
        for index in 0..2 {
            let state = capture.state.partitions.get_mut(&partition(index)).expect("it is open");
            let next_offset = state.next_offset;
            let batch = ProducerBatch {
                first_sequence: 40,
                last_sequence: 41,
                base_offset: next_offset - 2,
                timestamp_ms: 6,
            };
            let producer =
                Producer { epoch: 1, seen_ms: next_offset, batches: [batch].into_iter().collect() };
            state.producers.get_or_insert_default().insert(9, producer);
            state.epochs = vec![EpochStart { epoch: 1, start_offset: 0 }];
        }
    }

    fn checkpoint(&mut self) {
        self.shard.checkpoint().expect("durable");
    }

    /// The newest snapshot that is durable.
    fn snapshot(&self) -> crate::snapshot::Snapshot {
        newest(self.shard.checkpointer.store().data())
    }

    fn content(&self) -> Content {
        let state = self.snapshot().state;
        Content::of(&state, |index| self.shard.log(index))
    }
}

fn newest(data: &DataDir) -> crate::snapshot::Snapshot {
    let snapshots = Snapshots::new(data, SHARD);
    let number = snapshots.numbers().expect("listed").pop().expect("there is one");
    snapshots.load(number).expect("intact")
}

/// Everything that two replicas of a shard have in common.
#[derive(Debug, PartialEq)]
struct Content {
    state: State,
    /// Log start, high watermark and all bytes of each partition; offsets and epochs are in them.
    logs: BTreeMap<i32, (i64, i64, Bytes)>,
}

impl Content {
    fn of(state: &State, log: impl Fn(i32) -> Arc<PartitionLog>) -> Self {
        let content = |index| {
            let log = log(index);
            let end = state.partitions[&partition(index)].next_offset;
            let (start, mut bytes) = (log.log_start(), Vec::new());
            let mut at = log.local_start();
            while at < end {
                let chunk = log.read(at, 1 << 20, true).expect("readable");
                assert!(chunk.next_offset > at, "O4: a read at {at} gives nothing");
                at = chunk.next_offset;
                bytes.extend(chunk.bytes.into_iter().flatten());
            }
            (index, (start, end, bytes.into()))
        };
        Self { state: state.clone(), logs: (0..2).map(content).collect() }
    }
}

/// The broker that receives.
struct Receiving {
    disk: SimDisk,
    store: Arc<crate::store::Store>,
    wal: Wal,
    receiver: Receiver,
    replica: u64,
    /// The shards that recovery found to be received.
    receiving: Vec<(ShardId, u64)>,
    /// The content of the shard, if it was opened.
    content: Option<Content>,
    /// The last entry that the opened shard's log includes.
    last: u64,
    hard_state: Option<HardState>,
}

fn data_of(disk: &SimDisk) -> DataDir {
    DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"))
}

fn options() -> recovery::Options {
    recovery::Options {
        wal: ropewalk_wal::Options {
            file_bytes: 64 << 10,
            first_file_bytes: 64 << 10,
            ..ropewalk_wal::Options::default()
        },
        ..recovery::Options::default()
    }
}

/// A formatted disk; with `replica` new, without a replica of the shard.
fn formatted(seed: u64, replica: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let (data, options) = (data_of(&disk), options());
    let identity = Identity::first("c".to_owned(), BrokerId(2), 1);
    bootstrap::format(&data, &identity, &options).expect("an empty disk");
    assert!(matches!(data.contents(), Ok(DataDirContents::Formatted(_))));
    if replica == LEARNER {
        let (mut wal, _) =
            Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal).expect("it opens");
        let key = ReplicaKey { shard: SHARD.0, replica: SENDER };
        wal.write_round(&[Record::ReplicaDestroyed { key }]).expect("durable");
        let snapshots = Snapshots::new(&data, SHARD);
        snapshots.remove_all_but(&[]).expect("removed");
        disk.sync_dir(&data.snapshots(), "test").expect("durable");
    }
    disk.restart();
    disk
}

impl Receiving {
    fn open(disk: &SimDisk, replica: u64) -> Result<Self, recovery::OpenError> {
        let opened = recovery::open(data_of(disk), &options())?;
        let OpenStore { store, wal, replicas, receiving, damaged, damaged_partitions, .. } = opened;
        assert_eq!(damaged_partitions, []);
        let shard = replicas.into_iter().find(|found| found.shard == SHARD);
        let is_new = shard.is_none() && receiving.is_empty();
        assert_eq!(!damaged.is_empty(), is_new && replica == LEARNER, "{damaged:?}");
        let hard_state = shard.as_ref().map(|found| {
            let state = found.start.hard_state;
            HardState { term: state.term, vote: state.vote, commit: state.commit }
        });
        let last = shard.as_ref().map_or(0, |found| {
            assert_eq!(found.start.replica, replica);
            found.start.entries.last().map_or(found.start.snapshot.index, |entry| entry.index)
        });
        let content = shard.filter(|found| !found.logs.is_empty()).map(|found| {
            Content::of(&found.state, |index| Arc::clone(&found.logs[&partition(index)]))
        });
        let receiver = Receiver::new(Arc::clone(&store), OPTIONS);
        let disk = disk.clone();
        Ok(Self { disk, store, wal, receiver, replica, receiving, content, last, hard_state })
    }

    fn install(&mut self) -> Result<Vec<Message>, WorkError> {
        let mut out = Vec::new();
        for shard in self.receiver.complete() {
            let (position, last) = (Position { hard_state: self.hard_state }, self.last);
            let claim = |_, _, entry: EntryId| (last < entry.index).then_some(position);
            out.extend(self.receiver.install(shard, &claim, &mut self.wal)?);
        }
        Ok(out)
    }
}

/// Two brokers and the messages between them.
struct Pair {
    now_ms: i64,
    /// Messages on their way, encoded.
    in_flight: Vec<Bytes>,
    /// Most bytes of messages on their way at once.
    in_flight_bytes_max: usize,
    /// Number of the messages that were delivered.
    delivered: usize,
    /// Bytes of the pieces that were delivered.
    pieces_bytes: usize,
    installed: bool,
    stops: Vec<StopReason>,
}

impl Pair {
    fn new() -> Self {
        Self {
            now_ms: 0,
            in_flight: Vec::new(),
            in_flight_bytes_max: 0,
            delivered: 0,
            pieces_bytes: 0,
            installed: false,
            stops: Vec::new(),
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Body::Stop { reason, .. } = message.body {
                self.installed |= reason == StopReason::Installed;
                self.stops.push(reason);
            }
            self.in_flight.push(message.encode().to_bytes());
        }
        let bytes = self.in_flight.iter().map(Bytes::len).sum::<usize>();
        self.in_flight_bytes_max = self.in_flight_bytes_max.max(bytes);
    }

    /// Delivers a message. Returns whether there was one.
    fn deliver(
        &mut self,
        sending: &mut Sending,
        receiving: &mut Receiving,
    ) -> Result<bool, WorkError> {
        if self.in_flight.is_empty() {
            return Ok(false);
        }
        let bytes = self.in_flight.remove(0);
        // A message that was damaged in transit is dropped.
        let Ok(message) = Message::decode(bytes) else { return Ok(true) };
        self.delivered += 1;
        let now_ms = self.now_ms;
        let messages = match &message.body {
            Body::Want | Body::Fetch(_) | Body::Stop { .. } => {
                sending.source.handle(&message, now_ms)
            }
            Body::Offer(_) | Body::Wait | Body::Piece { .. } | Body::Expired { .. } => {
                if let Body::Piece { bytes, .. } = &message.body {
                    self.pieces_bytes += bytes.len();
                }
                let last = receiving.last;
                let need = |_, _, entry: EntryId| last < entry.index;
                receiving.receiver.handle(&message, &need, now_ms)?
            }
        };
        self.send(messages);
        Ok(true)
    }

    /// One round: deliver a message, or let time pass.
    fn step(&mut self, sending: &mut Sending, receiving: &mut Receiving) -> Result<(), WorkError> {
        if self.deliver(sending, receiving)? {
            return Ok(());
        }
        let ticked = sending.source.tick(self.now_ms);
        self.send(ticked);
        let (messages, next) = receiving.receiver.step(self.now_ms)?;
        self.send(messages);
        let installed = receiving.install()?;
        self.send(installed);
        if next == Next::Wait && self.in_flight.is_empty() {
            self.now_ms += 1_000;
        }
        Ok(())
    }

    /// Runs until the shard is installed.
    fn run(&mut self, sending: &mut Sending, receiving: &mut Receiving) -> Result<(), WorkError> {
        for _ in 0..20_000 {
            if self.installed {
                return Ok(());
            }
            self.step(sending, receiving)?;
        }
        panic!("it does not end: {:?} at {} ms", self.stops, self.now_ms);
    }
}

/// Begins a transfer, unless recovery found one that is under way or done.
fn begin(receiving: &mut Receiving) -> Result<(), WorkError> {
    receiving.receiver.begin(SHARD, receiving.replica, SENDER)
}

/// Checks that the shard was installed as it is at the sender, and that nothing else is left.
fn check_installed(sending: &Sending, receiving: Receiving) {
    let Receiving { disk, replica, hard_state, .. } = receiving;
    drop((receiving.store, receiving.wal, receiving.receiver));
    for seed in [None, Some(3)] {
        match seed {
            None => disk.restart(),
            Some(seed) => disk.power_cycle(seed),
        }
        let opened = Receiving::open(&disk, replica).expect("it opens");
        let snapshot = sending.snapshot();
        let data = data_of(&disk);
        let installed = newest(&data);
        assert_eq!((installed.index, installed.term), (snapshot.index, snapshot.term));
        assert_eq!(installed.members, snapshot.members);
        assert_eq!(installed.replica, ReplicaId(replica));
        assert_eq!(opened.content.as_ref(), Some(&sending.content()));
        assert_eq!(opened.last, snapshot.index, "the log begins behind the snapshot");
        let state = opened.hard_state.expect("it has one");
        if let Some(before) = hard_state {
            assert!(state.term >= before.term, "D4: the term stays");
            assert!(state.term > before.term || state.vote == before.vote, "D4: so does the vote");
        }
        assert_eq!(opened.receiving, []);
        assert_eq!(data.names(&data.transfer(SHARD)).expect("listed"), Vec::<String>::new());
        for name in data.names(&data.partitions()).expect("listed") {
            let snapshots = Snapshots::new(&data, SHARD);
            let is_named = snapshots.numbers().expect("listed").into_iter().any(|number| {
                let kept = snapshots.load(number).expect("intact");
                kept.partitions.iter().any(|files| {
                    DataDir::partition_name(files.partition, files.incarnation) == name
                })
            });
            let dir = data.partitions().join(&name);
            assert!(is_named || data.names(&dir).expect("listed").is_empty(), "{name} is left");
        }
    }
}

#[test]
fn a_new_replica_and_one_that_is_far_behind_get_the_whole_shard() {
    for replica in [LEARNER, SENDER] {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let mut receiving = Receiving::open(&formatted(2, replica), replica).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let mut pair = Pair::new();
        pair.run(&mut sending, &mut receiving).expect("nothing fails");
        assert!(pair.delivered > 100, "{} messages", pair.delivered);
        pair.deliver(&mut sending, &mut receiving).expect("nothing fails");
        assert_eq!(sending.source.transfers(), 0, "the sender releases its files");
        check_installed(&sending, receiving);
    }
}

/// What the leader's engine asks for begins the transfer as well.
#[test]
fn an_offer_of_the_leader_begins_a_transfer() {
    let mut sending = Sending::with_records(&SimDisk::new(1));
    let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
    let mut pair = Pair::new();
    pair.send(sending.source.offer(SHARD, SENDER, LEARNER, 0));
    pair.run(&mut sending, &mut receiving).expect("nothing fails");
    check_installed(&sending, receiving);
}

/// Damage, losses and repetitions on the way between two brokers.
#[test]
fn messages_may_be_lost_repeated_and_late() {
    for seed in 0..20 {
        let mut sending = Sending::with_records(&SimDisk::new(1));
        let mut receiving = Receiving::open(&formatted(2, LEARNER), LEARNER).expect("it opens");
        begin(&mut receiving).expect("nothing fails");
        let (mut pair, mut dice) = (Pair::new(), ropewalk_disk::Dice::new(seed));
        for _ in 0..100_000 {
            if pair.installed {
                break;
            }
            if !pair.in_flight.is_empty() {
                let at = dice.below(pair.in_flight.len() as u64) as usize;
                let message = pair.in_flight.remove(at);
                match dice.below(8) {
                    0 => {}
                    1 => pair.in_flight.push(message),
                    2 => pair.in_flight.splice(0..0, [message.clone(), message]).for_each(drop),
                    _ => pair.in_flight.insert(0, message),
                }
            }
            pair.step(&mut sending, &mut receiving).expect("nothing fails");
        }
        assert!(pair.installed, "seed {seed}");
        check_installed(&sending, receiving);
    }
}

/// Restarts the broker.
fn reopened(receiving: Receiving, replica: u64) -> Receiving {
    let disk = receiving.disk.clone();
    drop(receiving);
    disk.restart();
    Receiving::open(&disk, replica).expect("it opens")
}

/// The segment files of a partition in the data directory of a broker.
fn segment_names(data: &DataDir, partition: PartitionId) -> Vec<String> {
    let named = newest(data);
    let files = named.partitions.iter().find(|files| files.partition == partition);
    let files = files.expect("it is in the snapshot");
    data.names(&data.partition(partition, files.incarnation)).expect("listed")
}
