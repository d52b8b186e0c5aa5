//! A machine that starts and crashes repeatedly, driven by a seed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::{Dice, Disk, Fault, Operation, SimDisk};
use ropewalk_wal::{HardState, OpenError, Options, Record, ReplicaKey, Wal, WalError};

use super::model::Model;

pub(crate) const DIR: &str = "/data/wal";
const FILE_BYTES: u64 = 64 << 10;
const SHARDS: u64 = 4;

pub(crate) const OPTIONS: Options = Options {
    file_bytes: FILE_BYTES,
    first_file_bytes: 48 << 10,
    files_bytes_max: 4 << 20,
    spares_max: 3,
    prefilled: 0,
};

pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    dice: Dice,
    pub(crate) model: Model,
    /// The model including the round with an unknown outcome.
    doubt: Option<Model>,
    /// Replica ids are never used again.
    replica_next: u64,
    /// A sync fails during this start.
    fails: bool,
    /// The sync of a name fails; the process then starts again with the content of the cache.
    name_fails: bool,
    pub(crate) rounds_written: u64,
    pub(crate) files_released: u64,
    pub(crate) doubts_kept: u64,
}

impl Machine {
    pub(crate) fn new(seed: u64, ignored: Option<&'static str>) -> Self {
        let disk = SimDisk::new(seed);
        if let Some(why) = ignored {
            disk.ignore_syncs(why);
        }
        Self {
            disk,
            dice: Dice::new(seed),
            model: Model::default(),
            doubt: None,
            replica_next: 1,
            fails: false,
            name_fails: false,
            rounds_written: 0,
            files_released: 0,
            doubts_kept: 0,
        }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.disk.trace()
    }

