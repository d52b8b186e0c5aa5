//! A machine that runs, fails and restarts, controlled by a seed.

use std::collections::BTreeMap;

use ropewalk_disk::{Dice, Fault, Operation, SimDisk};
use ropewalk_shard::command::TierChange;
use ropewalk_shard::limits::TIER_OBJECTS_MAX;
use ropewalk_shard::manifest::ObjectRef;
use ropewalk_shard::{HistoryId, Outcome, PartitionId, ShardId, TopicId};

use super::broker::{self, Broker, DecidedProposal, ProcessEnd, SHARDS};
use super::oracle::{Model, Op, PartitionModel, SentBatch};

const PRODUCERS: u64 = 3;

/// How the runs of a machine end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// In any of the ways below, or by a stop.
    Mixed,
    /// At a crash point.
    Crashes,
    /// Because a write or a sync failed.
    Failures,
}

pub(crate) struct Machine {
    ends: RunEnd,
    pub(crate) disk: SimDisk,
    pub(crate) dice: Dice,
    models: BTreeMap<ShardId, Model>,
    /// Proposals of the last run that were not answered, in order.
    doubts: BTreeMap<ShardId, Vec<Op>>,
    next_topic: u128,
    now_ms: i64,
    pub(crate) fails: bool,
    pub(crate) acked: u64,
    pub(crate) checkpoints: u64,
    pub(crate) doubts_kept: u64,
    pub(crate) lives: u64,
}

impl Machine {
    pub(crate) fn new(seed: u64, ends: RunEnd, ignored: Option<&'static str>) -> Self {
        let disk = SimDisk::new(seed);
        if let Some(why) = ignored {
            disk.ignore_syncs(why);
        }
        Self {
            ends,
            disk,
            dice: Dice::new(seed),
            models: (0..=SHARDS).map(|shard| (ShardId(shard), Model::default())).collect(),
            doubts: BTreeMap::new(),
            next_topic: 1,
            now_ms: 1_000_000,
            fails: false,
            acked: 0,
            checkpoints: 0,
            doubts_kept: 0,
            lives: 0,
        }
    }

    /// One run. The error is a violated invariant.
    pub(crate) fn live(&mut self) -> Result<(), String> {
        self.plan_the_end();
        self.live_on()
    }

    /// One run without a failure, at the end of which every proposal was answered.
    pub(crate) fn live_in_peace(&mut self) {
        self.fails = false;
        self.live_on().expect("nothing fails");
    }

    /// A run without requests, until the log is no longer than `enough`. Returns the size of the
    /// log at start and at the end.
    pub(crate) fn rest(&mut self, enough: u64) -> (u64, u64) {
        let opened = broker::open(&self.disk).expect("it can be opened");
        let mut broker = Broker::start(opened, self.now_ms).expect("it starts");
        let at_first = broker.log_bytes();
        for _ in 0..1000 {
            if broker.log_bytes() <= enough {
                break;
            }
            broker.pass(200);
            broker.step().expect("nothing fails");
        }
        (at_first, broker.log_bytes())
    }

    /// The expected content of each shard.
    pub(crate) fn models(&self) -> &BTreeMap<ShardId, Model> {
        &self.models
    }

    /// One run, whose end is planned already.
    pub(crate) fn live_on(&mut self) -> Result<(), String> {
        let opened = match broker::open(&self.disk) {
            Ok(opened) => opened,
            Err(_) if self.disk.crashed() || self.fails => return Ok(()),
            Err(error) => return Err(format!("cannot be opened: {error}")),
        };
        if let Some(damaged) = opened.damaged.first() {
            return Err(format!("{} is damaged: {}", damaged.shard, damaged.what));
        }
        if let Some((partition, what)) = opened.damaged_partitions.first() {
            return Err(format!("{partition} is damaged: {what}"));
        }
        let Ok(mut broker) = Broker::start(opened, self.now_ms) else { return Ok(()) };
        broker.interleave(&self.disk, self.dice.draw());
        self.compare(&broker)?;
        let acts = 20 + self.dice.below(100);
        for _ in 0..acts {
            let ended = self.act(&mut broker)?;
            if ended {
                return Ok(());
            }
        }
        self.now_ms = broker.now_ms();
        self.checkpoints += broker.checkpoints;
        if self.dice.one_in(2) {
            let _ = broker.stop();
        }
        Ok(())
    }

    fn plan_the_end(&mut self) {
        self.lives += 1;
        self.fails = false;
        let end = match self.ends {
            RunEnd::Mixed => self.dice.below(10),
            RunEnd::Crashes => self.dice.below(7),
            RunEnd::Failures => 7,
        };
        match end {
            // Often in the middle of recovery.
            0..=2 => self.disk.crash_at(1 + self.dice.below(60)),
            3..=6 => self.disk.crash_at(1 + self.dice.below(700)),
            7 | 8 => {
                self.fails = true;
                let operation = match self.dice.below(4) {
                    0 => Operation::Write,
                    1 => Operation::SyncDir,
                    _ => Operation::Sync,
                };
                let skip = self.dice.below(80);
                self.disk.inject(Fault { skip, ..Fault::next(operation) });
            }
            _ => {}
        }
    }

