//! A simulated client and broker: views of incremental and full fetches are equal.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_codec::Records;

use super::*;

/// Partitions of the simulation.
const PARTITIONS: i32 = 5;
/// The log start is above the offset that is asked.
const OUT_OF_RANGE: i16 = 1;
const FAILED: i16 = 3;

/// A partition of the simulated broker.
#[derive(Debug, Default)]
struct Log {
    start: i64,
    end: i64,
    is_failed: bool,
    /// The token that is reported with the next change.
    registered: Option<u32>,
}

/// What a client knows of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    offset: i64,
    high_watermark: i64,
    log_start: i64,
    error: i16,
    /// Consecutive responses without a record of it although it had some.
    passed_over: i32,
}

#[derive(Debug, Default)]
struct Simulation {
    logs: Vec<Log>,
    changed: Vec<u32>,
    session: Session,
    client: BTreeMap<i32, Known>,
    named: BTreeSet<i32>,
    forgotten: BTreeSet<i32>,
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, i64),
    Trim(usize),
    Fail(usize, bool),
    Lead,
    Want(i32),
    Seek(i32),
    Forget(i32),
    Fetch(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let log = 0..usize::try_from(PARTITIONS).expect("few");
    let step = prop_oneof![
        4 => (log.clone(), 1..4_i64).prop_map(|(log, records)| Step::Append(log, records)),
        1 => log.clone().prop_map(Step::Trim),
        1 => (log, any::<bool>()).prop_map(|(log, fails)| Step::Fail(log, fails)),
        1 => Just(Step::Lead),
        3 => (0..PARTITIONS).prop_map(Step::Want),
        1 => (0..PARTITIONS).prop_map(Step::Seek),
        1 => (0..PARTITIONS).prop_map(Step::Forget),
        8 => (0..4_i64).prop_map(Step::Fetch),
    ];
    proptest::collection::vec(step, 1..120)
}

fn named(partitions: impl IntoIterator<Item = (i32, i64)>) -> Vec<FetchTopic> {
    let asked = |(partition, fetch_offset)| FetchPartition {
        partition,
        fetch_offset,
        ..Default::default()
    };
    let partitions = partitions.into_iter().map(asked).collect();
    vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }]
}

impl Simulation {
    fn new() -> Self {
        let logs = (0..PARTITIONS).map(|_| Log::default()).collect();
        Self { logs, ..Self::default() }
    }

