//! Reads the intact records of damaged rounds, so that only the replicas with damaged records are
//! affected.
//!
//! Inside a round every record has its own checksum, and the directory has the number of records of
//! each replica. Valid records are used; a replica with fewer valid records than the directory says
//! has lost some.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::scan::{FileId, Gap, header_at};
use super::window::Window;
use crate::frame::{
    DIRECTORY_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, directory_bytes, parse_directory,
};
use crate::layout::BLOCK_BYTES;
use crate::record::{RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, RecordHeader, ReplicaKey};

/// Largest number of missing rounds that a block is compared with.
const CANDIDATES_MAX: usize = 64;

/// A record with a valid header.
#[derive(Debug, Clone, Copy)]
pub(super) struct SalvagedRecord {
    pub(super) position: u64,
    pub(super) header: RecordHeader,
    /// Whether the body is valid, too.
    pub(super) whole: bool,
}

/// The replicas that lost records without a valid header.
#[derive(Debug)]
pub(super) enum LossScope {
    Replicas(BTreeSet<ReplicaKey>),
    /// Any replica: the damage does not show which.
    Unknown,
}

/// The readable content of a gap.
#[derive(Debug)]
pub(super) struct SalvageOutcome {
    pub(super) found: Vec<SalvagedRecord>,
    pub(super) lost: LossScope,
}

/// The start of a damaged round with a valid header or a valid directory.
#[derive(Debug)]
struct Start {
    position: u64,
    round: u64,
    header: Option<FrameHeader>,
    directory: Option<Vec<(ReplicaKey, u32)>>,
}

pub(super) fn salvage(
    window: &mut Window<'_>,
    file_id: FileId,
    gap: &Gap,
) -> io::Result<SalvageOutcome> {
    let starts = starts(window, file_id, gap)?;
    let rounds = gap.round_end - gap.round_first;
    let mut salvaged =
        SalvageOutcome { found: Vec::new(), lost: LossScope::Replicas(BTreeSet::new()) };
    if starts.len() as u64 != rounds {
        salvaged.lost = LossScope::Unknown;
    }
    for (at, start) in starts.iter().enumerate() {
        let next = starts.get(at + 1).map_or(gap.end, |next| next.position);
        let found = records(window, file_id, start, next)?;
        salvaged.note_lost(start, &found);
        salvaged.found.extend(found);
    }
    Ok(salvaged)
}

/// The damaged rounds that can be identified, in order.
fn starts(window: &mut Window<'_>, file_id: FileId, gap: &Gap) -> io::Result<Vec<Start>> {
    let mut starts: Vec<Start> = Vec::new();
    let mut at = gap.start;
    while at + BLOCK_BYTES <= gap.end {
        let next = starts.last().map_or(gap.round_first, |start| start.round + 1);
        if let Some(start) = start_at(window, file_id, at, next..gap.rounds().end)? {
            starts.push(start);
        }
        at += BLOCK_BYTES;
    }
    Ok(starts)
}

fn start_at(
    window: &mut Window<'_>,
    file_id: FileId,
    at: u64,
    wanted: std::ops::Range<u64>,
) -> io::Result<Option<Start>> {
    let header = header_at(window, file_id, at)?.filter(|header| wanted.contains(&header.round));
    let candidates = match &header {
        Some(header) => header.round..header.round + 1,
        None => wanted,
    };
    for round in candidates.take(CANDIDATES_MAX) {
        let directory = directory_at(window, file_id, at, round)?;
        if header.is_some() || directory.is_some() {
            return Ok(Some(Start { position: at, round, header, directory }));
        }
    }
    Ok(None)
}

fn directory_at(
    window: &mut Window<'_>,
    file_id: FileId,
    at: u64,
    round: u64,
) -> io::Result<Option<Vec<(ReplicaKey, u32)>>> {
    let at = at + FRAME_HEADER_BYTES as u64;
    let Some(bytes) = window.get(at, DIRECTORY_HEADER_BYTES as u64)? else { return Ok(None) };
    let Some(len) = directory_bytes(bytes, round) else { return Ok(None) };
    let bytes = window.get(at, len)?;
    Ok(bytes.and_then(|bytes| parse_directory(bytes, file_id.seed(round))))
}

/// The records of a damaged round that have valid headers.
fn records(
    window: &mut Window<'_>,
    file_id: FileId,
    start: &Start,
    next: u64,
) -> io::Result<Vec<SalvagedRecord>> {
    let seed = file_id.seed(start.round);
    let length = start.header.map(|header| u64::from(header.length));
    let end = length.map_or(next, |length| next.min(start.position + length));
    let rows = start.directory.as_ref().map_or(0, Vec::len) as u64;
    let mut at = start.position
        + (FRAME_HEADER_BYTES + DIRECTORY_HEADER_BYTES) as u64
        + rows * DIRECTORY_HEADER_BYTES as u64;
    let mut found = Vec::new();
    while at + RECORD_HEADER_BYTES as u64 <= end {
        let bytes = window.get(at, RECORD_HEADER_BYTES as u64)?;
        let Some(header) = bytes.and_then(|bytes| RecordHeader::parse(bytes, seed)) else {
            at += RECORD_ALIGN_BYTES as u64;
            continue;
        };
        let position = at + RECORD_HEADER_BYTES as u64;
        let crc = window.crc(crate::layout::Seed::NONE, position, u64::from(header.body_len))?;
        found.push(SalvagedRecord { position, header, whole: crc == Some(header.body_crc) });
        at += header.size_bytes();
    }
    Ok(found)
}

impl SalvageOutcome {
    /// Compares the records that were found with those that the round should have.
    fn note_lost(&mut self, start: &Start, found: &[SalvagedRecord]) {
        let LossScope::Replicas(lost) = &mut self.lost else { return };
        let mut counts: BTreeMap<ReplicaKey, u32> = BTreeMap::new();
        for record in found {
            *counts.entry(record.header.key).or_default() += 1;
        }
        match (&start.directory, &start.header) {
            (Some(directory), _) => {
                let fewer = |(key, records): &&(ReplicaKey, u32)| counts.get(key) < Some(records);
                lost.extend(directory.iter().filter(fewer).map(|(key, _)| *key));
            }
            (None, Some(header)) if found.len() == header.records as usize => {}
            (None, _) => self.lost = LossScope::Unknown,
        }
    }
}
