//! The second pass: replays the records in the order of writing into the state of every replica.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::salvage::{LossScope, SalvageOutcome};
use super::scan::{FileId, Frame};
use super::window::Window;
use crate::files::Location;
use crate::frame::{DIRECTORY_HEADER_BYTES, FRAME_HEADER_BYTES, directory_bytes};
use crate::record::{Kind, RECORD_HEADER_BYTES, Record, RecordHeader, ReplicaKey};
use crate::recovered::{EntryMeta, RecoveredReplica};
use crate::replicas::{Change, Replicas, Row};
use crate::usage::Usage;

/// A replayed entry of a replica's log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    meta: EntryMeta,
    /// The entry was durable, and its payload is lost.
    lost: bool,
}

/// The state after the records that were replayed so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) replicas: Replicas,
    pub(super) usage: Usage,
    /// Entries by ascending index. There may be gaps up to the truncated index.
    pub(super) entries: BTreeMap<ReplicaKey, Vec<Slot>>,
    /// Entries that were set aside, by ascending index. They replace damaged copies in the log.
    aside: BTreeMap<ReplicaKey, Vec<Slot>>,
    begun: bool,
    /// The reason, if any replica may have lost records, including a replica whose creation is
    /// among them.
    unattributed_loss: Option<String>,
}

/// A record and its effects.
struct ReplayedRecord {
    key: ReplicaKey,
    change: Change,
    entry: Option<Slot>,
}

impl Replay {
    /// Begins a file. Its table is the state before its first round.
    pub(super) fn begin_file(&mut self, table: &Replicas) {
        if !self.begun {
            self.begun = true;
            self.aside.clone_from(&self.entries);
            self.replicas = table.clone();
            for (key, slots) in &mut self.entries {
                let last = table.rows.get(key).map_or(0, |row| row.last_index);
                slots.retain(|slot| slot.meta.index <= last);
            }
            if let Some(why) = self.unattributed_loss.clone() {
                self.lose_everything(&why);
            }
            return;
        }
        let former = std::mem::take(&mut self.replicas);
        for key in former.rows.keys().filter(|key| !table.rows.contains_key(key)) {
            self.entries.remove(key);
            self.usage.remove_replica(*key);
        }
        for (key, row) in &table.rows {
            let mut row = row.clone();
            let replayed = former.rows.get(key).cloned().unwrap_or_default();
            if row.damage.is_none() {
                row.damage = disagreement(&replayed, &row);
            }
            if let Some(slots) = self.entries.get_mut(key) {
                slots.retain(|slot| slot.meta.index <= row.last_index);
            }
            self.replicas.rows.insert(*key, row);
        }
    }

    /// Takes the entries of a round of set-aside entries. Called before any file is begun.
    pub(super) fn set_aside(
        &mut self,
        window: &mut Window<'_>,
        file_id: FileId,
        frame: &Frame,
    ) -> io::Result<()> {
        for_each_record(window, file_id, frame, |_, position, header| {
            let slots = self.entries.entry(header.key).or_default();
            slots.extend(entry_slot(file_id, position, &header));
            Ok(())
        })
    }

    /// Whether all tables of the log were readable.
    pub(super) fn tables_complete(&self) -> bool {
        self.unattributed_loss.is_none()
    }

    /// The first and the last index that were replayed so far.
    pub(super) fn range_of(&self, key: ReplicaKey) -> Option<RangeInclusive<u64>> {
        let slots = self.entries.get(&key)?;
        Some(slots.first()?.meta.index..=slots.last()?.meta.index)
    }

    /// Replays a complete round.
    pub(super) fn frame(
        &mut self,
        window: &mut Window<'_>,
        file_id: FileId,
        frame: &Frame,
    ) -> io::Result<()> {
        for_each_record(window, file_id, frame, |window, position, header| {
            self.record(window, file_id, position, &header)
        })
    }

    fn record(
        &mut self,
        window: &mut Window<'_>,
        file_id: FileId,
        position: u64,
        header: &RecordHeader,
    ) -> io::Result<()> {
        let (key, entry) = (header.key, entry_slot(file_id, position, header));
        let change = match entry {
            Some(_) => Change::Entry { index: header.index },
            None => Change::from(&read_record(window, position, header)?),
        };
        self.apply(ReplayedRecord { key, change, entry });
        Ok(())
    }