    pub(crate) fn sync_reasons(&self) -> impl Iterator<Item = &'static str> {
        self.disk.sync_counts().into_keys()
    }

    /// One start until its end. The error is a violated guarantee.
    pub(crate) fn live(&mut self) -> Result<(), String> {
        self.plan_the_end();
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (mut wal, recovered) = match Wal::open(disk, Path::new(DIR), OPTIONS) {
            Ok(opened) => opened,
            Err(OpenError::Io { .. }) if self.disk.crashed() || self.fails => return Ok(()),
            Err(error) => return Err(format!("cannot be opened: {error}")),
        };
        if let Err(wrong) = self.model.compare(&wal, &recovered) {
            let doubt = self.doubt.take().ok_or(wrong)?;
            doubt.compare(&wal, &recovered)?;
            self.model = doubt;
            self.doubts_kept += 1;
        }
        self.doubt = None;
        for _ in 0..60 {
            if self.dice.one_in(12) {
                self.release(&mut wal);
            } else if !self.write(&mut wal)? {
                break;
            }
        }
        Ok(())
    }

    fn plan_the_end(&mut self) {
        self.fails = false;
        let after_name_failed = std::mem::take(&mut self.name_fails);
        match self.dice.below(10) {
            _ if after_name_failed => self.disk.crash_at(1 + self.dice.below(25)),
            // Often in the middle of opening.
            0..=2 => self.disk.crash_at(1 + self.dice.below(25)),
            3..=6 => self.disk.crash_at(1 + self.dice.below(200)),
            7 | 8 => {
                self.fails = true;
                let operation = match self.dice.below(4) {
                    0 => Operation::Write,
                    1 | 2 => Operation::SyncDir,
                    _ => Operation::Sync,
                };
                self.name_fails = operation == Operation::SyncDir;
                let skip = self.dice.below(if self.name_fails { 8 } else { 40 });
                self.disk.inject(Fault { skip, ..Fault::next(operation) });
            }
            _ => {}
        }
    }

    pub(crate) fn end_life(&mut self) {
        if self.name_fails || self.dice.one_in(3) {
            self.disk.restart();
        } else {
            self.disk.power_cycle(self.dice.draw());
        }
    }

    /// Writes a round. `Ok(false)`: the machine crashed.
    fn write(&mut self, wal: &mut Wal) -> Result<bool, String> {
        let (records, after) = self.round();
        let written = match self.dice.below(5) {
            0 => wal.write_round_from_reserve(&records),
            _ => wal.write_round(&records),
        };
        match written {
            Ok(_) => {
                self.model = after;
                self.rounds_written += 1;
                Ok(true)
            }
            Err(WalError::Failed(_)) if self.disk.crashed() || self.fails => {
                self.doubt = Some(after);
                match wal.write_round(&records) {
                    Err(WalError::Failed(_)) => Ok(false),
                    other => Err(format!("D2: a failed log answers {other:?}")),
                }
            }
            // The random round may be larger than a file.
            Err(WalError::TooLarge { .. }) => Ok(true),
            Err(error) => Err(format!("a round was refused: {error}")),
        }
    }

    fn release(&mut self, wal: &mut Wal) {
        let files = wal.files();
        let needed = self.model.replicas.iter();
        let needed = needed.map(|(key, replica)| (*key, replica.truncated.index + 1)).collect();
        wal.release(&needed);
        self.files_released += (files - wal.files()) as u64;
    }

    /// Some records that are valid for the model, and the model after them.
    pub(crate) fn round(&mut self) -> (Vec<Record>, Model) {
        let mut after = self.model.clone();
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let record = self.record(&after);
            after.apply(&record);
            records.push(record);
        }
        (records, after)
    }

    fn record(&mut self, model: &Model) -> Record {
        let shard = self.dice.below(SHARDS) as u32;
        let held = model.replicas.iter().find(|(key, _)| key.shard == shard);
        let Some((&key, replica)) = held else {
            let key = ReplicaKey { shard, replica: self.replica_next };
            self.replica_next += 1;
            let conf_state = self.bytes(20);
            return match self.dice.below(2) {
                0 => Record::Created { key, index: 1, term: 1, conf_state },
                _ => {
                    let index = 1 + self.dice.below(100);
                    Record::SnapshotInstalled { key, index, term: 1, conf_state }
                }
            };
        };
        let (start, last) = (replica.truncated.index, replica.last_index());
        let term = replica.hard_state.term.max(1);
        match self.dice.below(40) {
            0 => Record::ReplicaDestroyed { key },
            1 | 2 => Record::ConfState { key, data: self.bytes(30) },
            3 => {
                let index = last + 1 + self.dice.below(5);
                Record::SnapshotInstalled { key, index, term, conf_state: self.bytes(10) }
            }
            4..=8 if last > start => {
                let index = start + 1 + self.dice.below(last - start);
                Record::Truncated { key, index, term: replica.entries[&index].0 }
            }
            9..=13 => {
                let term = term + self.dice.below(2);
                let state = HardState { term, vote: self.dice.below(4), commit: last };
                Record::HardState { key, state }
            }
            14..=17 if last > start => {
                let index = start + 1 + self.dice.below(last - start);
                self.entry(key, index, term + 1)
            }
            _ => self.entry(key, last + 1, term),
        }
    }

    fn entry(&mut self, key: ReplicaKey, index: u64, term: u64) -> Record {
        let kind = self.dice.below(3) as u8;
        let data = match self.dice.below(20) {
            0 => Vec::<Bytes>::new().into(),
            1 => self.imitation().into(),
            2 => self.bytes(20_000).into(),
            3..=6 => self.bytes(5_000).into(),
            7 => vec![self.bytes(100), Bytes::new(), self.bytes(3_000)].into(),
            _ => self.bytes(300).into(),
        };
        Record::Entry { key, index, term, kind, data }
    }

    fn bytes(&mut self, len_max: u64) -> Bytes {
        let len = self.dice.below(len_max + 1) as usize;
        let pattern = self.dice.draw().to_le_bytes();
        pattern.into_iter().cycle().take(len).collect()
    }

    /// A payload that is a piece of a log file, so that its rounds are on block boundaries again if
    /// the entry is the first of its round.
    fn imitation(&mut self) -> Bytes {
        let names = self.disk.list(Path::new(DIR)).unwrap_or_default();
        let files: Vec<_> = names.iter().filter(|name| !name.starts_with("creating")).collect();
        if files.is_empty() {
            return Bytes::new();
        }
        let name = files[self.dice.below(files.len() as u64) as usize];
        let content = self.disk.content(&Path::new(DIR).join(name)).unwrap_or_default();
        let blocks = (content.len() / 4096) as u64;
        if blocks == 0 {
            return Bytes::new();
        }
        let from = self.dice.below(blocks) as usize * 4096;
        let to = (from + 8192).min(content.len());
        let before = 40 + 16 + 16 + 48;
        [&vec![0; 4096 - before], &content[from..to]].concat().into()
    }
}
