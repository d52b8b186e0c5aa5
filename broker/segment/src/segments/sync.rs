//! Makes segments durable without the writer's lock, so that appends go on meanwhile.
//!
//! A [`PendingSync`] lists the files with unsynced bytes as of one moment. Its syncs cover at least
//! all that was appended before, so a durable end that was read at the same moment holds once they
//! have succeeded. [`Segments::synced`] takes the result; a file that was written meanwhile still
//! counts as unsynced. A pending sync that is dropped changes nothing.
//!
//! # Invariants
//!
//! - **D2.** The result of a sync that failed is passed on: the writer then returns that error.
//! - The files are synced through the handles that wrote them.

use std::sync::Arc;

use ropewalk_disk::File;

use super::Segments;
use crate::durable_end::DurableEnd;
use crate::error::{Result, SegmentError};
use crate::files::{INDEX, LOG};
use crate::view::SharedSegments;

/// A segment open for writing.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    pub(super) base_offset: i64,
    pub(super) log: Arc<dyn File>,
    pub(super) index: Arc<dyn File>,
    /// Number of changes of the files since they were opened.
    pub(super) changes: u64,
}

impl Tail {
    /// Whether both are the same files, without a change in between.
    fn is_unchanged(&self, before: &Self) -> bool {
        self.base_offset == before.base_offset
            && self.changes == before.changes
            && Arc::ptr_eq(&self.log, &before.log)
    }
}

/// The files and names that a sync has to make durable, as of one moment.
#[derive(Debug)]
pub struct PendingSync {
    shared: Arc<SharedSegments>,
    files: Vec<Tail>,
    /// The changes of the directory that are to be synced; `None` if there are none.
    names: Option<u64>,
    /// Whether the directory itself is not durable yet.
    nameless: bool,
}

impl PendingSync {
    /// Number of fsyncs of [`Self::sync_files`] and [`Self::sync_parent`].
    #[must_use]
    pub fn cost(&self) -> usize {
        2 * self.files.len() + usize::from(self.names.is_some()) + usize::from(self.needs_parent())
    }

    /// Whether the directory that holds the partition's has to be synced, too. One sync of it
    /// serves all partitions.
    #[must_use]
    pub fn needs_parent(&self) -> bool {
        self.nameless && self.names.is_some()
    }

    /// Makes the content of the files and their names durable. A failure is final (D2).
    pub fn sync_files(&self) -> Result<()> {
        for tail in &self.files {
            for (file, extension, why) in
                [(&tail.log, LOG, "segment"), (&tail.index, INDEX, "segment-index")]
            {
                let path = self.shared.path(tail.base_offset, extension);
                file.sync(why).map_err(|error| SegmentError::sync(&path, error))?;
            }
        }
        self.names.map_or(Ok(()), |_| self.shared.sync_dir())
    }

    /// Makes the name of the partition's directory durable. A failure is final (D2).
    pub fn sync_parent(&self) -> Result<()> {
        self.shared.sync_parent()
    }
}

impl Segments {
    /// What has to be synced so that everything appended so far is durable.
    pub fn pending_sync(&self) -> Result<PendingSync> {
        self.usable()?;
        Ok(PendingSync {
            shared: Arc::clone(&self.shared),
            files: self.dirty.clone(),
            names: (self.names_changed != self.names_synced).then_some(self.names_changed),
            nameless: self.nameless,
        })
    }

    /// Takes the result of all syncs of `pending`. A failure is final (D2).
    pub fn synced(&mut self, pending: &PendingSync, done: Result<()>) -> Result<()> {
        done.inspect_err(|error| self.failed = Some(error.clone()))?;
        self.dirty.retain(|tail| !pending.files.iter().any(|before| tail.is_unchanged(before)));
        if let Some(names) = pending.names {
            self.names_synced = names;
            self.nameless = false;
        }
        Ok(())
    }

    /// Makes everything appended so far durable. A failure is final (D2).
    pub fn sync(&mut self) -> Result<DurableEnd> {
        let pending = self.pending_sync()?;
        let parent = || if pending.needs_parent() { pending.sync_parent() } else { Ok(()) };
        let done = pending.sync_files().and_then(|()| parent());
        self.synced(&pending, done)?;
        Ok(self.end())
    }

    /// Number of fsyncs of the next [`Segments::sync`].
    #[must_use]
    pub fn sync_cost(&self) -> usize {
        let names = usize::from(self.names_changed != self.names_synced);
        2 * self.dirty.len() + names * (1 + usize::from(self.nameless))
    }
}