    /// Replays the readable records of damaged rounds, and marks the replicas that lost records.
    pub(super) fn salvaged(
        &mut self,
        window: &mut Window<'_>,
        file_id: FileId,
        salvaged: SalvageOutcome,
    ) -> io::Result<()> {
        if let LossScope::Unknown = salvaged.lost {
            self.lose_everything("rounds of the log are damaged beyond recognition");
        }
        for found in &salvaged.found {
            let key = found.header.key;
            if found.whole {
                self.record(window, file_id, found.position, &found.header)?;
            } else if let Some(slot) = entry_slot(file_id, found.position, &found.header) {
                // If a later record replaces or truncates the entry, nothing is lost.
                let entry = Some(Slot { lost: true, ..slot });
                self.apply(ReplayedRecord {
                    key,
                    change: Change::Entry { index: slot.meta.index },
                    entry,
                });
            } else {
                self.lose(key, format!("a {:?} record is damaged", found.header.kind));
            }
        }
        if let LossScope::Replicas(keys) = salvaged.lost {
            for key in keys {
                self.lose(key, "a record is damaged beyond recognition".to_owned());
            }
        }
        Ok(())
    }

    fn lose(&mut self, key: ReplicaKey, why: String) {
        self.replicas.rows.entry(key).or_default().damage.get_or_insert(why);
    }

    /// Marks every replica as damaged.
    pub(super) fn lose_everything(&mut self, why: &str) {
        self.unattributed_loss.get_or_insert_with(|| why.to_owned());
        for row in self.replicas.rows.values_mut() {
            row.damage.get_or_insert_with(|| why.to_owned());
        }
    }

    fn apply(&mut self, replayed: ReplayedRecord) {
        let ReplayedRecord { key, change, entry } = replayed;
        let replaces_log = matches!(change, Change::Restart { .. } | Change::Destroyed);
        if let Some(why) = &self.unattributed_loss
            && !replaces_log
            && !self.replicas.rows.contains_key(&key)
        {
            let why = why.clone();
            self.lose(key, why);
        }
        let span = self.replicas.span(key);
        match &change {
            Change::Entry { index } => {
                let slots = self.entries.entry(key).or_default();
                while slots.last().is_some_and(|slot| slot.meta.index >= *index) {
                    slots.pop();
                }
                slots.extend(entry);
            }
            Change::Restart { .. } | Change::Destroyed => {
                self.entries.remove(&key);
            }
            Change::LossAccepted { index } => {
                if let Some(slots) = self.entries.get_mut(&key) {
                    slots.retain(|slot| slot.meta.index <= *index);
                }
            }
            Change::HardState(_) | Change::ConfState(_) | Change::Truncated { .. } => {}
        }
        self.usage.apply(key, &change, span.last);
        self.replicas.apply(key, change);
    }

    /// Marks the replicas with missing entries as damaged.
    pub(super) fn settle(&mut self) {
        for (key, aside) in &self.aside {
            if let Some(slots) = self.entries.get_mut(key) {
                replace_lost(slots, aside);
            }
        }
        for (key, row) in &mut self.replicas.rows {
            let slots = self.entries.get(key).map_or(&[][..], |slots| &slots[..]);
            let whole_until =
                usable(slots, row).last().map_or(row.truncated.index, |slot| slot.index);
            if whole_until < row.last_index {
                let missing = whole_until + 1;
                let last = row.last_index;
                row.damage.get_or_insert_with(|| format!("entries {missing}..={last} are lost"));
            }
        }
    }
}

/// The reason, if a newer table shows that records before it were lost.
fn disagreement(replayed: &Row, table: &Row) -> Option<String> {
    if replayed.damage.is_some() {
        return replayed.damage.clone();
    }
    let differs =
        replayed.last_index != table.last_index && table.last_index > table.truncated.index;
    differs.then(|| {
        let (found, known) = (replayed.last_index, table.last_index);
        format!("the log ends at {found}, but a newer table has its end at {known}")
    })
}

/// Replaces entries that are lost or missing in `slots` by those in `aside`, up to the last entry
/// that both have in the same term: all before it are equal, too (Raft's log matching property).
fn replace_lost(slots: &mut Vec<Slot>, aside: &[Slot]) {
    let id = |slot: &Slot| (slot.meta.index, slot.meta.term);
    let is_common = |slot: &&Slot| aside.binary_search_by_key(&id(slot), id).is_ok();
    let Some(last) = slots.iter().rev().find(is_common).map(|slot| slot.meta.index) else { return };
    let whole = slots.iter().filter(|slot| !slot.lost || slot.meta.index > last);
    let replacements = aside.iter().filter(|slot| slot.meta.index <= last);
    let merged: BTreeMap<u64, Slot> =
        replacements.chain(whole).map(|slot| (slot.meta.index, *slot)).collect();
    *slots = merged.into_values().collect();
}

