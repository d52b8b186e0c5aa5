//! The first pass over one file: finds the complete rounds and the missing ones.

use std::fmt;
use std::io;
use std::ops::Range;

use super::window::Window;
use crate::frame::{self, DIRECTORY_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader};
use crate::header::FileHeader;
use crate::layout::{BLOCK_BYTES, Seed};
use crate::record::{RECORD_HEADER_BYTES, RecordHeader};

/// Identifies a file of the log, and seeds the checksums of its rounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileId {
    pub(super) file_sequence: u64,
    pub(super) salt: u64,
}

impl FileId {
    pub(super) fn of(header: &FileHeader) -> Self {
        Self { file_sequence: header.sequence, salt: header.salt }
    }

    pub(super) fn seed(self, round: u64) -> Seed {
        Seed::of_round(self.salt, round)
    }
}

/// Position and sequence of the next round to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundStart {
    pub(super) position: u64,
    pub(super) round: u64,
}

/// A file to scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScannedFile {
    pub(super) id: FileId,
    /// Length that the file should have, in bytes.
    pub(super) file_bytes: u64,
    /// Where to begin.
    pub(super) start: RoundStart,
}

/// A complete round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) position: u64,
    pub(super) round: u64,
    pub(super) length: u32,
}

impl Frame {
    pub(super) fn end(&self) -> u64 {
        self.position + u64::from(self.length).next_multiple_of(BLOCK_BYTES)
    }
}

/// A part of the file in which rounds were durable and are damaged now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) round_first: u64,
    /// Sequence of the first round behind the gap; [`u64::MAX`] if it is unknown how many rounds
    /// there were.
    pub(super) round_end: u64,
}

impl Gap {
    pub(super) fn rounds(&self) -> Range<u64> {
        self.round_first..self.round_end
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end, round_first, round_end } = self;
        match round_end {
            &u64::MAX => write!(f, "cut at byte {end}; rounds from {round_first} on may be lost"),
            _ => write!(f, "rounds {round_first}..{round_end} at bytes {start}..{end} are damaged"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Frame(Frame),
    Gap(Gap),
}

/// The content of a file, in the order of writing.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) events: Vec<Event>,
    pub(super) torn_tail_bytes: u64,
}

impl Scan {
    /// The sequence after the last round that is known to have been in this file.
    pub(super) fn round_end(&self) -> Option<u64> {
        self.events.last().map(|event| match event {
            Event::Frame(frame) => frame.round + 1,
            Event::Gap(Gap { round_first, round_end: u64::MAX, .. }) => *round_first,
            Event::Gap(gap) => gap.round_end,
        })
    }
}

/// Where the rounds of a file end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Before the first round of a newer file.
    Before(u64),
    /// This is the newest file: it has at least the rounds up to this one.
    Open { sealed_round: u64 },
}

impl End {
    /// The sequence after the last round that the file may have.
    fn limit(self) -> u64 {
        match self {
            Self::Before(limit) => limit,
            Self::Open { .. } => u64::MAX,
        }
    }

    /// The sequence after the last round that the file must have; [`u64::MAX`] if a cut file may
    /// have had any number of them. `None` if it need not have `round`.
    fn missing_from(self, round: u64, is_short: bool) -> Option<u64> {
        match self {
            Self::Before(limit) => Some(limit),
            Self::Open { .. } if is_short => Some(u64::MAX),
            Self::Open { sealed_round } => (round <= sealed_round).then_some(sealed_round + 1),
        }
    }
}

/// Finds the rounds of a file.
pub(super) fn scan(window: &mut Window<'_>, file: ScannedFile, end: End) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut next = file.start;
    while next.round < end.limit() {
        let wanted = next.round..end.limit();
        let Some(frame) = next_frame(window, file.id, next.position, wanted)? else {
            scan.end(window, ScannedFile { start: next, ..file }, end)?;
            break;
        };
        if frame.round > next.round {
            scan.events.push(Event::Gap(Gap {
                start: next.position,
                end: frame.position,
                round_first: next.round,
                round_end: frame.round,
            }));
        }
        next = RoundStart { position: frame.end(), round: frame.round + 1 };
        scan.events.push(Event::Frame(frame));
    }
    Ok(scan)
}