    fn change(&mut self, log: usize, change: impl FnOnce(&mut Log)) {
        change(&mut self.logs[log]);
        self.changed.extend(self.logs[log].registered.take());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(log, records) => self.change(log, |log| log.end += records),
            Step::Trim(log) => self.change(log, |log| log.start = log.end),
            Step::Fail(log, fails) => self.change(log, |log| log.is_failed = fails),
            Step::Lead => drop(self.session.wake_settled()),
            // A request removes partitions after it adds those that it names.
            Step::Want(partition) if self.forgotten.contains(&partition) => {}
            Step::Want(partition) => {
                self.client.entry(partition).or_default();
                self.named.insert(partition);
            }
            Step::Seek(partition) => {
                if let Some(known) = self.client.get_mut(&partition) {
                    known.offset = 0;
                    self.named.insert(partition);
                }
            }
            Step::Forget(partition) => {
                if self.client.remove(&partition).is_some() {
                    self.named.remove(&partition);
                    self.forgotten.insert(partition);
                }
            }
            Step::Fetch(room) => self.fetch(room),
        }
    }

    /// An incremental fetch of at most `room` records, one byte each.
    fn fetch(&mut self, mut room: i64) {
        let had_room = room > 0;
        let asked = self.named.iter().map(|at| (*at, self.client[at].offset));
        let topics = named(asked);
        let partitions = std::mem::take(&mut self.forgotten).into_iter().collect();
        let forgotten = ForgottenTopic { topic: "t".into(), partitions, ..Default::default() };
        self.named.clear();
        self.session.update(&topics, &[forgotten]).expect("it is small");
        for token in std::mem::take(&mut self.changed) {
            self.session.wake(token);
        }
        let active: Vec<Active> = self.session.active().collect();
        let mut errors = BTreeSet::new();
        let mut served = BTreeSet::new();
        let with_data = self.with_data();
        for Active { token, asked, watched, .. } in active {
            let at = usize::try_from(asked.partition).expect("an index");
            if !watched {
                self.logs[at].registered = Some(token);
                self.session.watched(token);
            }
            let data = self.read(at, asked.fetch_offset, room);
            let records = data.records.len() as i64;
            room -= records;
            if !self.session.answer(token, &data) {
                assert_eq!((records, data.error_code), (0, 0), "left out of the response");
                continue;
            }
            let known = self.client.get_mut(&asked.partition).expect("nothing else is answered");
            assert_eq!(asked.fetch_offset, known.offset, "the session has the latest offset");
            known.high_watermark = data.high_watermark;
            known.log_start = data.log_start_offset;
            known.error = data.error_code;
            known.offset += records;
            if data.error_code == OUT_OF_RANGE {
                known.offset = data.log_start_offset;
            }
            if data.error_code != 0 {
                errors.insert(asked.partition);
            }
            if records > 0 {
                served.insert(asked.partition);
            }
            if records > 0 || data.error_code == OUT_OF_RANGE {
                self.named.insert(asked.partition);
            }
        }
        self.check(&errors);
        for partition in with_data {
            let known = self.client.get_mut(&partition).expect("it is wanted");
            let is_passed_over = had_room && !served.contains(&partition);
            known.passed_over = if is_passed_over { known.passed_over + 1 } else { 0 };
            assert!(known.passed_over < PARTITIONS, "{partition} is never served");
        }
    }

    fn with_data(&self) -> Vec<i32> {
        let has_data = |(partition, known): (&i32, &Known)| {
            let log = &self.logs[usize::try_from(*partition).expect("an index")];
            let has = !log.is_failed && (log.start..log.end).contains(&known.offset);
            has.then_some(*partition)
        };
        self.client.iter().filter_map(has_data).collect()
    }

    fn read(&self, at: usize, from: i64, room: i64) -> PartitionData {
        let log = &self.logs[at];
        let mut data = PartitionData {
            high_watermark: log.end,
            log_start_offset: log.start,
            records: Records::from(Bytes::new()),
            ..Default::default()
        };
        data.diverging_epoch.epoch = -1;
        if log.is_failed {
            data.error_code = FAILED;
            (data.high_watermark, data.log_start_offset) = (-1, -1);
        } else if from < log.start {
            data.error_code = OUT_OF_RANGE;
        } else {
            let count = usize::try_from(room.min(log.end - from)).expect("not past the end");
            data.records = Records::from(Bytes::from(vec![0; count]));
        }
        data
    }

    /// Compares the client's view with the one of a full fetch.
    fn check(&self, errors: &BTreeSet<i32>) {
        assert_eq!(self.session.len(), self.client.len());
        for (partition, known) in &self.client {
            let log = &self.logs[usize::try_from(*partition).expect("an index")];
            if log.is_failed {
                assert!(errors.contains(partition), "{partition} is reported in each response");
            } else {
                let view = (known.high_watermark, known.log_start);
                assert_eq!(view, (log.end, log.start), "the view of {partition}");
                assert!(known.error == 0 || errors.contains(partition), "a past error");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases * 2))]

    #[test]
    fn a_client_of_a_session_has_the_view_of_full_fetches(steps in steps()) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.step(step);
        }
        simulation.fetch(0);
        // Whatever is left is received in the end, and nothing is read after that.
        for log in &mut simulation.logs {
            log.is_failed = false;
        }
        drop(simulation.session.wake_settled());
        for _ in 0..1000 {
            simulation.fetch(3);
        }
        prop_assert_eq!(simulation.with_data(), Vec::<i32>::new());
        prop_assert_eq!(simulation.session.active().count(), 0);
    }
}

#[test]
fn a_fetch_costs_nothing_for_partitions_that_did_not_change() {
    let mut simulation = Simulation::new();
    (0..PARTITIONS).for_each(|partition| simulation.step(Step::Want(partition)));
    simulation.fetch(1);
    assert_eq!(simulation.session.active().count(), 0);
    simulation.step(Step::Append(2, 1));
    let token = simulation.changed[0];
    assert_eq!(simulation.session.wake(token).expect("it was settled").key.partition, 2);
    assert!(simulation.session.wake(token).is_none(), "it is active already");
    assert_eq!(simulation.session.active().count(), 1);
}

#[test]
fn r1_a_session_is_bounded() {
    let most = i32::try_from(limits::FETCH_SESSION_PARTITIONS_MAX).expect("it fits");
    let session = |count| Session::of(&named((0..count).map(|partition| (partition, 0))));
    assert_eq!(session(most).expect("it fits").len(), limits::FETCH_SESSION_PARTITIONS_MAX);
    assert_eq!(session(most + 1).map(|_| ()), Err(Unfit::TooLarge));
    let mut full = session(most).expect("it fits");
    assert_eq!(full.update(&named([(0, 7)]), &[]), Ok(()), "it is there already");
    assert_eq!(full.update(&named([(most, 0)]), &[]), Err(Unfit::TooLarge));
    let mut long = named([(0, 0)]);
    long[0].topic = "x".repeat(NAME_LEN_MAX + 1).as_str().into();
    assert_eq!(Session::of(&long).map(|_| ()), Err(Unfit::TooLarge));
    assert_eq!(Session::of(&named([(0, 0), (0, 1)])).map(|_| ()), Err(Unfit::Repeated));

    // Tables may have twice the capacity that they use.
    let tables = 2 * size_of::<(Key, usize)>() + 2 * size_of::<(u64, usize)>();
    let registration = 2 * size_of::<(usize, u32)>();
    let bytes = 2 * size_of::<Entry>() + tables + registration + NAME_LEN_MAX;
    assert!(bytes <= limits::FETCH_SESSION_PARTITION_BYTES, "{bytes}");
}
