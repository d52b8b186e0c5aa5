//! Determines the content of a partition's files without a snapshot.
//!
//! Only the repair of a shard that lost all its snapshots uses this. It then opens the segments at
//! the end that was found. Nothing is changed here.
//!
//! Invariant: **D3.** Segments have only committed records. So every batch counts that has a valid
//! checksum and continues the previous ones; the first other batch ends the partition.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ropewalk_disk::{Disk, File, Open};

use crate::durable_end::DurableEnd;
use crate::error::{Result, SegmentError};
use crate::files::{self, INDEX, LOG};
use crate::index::rebuild::{self, ExpectedLog};
use crate::index::search::IndexFile;

/// The range of a partition's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SalvagedSegments {
    /// Base offset of the first segment.
    pub start_offset: i64,
    /// End of the last segment.
    pub end: DurableEnd,
}

/// Reads the files in `dir`; `None` if there are none.
pub fn salvage(disk: &dyn Disk, dir: &Path) -> Result<Option<SalvagedSegments>> {
    let names = disk.list(dir).map_err(|error| SegmentError::io(dir, error))?;
    let named = names.iter().filter_map(|name| files::parse(name));
    let named = named.filter(|(_, extension)| [LOG, INDEX].contains(extension));
    let bases: BTreeSet<i64> = named.map(|(base, _)| base).collect();
    let (Some(start_offset), Some(base)) = (bases.first().copied(), bases.last().copied()) else {
        return Ok(None);
    };
    let mut end =
        DurableEnd { segment_base: base, position_bytes: 0, blocks: 0, next_offset: base };
    if let Some(log) = open(disk, &files::path(dir, base, LOG))? {
        let expected =
            ExpectedLog { base_offset: base, end_offset: i64::MAX, log_bytes: None, gaps: true };
        let scan = rebuild::scan(&*log, &files::path(dir, base, LOG), &expected)?;
        if let Some(last) = scan.entries.last() {
            end.position_bytes = last.end();
            end.blocks = u32::try_from(scan.entries.len()).unwrap_or(u32::MAX);
            end.next_offset = last.next_offset;
        }
    }
    let path = files::path(dir, base, INDEX);
    if let Some(file) = open(disk, &path)? {
        let index = IndexFile::new(file, path.into(), base, 0);
        let compacted_end = index.header().ok().and_then(|header| header.compacted_end);
        end.next_offset = end.next_offset.max(compacted_end.unwrap_or(base));
    }
    Ok(Some(SalvagedSegments { start_offset, end }))
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Option<Arc<dyn File>>> {
    match disk.open(path, Open::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SegmentError::io(path, error)),
    }
}