impl Scan {
    /// Removes and returns all rounds, oldest first, if they are complete and take at most
    /// `bytes_max` together; otherwise the last one, if it is complete.
    pub(super) fn take_last(&mut self, bytes_max: u64) -> Vec<Frame> {
        let frames = self.events.iter().map_while(|event| match event {
            Event::Frame(frame) => Some(*frame),
            Event::Gap(_) => None,
        });
        let all: Vec<Frame> = frames.collect();
        let bytes: u64 = all.iter().map(|frame| frame.end() - frame.position).sum();
        if all.len() == self.events.len() && bytes <= bytes_max {
            self.events.clear();
            return all;
        }
        match self.events.last().copied() {
            Some(Event::Frame(frame)) => {
                self.events.pop();
                vec![frame]
            }
            Some(Event::Gap(_)) | None => Vec::new(),
        }
    }

    /// Handles the end of the complete rounds, which is either a torn tail or damage.
    fn end(&mut self, window: &mut Window<'_>, file: ScannedFile, end: End) -> io::Result<()> {
        let RoundStart { position, round } = file.start;
        let is_short = window.file_len() < file.file_bytes;
        if let Some(round_end) = end.missing_from(round, is_short) {
            let end = window.file_len();
            self.events.push(Event::Gap(Gap {
                start: position,
                end,
                round_first: round,
                round_end,
            }));
        } else if let Some(header) = header_at(window, file.id, position)? {
            self.torn_tail_bytes = header.padded_bytes();
        }
        Ok(())
    }
}

/// The next complete round at or after `position` with a wanted sequence.
fn next_frame(
    window: &mut Window<'_>,
    file_id: FileId,
    position: u64,
    wanted: Range<u64>,
) -> io::Result<Option<Frame>> {
    let mut at = position;
    while at + BLOCK_BYTES <= window.file_len() {
        if let Some(frame) = frame_at(window, file_id, at)?
            && wanted.contains(&frame.round)
        {
            return Ok(Some(frame));
        }
        at += BLOCK_BYTES;
    }
    Ok(None)
}

/// The header of a round at this position, whether or not the round is complete.
pub(super) fn header_at(
    window: &mut Window<'_>,
    file_id: FileId,
    at: u64,
) -> io::Result<Option<FrameHeader>> {
    let bytes = window.get(at, FRAME_HEADER_BYTES as u64)?;
    Ok(bytes.and_then(|bytes| FrameHeader::parse(bytes, file_id.file_sequence, file_id.salt)))
}

/// The round at this position, if it is complete.
pub(super) fn frame_at(
    window: &mut Window<'_>,
    file_id: FileId,
    at: u64,
) -> io::Result<Option<Frame>> {
    let Some(header) = header_at(window, file_id, at)? else { return Ok(None) };
    let whole = is_whole(window, file_id, at, &header)?;
    Ok(whole.then_some(Frame { position: at, round: header.round, length: header.length }))
}

/// Whether everything after the header of a round is valid: the directory and the headers of all
/// records by the round's checksum, every body by that in the header of its record, and the padding
/// between records by being zero.
fn is_whole(
    window: &mut Window<'_>,
    file_id: FileId,
    at: u64,
    round: &FrameHeader,
) -> io::Result<bool> {
    let seed = file_id.seed(round.round);
    let end = at + u64::from(round.length);
    let mut at = at + FRAME_HEADER_BYTES as u64;
    let rows = window.get(at, DIRECTORY_HEADER_BYTES as u64)?;
    let directory_bytes = rows.and_then(|rows| frame::directory_bytes(rows, round.round));
    let Some(directory_bytes) = directory_bytes.filter(|bytes| *bytes <= end - at) else {
        return Ok(false);
    };
    let Some(directory) = window.get(at, directory_bytes)? else { return Ok(false) };
    let mut heads = seed.after(directory);
    let mut records = 0;
    at += directory_bytes;
    while at < end {
        let Some(bytes) = window.get(at, RECORD_HEADER_BYTES as u64)? else { return Ok(false) };
        heads = heads.after(bytes);
        let record = RecordHeader::parse(bytes, seed);
        let Some(record) = record.filter(|record| record.size_bytes() <= end - at) else {
            return Ok(false);
        };
        let (body_at, next) = (at + RECORD_HEADER_BYTES as u64, at + record.size_bytes());
        let body_end = body_at + u64::from(record.body_len);
        let body_crc = window.crc(Seed::NONE, body_at, u64::from(record.body_len))?;
        let padding = window.get(body_end, next - body_end)?;
        let padded = padding.is_some_and(|padding| padding.iter().all(|byte| *byte == 0));
        if body_crc != Some(record.body_crc) || !padded {
            return Ok(false);
        }
        records += 1;
        at = next;
    }
    Ok(heads.value() == round.heads_crc && records == round.records)
}
