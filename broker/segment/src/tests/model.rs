//! Random histories with power losses, compared with a list of batches.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append { sizes: Vec<usize>, epoch_step: i32, pass_ms: i64 },
    Sync,
    Seal,
    LogStart { back: i64 },
    Crash { seed: u64, operation: Option<u64> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(1..40_usize, 1..8), 0..2, 0..400_000_i64).prop_map(
            |(sizes, epoch_step, pass_ms)| Step::Append { sizes, epoch_step, pass_ms }
        ),
        3 => Just(Step::Sync),
        1 => Just(Step::Seal),
        1 => (0..60_i64).prop_map(|back| Step::LogStart { back }),
        2 => (any::<u64>(), prop::option::of(1..12_u64))
            .prop_map(|(seed, operation)| Step::Crash { seed, operation }),
    ]
}

/// What must be there, and what must be there after a crash.
struct Model {
    all: Vec<StampedBatch>,
    durable: usize,
    end: Option<DurableEnd>,
    epoch: i32,
    now_ms: i64,
    log_start: i64,
}

impl Model {
    fn next_offset(&self) -> i64 {
        self.all.last().map_or(0, StampedBatch::next_offset)
    }

    fn kept(&self) -> Vec<StampedBatch> {
        self.all.iter().filter(|batch| batch.last_offset() >= self.log_start).cloned().collect()
    }

    fn run(&mut self, bench: &mut Bench, mut segments: Segments, step: &Step) -> Segments {
        match step {
            Step::Append { sizes, epoch_step, pass_ms } => {
                self.epoch += epoch_step;
                self.now_ms += pass_ms;
                let more = batches(self.next_offset(), sizes, self.epoch);
                if segments.append(&more, self.now_ms, &small()).is_ok() {
                    self.all.extend(more);
                } else {
                    assert!(bench.disk.crashed());
                }
            }
            Step::Sync => match segments.sync() {
                Ok(end) => {
                    self.end = Some(end);
                    self.durable = self.all.len();
                }
                Err(_) => assert!(bench.disk.crashed()),
            },
            Step::Seal => segments.seal().unwrap(),
            Step::LogStart { back } => {
                // Only what every kept snapshot has: here, what is durable.
                let durable = self.all[..self.durable].last().map_or(0, StampedBatch::next_offset);
                self.log_start = self.log_start.max(durable - back);
                for path in segments.set_log_start(self.log_start) {
                    let _gone_already = bench.disk.remove(&path);
                }
            }
            Step::Crash { seed, operation: None } => return self.crash(bench, *seed),
            Step::Crash { operation: Some(operation), .. } => {
                bench.disk.crash_at(bench.disk.operations() + operation);
            }
        }
        if bench.disk.crashed() {
            return self.crash(bench, self.now_ms.cast_unsigned());
        }
        segments
    }

    /// What was not synced may be gone, and is dropped in any case.
    fn crash(&mut self, bench: &mut Bench, seed: u64) -> Segments {
        bench.power_cycle(seed);
        self.all.truncate(self.durable);
        let segments = bench.recover(self.end.as_ref(), self.log_start, seed / 2);
        assert_eq!(segments.damages(), []);
        segments
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(4)))]

    #[test]
    fn o4_no_gap_no_repeat_through_any_history(steps in prop::collection::vec(step(), 1..25)) {
        let mut bench = Bench::new();
        let mut model =
            Model { all: vec![], durable: 0, end: None, epoch: 1, now_ms: 0, log_start: 0 };
        let mut segments = bench.open(None, 0);
        for step in &steps {
            segments = model.run(&mut bench, segments, step);
        }
        bench.disk.crash_at(u64::MAX);
        assert_holds(&segments, &model.kept(), model.log_start);
        let segments = model.crash(&mut bench, 3);
        assert_holds(&segments, &model.kept(), model.log_start);
    }
}

/// Every fsync that a checkpoint makes is needed: without it some crash loses what was promised.
#[test]
fn every_sync_of_a_checkpoint_is_needed() {
    for why in ["segment", "segment-index", "segment-directory", "partition-directory"] {
        let harmed = (0..40).any(|seed| {
            let mut bench = Bench::new();
            bench.disk.ignore_syncs(why);
            let mut segments = bench.open(None, 0);
            segments.append(&batches(0, &[30, 30, 30], 1), 0, &small()).unwrap();
            let end = segments.sync().unwrap();
            bench.power_cycle(seed);
            bench.disk.heed_all_syncs();
            let segments = bench.open(Some(&end), 0);
            // An index can be rebuilt; the test shows that it has to be.
            //
            let rebuilt = bench.disk.sync_counts().get("segment-index").copied().unwrap_or(0);
            !segments.damages().is_empty() || rebuilt > 2
        });
        assert!(harmed, "{why} could be left out");
    }
}
