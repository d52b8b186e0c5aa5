//! Copies the entries that a damaged replica still needs to a file of its own.
//!
//! A damaged replica makes no checkpoints. So its entries would pin the oldest file of the log and
//! all newer ones, until the log is full and refuses records of all replicas. [`Wal::set_aside`]
//! copies its readable entries to a file beside the log; the log's files are then released without
//! regard to the replica.
//!
//! The file has the format of a file of the log: a header with a table of only that replica, then
//! rounds with its entries in order. Its name is `<shard, 8 hex digits>-<replica, 16 hex
//! digits>.aside`. Sequences of such files begin at [`ASIDE_SEQUENCE_MIN`], so that a
//! [`Location`](crate::Location) is unambiguous.
//!
//! # After a crash
//!
//! The file gets its name when all of it is durable, and only then files of the log are released.
//! Recovery reads it before the log. It is removed at a start if all of its entries are truncated,
//! and before a record is written that destroys the replica or starts its log again: entries of the
//! old and the new log are never mixed.
//!
//! # Limits
//!
//! All files together take at most half of
//! [`Options::files_bytes_max`](super::Options::files_bytes_max), in addition to it. Entries that
//! do not fit stay in the log and pin it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use ropewalk_disk::File;

use super::{Wal, WalError};
use crate::active::Active;
use crate::aside::{ASIDE_SEQUENCE_MIN, Aside, SetAside, path_of};
use crate::files::{self, Spare, SpareSpec};
use crate::frame;
use crate::header::{self, FileHeader};
use crate::label::Purpose;
use crate::layout::align_up;
use crate::record::{RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, Record, ReplicaKey};
use crate::recovered::{EntryMeta, RecoveredReplica};
use crate::replicas::Replicas;

const WHY_NAME: &str = "wal-aside-name";
/// Largest size in bytes of a round of such a file, unless one entry is larger.
const ROUND_BYTES: u64 = 4 << 20;
/// The limit of these files is the log's limit divided by this.
const SHARE: u64 = 2;

/// Reasons why entries were not set aside.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// The disk or the limit has no room, the process has too few descriptors or too little memory,
    /// or an entry cannot be read. Nothing has changed: the entries stay in the log and pin it.
    #[error(transparent)]
    Stays(io::Error),
    /// The disk failed. The process must stop.
    #[error(transparent)]
    Failed(#[from] WalError),
}

impl Wal {
    /// Releases the log's files without regard to `key` from now on. No record of `key` may be
    /// written before the log is opened again. Its readable entries are copied to a file of its own
    /// first, unless they are already in one. `replica` is the replica as this log recovered it.
    /// Returns `None` if no entry is readable.
    ///
    /// # Errors
    ///
    /// See [`SetAsideError`]. One that is final ends the log (D2).
    pub fn set_aside(
        &mut self,
        key: ReplicaKey,
        replica: &RecoveredReplica,
    ) -> Result<Option<SetAside>, SetAsideError> {
        let last = replica.entries.last().map_or(0, |entry| entry.index);
        let known = self.asides.get(&key).filter(|aside| aside.what.last >= last);
        if known.is_none() && last > 0 {
            let copied = self.copy_aside(key, &replica.entries);
            let aside = copied.inspect_err(|error| {
                if let SetAsideError::Failed(error) = error {
                    self.note_failure(error);
                }
            })?;
            self.reader.insert(aside.sequence, Arc::clone(&aside.file));
            self.asides.insert(key, aside);
        }
        self.usage.remove_replica(key);
        let aside = self.asides.get(&key).filter(|aside| aside.is_readable());
        Ok(aside.map(|aside| aside.what.clone()))
    }

    fn copy_aside(
        &mut self,
        key: ReplicaKey,
        entries: &[EntryMeta],
    ) -> Result<Aside, SetAsideError> {
        let sequences = self.asides.values().map(|aside| aside.sequence + 1);
        let row = self.replicas.rows.get(&key).cloned().unwrap_or_default();
        let table = Replicas { rows: BTreeMap::from([(key, row)]) };
        let rounds = rounds(entries);
        let bytes = file_bytes(&table, &rounds);
        let others = self.asides.iter().filter(|(other, _)| **other != key);
        let taken: u64 = others.map(|(_, aside)| aside.what.bytes).sum();
        let bytes_max = self.options.files_bytes_max / SHARE;
        if taken + bytes > bytes_max {
            let message = format!(
                "{bytes} bytes of entries of damaged replicas beside {taken} are more than {bytes_max}"
            );
            let error = io::Error::new(io::ErrorKind::QuotaExceeded, message);
            return Err(SetAsideError::Stays(error));
        }
        let number = self.spares.next_number();
        let spec = SpareSpec { purpose: Purpose::Spare, number, bytes, in_advance: false };
        let spare = Spare::create_unnamed(&*self.disk, &self.dir, spec, &mut |_| {});
        let spare = spare.map_err(or_final)?;
        let sequence = sequences.max().unwrap_or(ASIDE_SEQUENCE_MIN);
        let header = FileHeader::new(&spare.label, sequence, 1, table);
        let path = path_of(&self.dir, key);
        let written = self.fill_aside(key, &spare, &header, &rounds).and_then(|file| {
            self.disk.rename(&spare.path, &path)?;
            Ok(file)
        });
        let file = match written.map_err(or_final) {
            Ok(file) => file,
            Err(error) => {
                if let SetAsideError::Stays(_) = error {
                    self.disk.remove(&spare.path).map_err(or_final)?;
                }
                return Err(error);
            }
        };
        self.disk.sync_dir(&self.dir, WHY_NAME).map_err(WalError::failed)?;
        let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
        let what = SetAside { path, bytes, first, last };
        Ok(Aside { sequence: header.sequence, file, what })
    }

