//! Verifies a whole partition, and gives up damaged records.
//!
//! The scrubber calls [`Reader::verify`] in the background. `repair --accept-loss` calls
//! [`Segments::accept_loss`], which is the only way to remove damaged bytes.
//!
//! # Invariants
//!
//! - **D3.** The lost records are returned as offset ranges, for the operator. Intact blocks are
//!   kept, also behind a damaged one.
//! - A repaired segment replaces the damaged one as in compaction, so a crash leaves either the old
//!   or the new segment.
//!
//! After a crash some segments are repaired; running the repair again repairs the others.

use std::ops::Range;

use ropewalk_disk::Open;

use crate::compaction::rewrite::Output;
use crate::durable_end::DurableEnd;
use crate::error::{Damage, Result, SegmentError};
use crate::files::INDEX;
use crate::index::{self, Header};
use crate::read::Reader;
use crate::recover::recover;
use crate::segments::Segments;
use crate::view::Segment;

impl Reader {
    /// Reads and verifies every block. Returns all damage, known or new.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        Ok(self.survey()?.0)
    }

    /// Like [`Reader::verify`], with the offsets that [`Segments::accept_loss`] would give up.
    /// Damage of an index loses no records, because the index can be rebuilt.
    pub fn survey(&self) -> Result<(Vec<Damage>, Vec<Range<i64>>)> {
        let (mut all, mut lost) = (Vec::new(), Vec::new());
        let mut cursor = i64::MIN;
        loop {
            let segment = {
                let view = self.shared.view.read();
                view.segments.iter().find(|segment| segment.base_offset >= cursor).cloned()
            };
            let Some(segment) = segment else { return Ok((all, lost)) };
            // A segment is empty if its first write failed.
            cursor = segment.end_offset.max(segment.base_offset + 1);
            let mut found = Vec::new();
            let without = self.copy_good(&segment, None, &mut found)?;
            if !found.iter().all(is_of_index) {
                lost.extend(without);
            }
            all.extend(found);
        }
    }

    /// Copies the intact blocks of a segment and returns the offsets of the others.
    fn copy_good(
        &self,
        segment: &Segment,
        mut output: Option<&mut Output>,
        found: &mut Vec<Damage>,
    ) -> Result<Vec<Range<i64>>> {
        let mut lost = Vec::new();
        let mut kept_to = segment.base_offset;
        let opened = match segment.blocks {
            0 => None,
            _ => note(segment.open(&self.shared), found)?,
        };
        let mut is_broken = opened.is_none() && segment.blocks > 0;
        for number in 0..opened.as_ref().map_or(0, |opened| opened.index.blocks) {
            let Some(opened) = &opened else { break };
            let block = note(opened.index.entry(number), found)?;
            let batches = block.map(|block| note(opened.batches(&block), found)).transpose()?;
            let (Some(block), Some(Some(batches))) = (block, batches) else {
                is_broken = true;
                continue;
            };
            if std::mem::take(&mut is_broken) {
                lost.push(kept_to..block.base_offset);
            }
            kept_to = block.next_offset;
            for batch in &batches {
                output.as_mut().map_or(Ok(()), |output| output.push(batch))?;
            }
        }
        if is_broken || segment.damage.is_some() {
            lost.push(kept_to..segment.end_offset);
        }
        found.extend(segment.damage.as_deref().cloned());
        Ok(lost)
    }
}

impl Segments {
    /// Gives up damaged records: from now on reads skip them, as they skip records that compaction
    /// removed. Returns the lost offsets, without the offsets of gaps that compaction left.
    pub fn accept_loss(&mut self) -> Result<Vec<Range<i64>>> {
        self.seal()?;
        let end = self.sync()?;
        self.rebuild_damaged_indexes(&end)?;
        let reader = self.reader();
        let segments = self.shared.view.read().segments.clone();
        let mut lost = Vec::new();
        for segment in segments {
            let mut found = Vec::new();
            reader.copy_good(&segment, None, &mut found)?;
            if found.is_empty() {
                continue;
            }
            let mut output = Output::create(&self.shared, segment.base_offset)?;
            lost.extend(reader.copy_good(&segment, Some(&mut output), &mut found)?);
            let header = Header {
                base_offset: segment.base_offset,
                created_ms: segment.created_ms,
                compacted_end: Some(segment.end_offset),
                is_clean: segment.clean,
            };
            let replacement = output.finish(&header, vec![segment.info(true)])?;
            self.install(replacement)?;
        }
        self.damages.clear();
        Ok(lost)
    }

    /// Rebuilds damaged indexes, so that no records are given up for them.
    fn rebuild_damaged_indexes(&mut self, end: &DurableEnd) -> Result<()> {
        let shared = &self.shared;
        let found = self.reader().verify()?;
        for damage in found.iter().filter(|damage| is_of_index(damage)) {
            // Recovery rebuilds the entries from the log. The header is kept, because it may say
            // that the log has gaps.
            if let Ok(file) = shared.disk.open(&damage.path, Open::ReadWrite) {
                let cut = file.set_len(index::size_bytes(0));
                cut.map_err(|error| SegmentError::io(&damage.path, error))?;
            }
        }
        let start_offset = self.start_offset();
        let recovered = recover(&*shared.disk, &shared.dir, Some(end), start_offset)?;
        *shared.view.write() = recovered.view;
        self.stale = recovered.stale;
        Ok(())
    }
}

fn is_of_index(damage: &Damage) -> bool {
    damage.path.extension() == Some(std::ffi::OsStr::new(INDEX))
}

/// Collects damage in `found`; returns other errors.
fn note<T>(outcome: Result<T>, found: &mut Vec<Damage>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(SegmentError::Damaged(damage)) => {
            found.push(damage);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