    pub(crate) fn end_life(&mut self) {
        self.disk.clear_faults();
        if self.dice.one_in(3) {
            self.disk.restart();
        } else {
            self.disk.power_cycle(self.dice.draw());
        }
    }

    /// Determines which unanswered proposals were committed, and checks all other content.
    fn compare(&mut self, broker: &Broker) -> Result<(), String> {
        for (shard, model) in &mut self.models {
            let doubts = self.doubts.remove(shard).unwrap_or_default();
            let mut first_wrong = None;
            let mut found = false;
            for kept in 0..=doubts.len() {
                if kept > 0 {
                    model.apply(&doubts[kept - 1]);
                }
                let compared = broker.look(*shard, |state, logs| {
                    model.compare(state, |id| logs.get(id).map(|log| &**log))
                });
                match compared {
                    Ok(()) => {
                        self.doubts_kept += kept as u64;
                        found = true;
                        break;
                    }
                    Err(wrong) => {
                        first_wrong.get_or_insert(wrong);
                    }
                }
            }
            if !found {
                let wrong = first_wrong.expect("something was wrong");
                return Err(format!("{shard}: {wrong} ({} doubts)", doubts.len()));
            }
        }
        Ok(())
    }

    /// Makes one random step. Returns whether the run is over.
    fn act(&mut self, broker: &mut Broker) -> Result<bool, String> {
        broker.pass(self.dice.below(200) as i64);
        let done = match self.dice.below(12) {
            0..=6 => {
                for _ in 0..=self.dice.below(4) {
                    self.propose(broker);
                }
                self.settle(broker)?
            }
            7 => {
                self.retry(broker);
                self.settle(broker)?
            }
            8 => {
                self.read(broker)?;
                Ok(())
            }
            _ => broker.step(),
        };
        match done {
            Ok(()) => Ok(false),
            Err(ProcessEnd) if self.disk.crashed() || self.fails => {
                if self.fails && broker.goes_on() {
                    return Err("D2: it went on after a failed sync".to_owned());
                }
                self.checkpoints += broker.checkpoints;
                let doubts = broker.shards.iter().map(|(shard, running)| {
                    (*shard, running.undecided.values().cloned().collect::<Vec<Op>>())
                });
                self.doubts = doubts.collect();
                self.now_ms = broker.now_ms();
                Ok(true)
            }
            Err(ProcessEnd) => Err("D2: it ended for no reason".to_owned()),
        }
    }

    fn settle(&mut self, broker: &mut Broker) -> Result<Result<(), ProcessEnd>, String> {
        match broker.settle() {
            Ok(decided) => {
                for decided in decided {
                    self.decided(decided)?;
                }
                Ok(Ok(()))
            }
            Err(ended) => Ok(Err(ended)),
        }
    }

    /// Checks an answer against the model, then applies it to the model.
    fn decided(&mut self, decided: DecidedProposal) -> Result<(), String> {
        let DecidedProposal { shard, op, outcome } = decided;
        let model = self.models.get_mut(&shard).expect("all shards are modelled");
        let outcome = outcome.map_err(|error| format!("refused: {error}"))?;
        if let (Op::Append(items), Outcome::Appended(results)) = (&op, &outcome) {
            // One after the other: the second batch of an entry follows the first.
            for (item, result) in items.iter().zip(results) {
                let (partition, sent) = item;
                let found = result.map_err(|refused| format!("refused: {refused}"))?;
                let kept = model.partitions.get(partition).ok_or("it was not open")?;
                let before = kept.find(sent.producer, sent.sequence);
                let expected = before.unwrap_or(kept.next_offset);
                if found.duplicate != before.is_some() || found.base_offset != expected {
                    return Err(format!("D5/O1: answered {found:?} for {before:?}/{expected}"));
                }
                model.apply(&Op::Append(vec![item.clone()]));
            }
        } else if let Outcome::TierRefused(refusal) = outcome {
            return Err(format!("T1: {op:?} was refused: {refusal}"));
        } else {
            model.apply(&op);
        }
        self.acked += 1;
        Ok(())
    }