/// The entries after the truncated index, up to the first missing one.
fn usable<'a>(slots: &'a [Slot], row: &Row) -> impl Iterator<Item = EntryMeta> + 'a {
    let start = row.truncated.index;
    slots
        .iter()
        .filter(move |slot| slot.meta.index > start)
        .zip(0..)
        .take_while(move |(slot, before)| !slot.lost && slot.meta.index - start - 1 == *before)
        .map(|(slot, _)| slot.meta)
}

/// The recovered replicas, for the caller of the log.
pub(super) fn recovered(
    replicas: &Replicas,
    mut entries: BTreeMap<ReplicaKey, Vec<Slot>>,
) -> BTreeMap<ReplicaKey, RecoveredReplica> {
    let recovered = replicas.rows.iter().map(|(key, row)| {
        let slots = entries.remove(key).unwrap_or_default();
        let replica = RecoveredReplica {
            hard_state: row.hard_state,
            conf_state: row.conf_state.clone(),
            truncated: row.truncated,
            entries: usable(&slots, row).collect(),
            damage: row.damage.clone(),
        };
        (*key, replica)
    });
    recovered.collect()
}

/// `None` if the record is not an entry.
fn entry_slot(file_id: FileId, position: u64, header: &RecordHeader) -> Option<Slot> {
    if header.kind != Kind::Entry {
        return None;
    }
    let location = Location {
        file_sequence: file_id.file_sequence,
        position,
        len_bytes: header.body_len,
        crc: header.body_crc,
    };
    let meta = EntryMeta {
        index: header.index,
        term: header.term,
        kind: header.entry_kind,
        len_bytes: header.body_len,
        location,
    };
    Some(Slot { meta, lost: false })
}

/// Reads all records of a complete round.
pub(super) fn read_records(
    window: &mut Window<'_>,
    file_id: FileId,
    frame: &Frame,
) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for_each_record(window, file_id, frame, |window, position, header| {
        records.push(read_record(window, position, &header)?);
        Ok(())
    })?;
    Ok(records)
}

/// Calls `each` with the position of the body and the header of each record.
fn for_each_record<'w>(
    window: &mut Window<'w>,
    file_id: FileId,
    frame: &Frame,
    mut each: impl FnMut(&mut Window<'w>, u64, RecordHeader) -> io::Result<()>,
) -> io::Result<()> {
    let seed = file_id.seed(frame.round);
    let end = frame.position + u64::from(frame.length);
    let directory_at = frame.position + FRAME_HEADER_BYTES as u64;
    let directory = window.get(directory_at, DIRECTORY_HEADER_BYTES as u64)?;
    let directory = directory.and_then(|bytes| directory_bytes(bytes, frame.round));
    let mut at = directory_at + directory.ok_or_else(invalid_format)?;
    while at < end {
        let bytes = window.get(at, RECORD_HEADER_BYTES as u64)?;
        let header = bytes.and_then(|bytes| RecordHeader::parse(bytes, seed));
        let header = header.filter(|header| header.size_bytes() <= end - at);
        let header = header.ok_or_else(invalid_format)?;
        each(window, at + RECORD_HEADER_BYTES as u64, header)?;
        at += header.size_bytes();
    }
    Ok(())
}

fn read_record(
    window: &mut Window<'_>,
    position: u64,
    header: &RecordHeader,
) -> io::Result<Record> {
    let body = window.get(position, u64::from(header.body_len))?;
    body.and_then(|body| header.decode(Bytes::copy_from_slice(body))).ok_or_else(invalid_format)
}

/// The error for bytes with a valid checksum that are not in our format.
fn invalid_format() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a round with a valid checksum is not in the format of a round",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::LogId;

    /// The first pass reports every lost round as a gap, so this check is redundant.
    #[test]
    fn d3_a_newer_table_that_knows_another_end_says_that_records_are_lost() {
        let ends_at = |last_index| Row { last_index, ..Row::default() };
        assert_eq!(disagreement(&ends_at(5), &ends_at(5)), None);
        for (replayed, known) in [(5, 9), (9, 5)] {
            let why = disagreement(&ends_at(replayed), &ends_at(known)).expect("they differ");
            assert!(why.contains(&format!("ends at {replayed}")), "{why}");
        }
        let released = Row { truncated: LogId { index: 9, term: 1 }, ..ends_at(9) };
        assert_eq!(disagreement(&ends_at(5), &released), None, "nothing of it is needed");
    }
}