    fn fill_aside(
        &mut self,
        key: ReplicaKey,
        spare: &Spare,
        header: &FileHeader,
        rounds: &[&[EntryMeta]],
    ) -> io::Result<Arc<dyn File>> {
        let mut active = Active::prepare(spare, header)?;
        active.write_header(header, &mut self.buffer)?;
        for (round, entries) in (1..).zip(rounds) {
            let records = entries.iter().map(|entry| self.entry(key, entry));
            let records = records.collect::<io::Result<Vec<Record>>>()?;
            let count = u32::try_from(records.len()).expect("a round is bounded");
            let directory = std::iter::once((key, count));
            active.write_round(round, directory, records.iter(), &mut self.buffer)?;
        }
        Ok(active.file)
    }

    fn entry(&self, key: ReplicaKey, entry: &EntryMeta) -> io::Result<Record> {
        let EntryMeta { index, term, kind, location, .. } = *entry;
        Ok(Record::Entry { key, index, term, kind, data: self.reader.read(&location)?.into() })
    }

    /// Removes the files of replicas that `records` destroy or whose log they start again. The
    /// removal must be durable before the records are.
    pub(super) fn remove_ended_asides<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> io::Result<()> {
        if self.asides.is_empty() {
            return Ok(());
        }
        for record in records {
            let ends = match record {
                Record::Created { .. }
                | Record::SnapshotInstalled { .. }
                | Record::ReplicaDestroyed { .. } => true,
                Record::Entry { .. }
                | Record::HardState { .. }
                | Record::ConfState { .. }
                | Record::Truncated { .. }
                | Record::LossAccepted { .. } => false,
            };
            if !ends {
                continue;
            }
            if let Some(aside) = self.asides.remove(&record.key()) {
                self.disk.remove(&aside.what.path)?;
                self.disk.sync_dir(&self.dir, WHY_NAME)?;
                self.reader.remove(aside.sequence);
            }
        }
        Ok(())
    }

    /// Removes files that are no longer needed. If a crash restores one, it is removed again. A
    /// file without a readable entry is removed when its replica is repaired; a file of an unknown
    /// replica is removed if `tables_complete`, which means that all tables of the log were
    /// readable.
    pub(super) fn drop_old_asides(&mut self, tables_complete: bool) -> io::Result<()> {
        let rows = &self.replicas.rows;
        let is_old = |key: &ReplicaKey, aside: &Aside| match rows.get(key) {
            Some(row) if aside.is_readable() => row.truncated.index >= aside.what.last,
            Some(row) => row.damage.is_none(),
            None => tables_complete,
        };
        let old = self.asides.extract_if(.., |key, aside| is_old(key, aside));
        for (_, aside) in old.collect::<Vec<_>>() {
            self.disk.remove(&aside.what.path)?;
            self.reader.remove(aside.sequence);
        }
        Ok(())
    }
}

/// Classifies an error. A temporary one, and one of reading a damaged entry, does not affect the
/// log's own files.
fn or_final(error: io::Error) -> SetAsideError {
    if files::may_pass(&error) || error.kind() == io::ErrorKind::InvalidData {
        SetAsideError::Stays(error)
    } else {
        SetAsideError::Failed(WalError::failed(error))
    }
}

/// Splits the entries into rounds.
fn rounds(entries: &[EntryMeta]) -> Vec<&[EntryMeta]> {
    let mut rounds = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|entry| {
            bytes += record_bytes(entry);
            bytes <= ROUND_BYTES
        });
        let (round, later) = rest.split_at(fitting.count().max(1));
        rounds.push(round);
        rest = later;
    }
    rounds
}

fn record_bytes(entry: &EntryMeta) -> u64 {
    let body = (entry.len_bytes as usize).next_multiple_of(RECORD_ALIGN_BYTES);
    (RECORD_HEADER_BYTES + body) as u64
}

fn file_bytes(table: &Replicas, rounds: &[&[EntryMeta]]) -> u64 {
    let header_bytes = header::header_bytes(table);
    let frames = rounds.iter().map(|entries| {
        let records: u64 = entries.iter().map(record_bytes).sum();
        align_up(frame::frame_bytes(1, records as usize) as u64)
    });
    (header_bytes + frames.sum::<u64>()).max(2 * header_bytes)
}