    fn propose(&mut self, broker: &mut Broker) {
        let shard = ShardId(1 + self.dice.below(u64::from(SHARDS)) as u32);
        // Unanswered proposals count: the sequences continue from there.
        let mut model = self.models[&shard].clone();
        for op in broker.shards[&shard].undecided.values() {
            model.apply(op);
        }
        let partitions: Vec<PartitionId> = model.partitions.keys().copied().collect();
        let op = match self.dice.below(40) {
            0 | 1 if partitions.len() < 4 => self.open(),
            _ if partitions.is_empty() => self.open(),
            2 => Op::Close(self.one_of(&partitions)),
            3 => {
                let partition = self.one_of(&partitions);
                let end = model.partitions[&partition].next_offset;
                Op::LogStart(partition, self.dice.below(end as u64 + 1) as i64)
            }
            8..=12 => {
                let partition = self.one_of(&partitions);
                let term = broker.term(shard);
                match self.tier_change(&model.partitions[&partition], term) {
                    Some(change) => Op::Tier(partition, change),
                    None => return,
                }
            }
            4..=7 => {
                let group = format!("group-{}", self.dice.below(2));
                let (partition, offset) = (self.one_of(&partitions), self.dice.below(50) as i64);
                Op::Commit { group, partition, offset }
            }
            _ => {
                let mut items = Vec::new();
                for _ in 0..=self.dice.below(3) {
                    let partition = self.one_of(&partitions);
                    let sent = self.batch(&model.partitions[&partition]);
                    model.apply(&Op::Append(vec![(partition, sent.clone())]));
                    items.push((partition, sent));
                }
                Op::Append(items)
            }
        };
        broker.propose(shard, op);
    }

    /// A change that the state accepts, if there is one.
    fn tier_change(&mut self, kept: &PartitionModel, term: u64) -> Option<TierChange> {
        let Some(tier) = kept.tier else { return Some(TierChange::Enable) };
        if self.dice.one_in(2) {
            let span = tier.end - tier.local_start;
            let by = self.dice.below(span as u64 + 1) as i64;
            return Some(TierChange::SetLocalStart(tier.local_start + by));
        }
        let span = kept.next_offset - tier.end;
        if span == 0 || tier.objects == TIER_OBJECTS_MAX {
            return None;
        }
        let end = tier.end + 1 + self.dice.below(span as u64) as i64;
        let digest = self.dice.draw();
        Some(TierChange::AddObject(ObjectRef { end, digest, ..object(tier.end, term) }))
    }

    fn open(&mut self) -> Op {
        let topic = TopicId(uuid::Uuid::from_u128(self.next_topic));
        self.next_topic += 1;
        Op::Open(PartitionId { topic, index: 0 })
    }

    fn one_of(&mut self, partitions: &[PartitionId]) -> PartitionId {
        // The first ones are busier than the others.
        let bound = 1 + self.dice.below(partitions.len() as u64);
        partitions[self.dice.below(bound) as usize]
    }

    fn batch(&mut self, kept: &PartitionModel) -> SentBatch {
        let producer = self.dice.below(PRODUCERS) as i64;
        let size = match self.dice.below(10) {
            0 => 12_000,
            1..=3 => 3_000,
            _ => 100,
        };
        let value = vec![self.dice.draw() as u8; 1 + self.dice.below(size) as usize];
        let records = 1 + self.dice.below(4) as i32;
        SentBatch::new(producer, kept.next_sequence(producer), records, &value)
    }

    /// A producer that did not hear the answer to one of its last batches sends it again (D5).
    fn retry(&mut self, broker: &mut Broker) {
        let shard = ShardId(1 + self.dice.below(u64::from(SHARDS)) as u32);
        let producer = self.dice.below(PRODUCERS) as i64;
        let partitions: Vec<(&PartitionId, &PartitionModel)> =
            self.models[&shard].partitions.iter().collect();
        if partitions.is_empty() {
            return;
        }
        let (partition, kept) = partitions[self.dice.below(partitions.len() as u64) as usize];
        let sent = kept.batches.iter().rev().filter(|(_, sent)| sent.producer == producer);
        let last: Vec<&SentBatch> = sent.take(5).map(|(_, sent)| sent).collect();
        if let Some(last) = last.get(self.dice.below(5) as usize) {
            broker.propose(shard, Op::Append(vec![(*partition, (*last).clone())]));
        }
    }

    fn read(&mut self, broker: &Broker) -> Result<(), String> {
        for (shard, model) in &self.models {
            for (partition, kept) in &model.partitions {
                let span = kept.next_offset - kept.local_start();
                let from = kept.local_start() + self.dice.below(span as u64 + 1) as i64;
                let bytes_max = self.dice.below(20_000) as usize;
                let compared = broker
                    .look(*shard, |_, logs| kept.compare_from(&logs[partition], from, bytes_max));
                if self.disk.crashed() || self.fails {
                    continue;
                }
                compared.map_err(|wrong| format!("{partition}: {wrong}"))?;
            }
        }
        Ok(())
    }
}

fn object(base: i64, term: u64) -> ObjectRef {
    ObjectRef {
        base,
        end: base + 1,
        history: HistoryId(1),
        term,
        size_bytes: 1,
        digest: 0,
        max_timestamp_ms: 1_000,
        first_epoch: 0,
    }
}
