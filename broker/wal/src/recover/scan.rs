//! The first pass over one file: which rounds are there and whole, and which are missing.

use std::fmt;
use std::io;
use std::ops::Range;

use super::window::Window;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::header::FileHeader;
use crate::layout::{BLOCK_BYTES, Seed};

/// What the checksums of a file are seeded with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) file_sequence: u64,
    pub(super) salt: u64,
}

impl Place {
    pub(super) fn of(header: &FileHeader) -> Self {
        Self { file_sequence: header.sequence, salt: header.salt }
    }

    pub(super) fn seed(self, round: u64) -> Seed {
        Seed::of_round(self.salt, round)
    }
}

/// A round that is there and whole.
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

/// A part of the file in which rounds were durable and are not whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) round_first: u64,
    /// The first that is not missing; [`u64::MAX`] if nobody knows how many there were.
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

/// What is in a file, in the order of writing.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) events: Vec<Event>,
    pub(super) torn_tail_bytes: u64,
}

impl Scan {
    /// The round after the last one that is known to have been in this file.
    pub(super) fn round_end(&self) -> Option<u64> {
        self.events.last().map(|event| match event {
            Event::Frame(frame) => frame.round + 1,
            Event::Gap(Gap { round_first, round_end: u64::MAX, .. }) => *round_first,
            Event::Gap(gap) => gap.round_end,
        })
    }
}

/// Finds the rounds of a file. `limit` is the first round that a newer file has; `None` if this is
/// the newest.
pub(super) fn scan(
    window: &mut Window<'_>,
    (place, file_bytes, round_first): (Place, u64, u64),
    rounds_at: u64,
    limit: Option<u64>,
) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut position = rounds_at;
    let mut round = round_first;
    while limit.is_none_or(|limit| round < limit) {
        let wanted = round..limit.unwrap_or(u64::MAX);
        let Some(frame) = next_frame(window, place, position, wanted)? else {
            scan.end(window, (place, file_bytes), (position, round), limit)?;
            break;
        };
        if frame.round > round {
            scan.events.push(Event::Gap(Gap {
                start: position,
                end: frame.position,
                round_first: round,
                round_end: frame.round,
            }));
        }
        position = frame.end();
        round = frame.round + 1;
        scan.events.push(Event::Frame(frame));
    }
    Ok(scan)
}

impl Scan {
    /// Takes out all rounds, oldest first, if they are whole and take at most `bytes_max` together; else the last
    /// one, if it is whole.
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

    /// There is no further whole round: a torn tail, or damage?
    fn end(
        &mut self,
        window: &mut Window<'_>,
        (place, file_bytes): (Place, u64),
        (position, round): (u64, u64),
        limit: Option<u64>,
    ) -> io::Result<()> {
        let is_short = window.file_len() < file_bytes;
        if limit.is_some() || is_short {
            self.events.push(Event::Gap(Gap {
                start: position,
                end: window.file_len(),
                round_first: round,
                round_end: limit.unwrap_or(u64::MAX),
            }));
        } else if let Some(header) = header_at(window, place, position)? {
            self.torn_tail_bytes = header.padded_bytes();
        }
        Ok(())
    }
}

/// The next whole round at or after `position` whose number is wanted.
fn next_frame(
    window: &mut Window<'_>,
    place: Place,
    position: u64,
    wanted: Range<u64>,
) -> io::Result<Option<Frame>> {
    let mut at = position;
    while at + BLOCK_BYTES <= window.file_len() {
        if let Some(frame) = frame_at(window, place, at)?
            && wanted.contains(&frame.round)
        {
            return Ok(Some(frame));
        }
        at += BLOCK_BYTES;
    }
    Ok(None)
}

/// The header of a round at this place, whether or not the round is whole.
pub(super) fn header_at(
    window: &mut Window<'_>,
    place: Place,
    at: u64,
) -> io::Result<Option<FrameHeader>> {
    let bytes = window.get(at, FRAME_HEADER_BYTES as u64)?;
    Ok(bytes.and_then(|bytes| FrameHeader::parse(bytes, place.file_sequence, place.salt)))
}

/// The whole round at this place.
pub(super) fn frame_at(
    window: &mut Window<'_>,
    place: Place,
    at: u64,
) -> io::Result<Option<Frame>> {
    let Some(header) = header_at(window, place, at)? else { return Ok(None) };
    let body_at = at + FRAME_HEADER_BYTES as u64;
    let body_len = u64::from(header.length) - FRAME_HEADER_BYTES as u64;
    let crc = window.crc(place.seed(header.round), body_at, body_len)?;
    let whole = crc == Some(header.body_crc);
    Ok(whole.then_some(Frame { position: at, round: header.round, length: header.length }))
}
