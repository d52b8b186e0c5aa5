//! The tier of one partition: which of its records are in the bucket.
//!
//! ```text
//!  log start        local start        tier end         next offset
//!      |--- objects only ---|--- both ----|--- disks only ---|
//! ```
//! The leader of the shard uploads objects and proposes what changes here. Each replica removes its
//! files below the local start when it has applied the command.
//!
//! # Invariants
//!
//! - `log_start <= local_start <= end <= next_offset`.
//! - **T1** an offset between the log start and the local start is in an object that was added and
//!   not dropped.
//! - **O4** objects follow one another: an object begins where the one before ends. Only below the
//!   log start may there be a gap, where `DeleteRecords` passed the end of the tier.
//! - **R1** at most [`limits::TIER_OBJECTS_MAX`] objects, [`limits::TIER_PAGES_MAX`] pages and
//!   [`limits::TIER_REPLACED_MAX`] replaced pages are referenced.
//! - Pages come before objects, and pages of level 1 before those of level 0.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::command::TierChange;
use crate::limits;
use crate::manifest::{ObjectRef, PageRef};

/// The tier of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Whether the partition takes further objects.
    pub is_enabled: bool,
    /// The first offset that is on the disks of the replicas.
    pub local_start: i64,
    /// The offset up to which the records are in objects: where the next object begins.
    pub end: i64,
    /// Objects that end here or before are not read any more.
    pub dropped: i64,
    /// The shard's clock when `dropped` was last raised, Unix milliseconds; for the grace period.
    pub dropped_ms: i64,
    /// Objects that end here or before are deleted from the bucket.
    pub deleted: i64,
    /// The pages, which list the oldest objects.
    pub pages: VecDeque<PageRef>,
    /// The newest objects, oldest first.
    pub objects: VecDeque<ObjectRef>,
    /// Pages that another one replaced and that are not deleted yet.
    pub replaced: Vec<PageRef>,
}

/// Why a change of a tier was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TierRefusal {
    /// This shard does not hold the partition, or no longer holds it.
    #[error("no such partition in this shard")]
    NoSuchPartition,
    /// The partition has no tier.
    #[error("the partition has no tier")]
    NotTiered,
    /// The partition has a tier that takes no further objects.
    #[error("the partition takes no further objects")]
    Disabled,
    /// The object begins after the end of the tier.
    #[error("the object begins at {base}, the tier ends at {end}: there would be a gap")]
    Gap {
        /// The base of the object.
        base: i64,
        /// The end of the tier.
        end: i64,
    },
    /// The object begins before the end of the tier.
    #[error("the object begins at {base}, the tier ends at {end}: they would overlap")]
    Overlap {
        /// The base of the object.
        base: i64,
        /// The end of the tier.
        end: i64,
    },
    /// The object has no offsets.
    #[error("the object ends at its base")]
    Empty,
    /// The object ends after the end of the log.
    #[error("the object ends at {end}, the log at {next_offset}")]
    BeyondLog {
        /// The end of the object.
        end: i64,
        /// The end of the log.
        next_offset: i64,
    },
    /// The object or page was written in another term.
    #[error("it was written in term {written}, this is term {current}")]
    WrongTerm {
        /// The term in its reference.
        written: u64,
        /// The current term.
        current: u64,
    },
    /// There are as many objects, pages or replaced pages as a partition may reference.
    #[error("there may be no more than {count} {what}")]
    TooMany {
        /// What there are too many of.
        what: Bounded,
        /// How many there may be.
        count: usize,
    },
    /// The page does not list the oldest objects or pages of the level below.
    #[error("the page does not list the oldest of what it would replace")]
    PageMismatch,
    /// The local start would pass the end of the tier.
    #[error("offset {offset} is after the end of the tier, {end}")]
    BeyondTier {
        /// The offset that was asked for.
        offset: i64,
        /// The end of the tier.
        end: i64,
    },
    /// Records after the log start would be dropped.
    #[error("offset {offset} is after the log start, {log_start}")]
    StillRead {
        /// The offset that was asked for.
        offset: i64,
        /// The first offset that remains.
        log_start: i64,
    },
    /// Objects would be deleted that were not dropped.
    #[error("offset {offset} is after the end of what was dropped, {dropped}")]
    NotDropped {
        /// The offset that was asked for.
        offset: i64,
        /// The end of what was dropped.
        dropped: i64,
    },
    /// A partition that is to be restored has records, or had some. Since format 9, like all below.
    #[error("the partition is not empty: its next offset is {next_offset}")]
    NotEmpty {
        /// The end of its log.
        next_offset: i64,
    },
    /// The objects of a partition that is to be restored leave a gap or overlap.
    #[error("the objects do not follow one another from the log start to the end")]
    NotContiguous,
    /// The leader epochs or producers of a partition that is to be restored are out of order.
    #[error("the leader epochs or the producers are out of order")]
    OutOfOrder,
    /// A leader epoch in the objects is not below those that new records get, so clients would
    /// take the new leader for an older one.
    #[error("an object has records of leader epoch {found}, the current one is {current}")]
    EpochNotBelow {
        /// The highest epoch in the objects.
        found: i32,
        /// The current leader epoch.
        current: i32,
    },
}

/// What a partition references a bounded number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bounded {
    /// Objects that no page lists.
    Objects,
    /// Pages that no other page lists.
    Pages,
    /// Pages that another one replaced.
    ReplacedPages,
    /// Objects or pages that one page lists.
    Entries,
    /// Leader epochs. Since format 9, like all below.
    Epochs,
    /// Idempotent producers, or batches of one of them.
    Producers,
}

impl std::fmt::Display for Bounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Objects => "objects",
            Self::Pages => "pages",
            Self::ReplacedPages => "replaced pages",
            Self::Entries => "entries in a page",
            Self::Epochs => "leader epochs",
            Self::Producers => "producers, or batches of one of them",
        })
    }
}

/// What an accepted change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    /// Nothing: it was done before.
    Nothing,
    /// The tier changed, but no file of a replica is needed less.
    Tier,
    /// The local start was raised to this offset.
    LocalStart(i64),
    /// The partition was restored: its log starts and ends at these offsets.
    Restored { log_start: i64, end: i64 },
}

/// What a change of a tier is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    /// The term of the command.
    pub(super) term: u64,
    /// The clock of the shard, Unix milliseconds.
    pub(super) clock_ms: i64,
    pub(super) log_start: i64,
    pub(super) next_offset: i64,
}

impl Tier {
    pub(super) fn new(log_start: i64) -> Self {
        Self {
            is_enabled: false,
            local_start: log_start,
            end: log_start,
            dropped: log_start,
            dropped_ms: 0,
            deleted: log_start,
            pages: VecDeque::new(),
            objects: VecDeque::new(),
            replaced: Vec::new(),
        }
    }

    pub(super) fn change(
        &mut self,
        current: Current,
        change: TierChange,
    ) -> Result<Changed, TierRefusal> {
        let Current { term, clock_ms, log_start, next_offset } = current;
        match change {
            TierChange::Enable => Ok(self.enable(true)),
            TierChange::Disable => Ok(self.enable(false)),
            TierChange::AddObject(object) => self.add(term, next_offset, object),
            TierChange::FoldObjects(page) => self.fold(term, page),
            TierChange::SetLocalStart(offset) => self.set_local_start(offset),
            TierChange::DropObjects { through } => self.drop_objects(log_start, clock_ms, through),
            TierChange::ObjectsDeleted { through, pages } => self.deleted(through, &pages),
            TierChange::Restore(_) => unreachable!("a partition is restored as a whole"),
        }
    }

    /// Raises the offsets of the tier to the log start.
    pub(super) fn raise(&mut self, log_start: i64) {
        self.local_start = self.local_start.max(log_start);
        self.end = self.end.max(log_start);
    }

    /// Whether the tier takes no further objects and has none.
    pub(super) fn has_ended(&self, log_start: i64) -> bool {
        !self.is_enabled && !self.has_objects() && self.local_start <= log_start
    }

    /// Whether anything of the partition is in the bucket, dropped objects included.
    #[must_use]
    pub fn has_objects(&self) -> bool {
        !self.pages.is_empty() || !self.objects.is_empty() || !self.replaced.is_empty()
    }

    /// The object with this offset, if no page lists it. `None` also for a dropped one.
    #[must_use]
    pub fn object_at(&self, offset: i64) -> Option<&ObjectRef> {
        let at = self.objects.partition_point(|object| object.end <= offset);
        let found = self.objects.get(at).filter(|object| object.base <= offset);
        found.filter(|object| object.end > self.dropped)
    }

    /// The page that lists the object with this offset. `None` also for a dropped one.
    #[must_use]
    pub fn page_at(&self, offset: i64) -> Option<&PageRef> {
        let at = self.pages.partition_point(|page| page.end <= offset);
        let found = self.pages.get(at).filter(|page| page.base <= offset);
        found.filter(|_| offset >= self.dropped)
    }

    fn enable(&mut self, is_enabled: bool) -> Changed {
        let is_change = std::mem::replace(&mut self.is_enabled, is_enabled) != is_enabled;
        if is_change { Changed::Tier } else { Changed::Nothing }
    }

    fn add(
        &mut self,
        term: u64,
        next_offset: i64,
        object: ObjectRef,
    ) -> Result<Changed, TierRefusal> {
        let ObjectRef { base, end, .. } = object;
        if self.objects.contains(&object) {
            return Ok(Changed::Nothing);
        }
        if !self.is_enabled {
            return Err(TierRefusal::Disabled);
        }
        same_term(object.term, term)?;
        if base > self.end {
            return Err(TierRefusal::Gap { base, end: self.end });
        }
        if base < self.end {
            return Err(TierRefusal::Overlap { base, end: self.end });
        }
        if end <= base {
            return Err(TierRefusal::Empty);
        }
        if end > next_offset {
            return Err(TierRefusal::BeyondLog { end, next_offset });
        }
        room_for(Bounded::Objects, self.objects.len(), limits::TIER_OBJECTS_MAX)?;
        self.objects.push_back(object);
        self.end = end;
        Ok(Changed::Tier)
    }

    fn fold(&mut self, term: u64, page: PageRef) -> Result<Changed, TierRefusal> {
        if self.pages.contains(&page) {
            return Ok(Changed::Nothing);
        }
        same_term(page.term, term)?;
        let below = match page.level {
            0 => self.objects.iter().map(Listed::from).collect::<Vec<_>>(),
            1 => self.pages.iter().filter(|p| p.level == 0).map(Listed::from).collect(),
            _ => return Err(TierRefusal::PageMismatch),
        };
        let count = below.iter().take_while(|listed| listed.end <= page.end).count();
        let of_level = self.pages.iter().rposition(|known| known.level == page.level);
        let replaced = of_level.filter(|at| self.pages[*at].base == page.base);
        let first = replaced.map(|at| Listed::of_entries(&self.pages[at]));
        let listed = first.into_iter().chain(below[..count].iter().copied());
        let sum = listed.reduce(Listed::followed_by).ok_or(TierRefusal::PageMismatch)?;
        if count == 0 || sum != Listed::of_entries(&page) {
            return Err(TierRefusal::PageMismatch);
        }
        if page.count > limits::TIER_PAGE_ENTRIES_MAX {
            let count = limits::TIER_PAGE_ENTRIES_MAX as usize;
            return Err(TierRefusal::TooMany { what: Bounded::Entries, count });
        }
        if replaced.is_some() {
            room_for(Bounded::ReplacedPages, self.replaced.len(), limits::TIER_REPLACED_MAX)?;
        } else if page.level == 0 {
            room_for(Bounded::Pages, self.pages.len(), limits::TIER_PAGES_MAX)?;
        }
        self.put_page(page, count, replaced);
        Ok(Changed::Tier)
    }

    /// Puts a page in the place of `count` objects or pages of the level below, and of the page at
    /// `replaced`.
    fn put_page(&mut self, page: PageRef, count: usize, replaced: Option<usize>) {
        if let Some(at) = replaced {
            self.replaced.extend(self.pages.remove(at));
        }
        if page.level == 0 {
            self.objects.drain(..count);
            self.pages.push_back(page);
        } else {
            let first = self.pages.partition_point(|known| known.level >= page.level);
            self.pages.drain(first..first + count);
            self.pages.insert(first, page);
        }
    }

    fn set_local_start(&mut self, offset: i64) -> Result<Changed, TierRefusal> {
        if offset <= self.local_start {
            return Ok(Changed::Nothing);
        }
        if offset > self.end {
            return Err(TierRefusal::BeyondTier { offset, end: self.end });
        }
        self.local_start = offset;
        Ok(Changed::LocalStart(offset))
    }

    fn drop_objects(
        &mut self,
        log_start: i64,
        clock_ms: i64,
        through: i64,
    ) -> Result<Changed, TierRefusal> {
        if through <= self.dropped {
            return Ok(Changed::Nothing);
        }
        if through > log_start {
            return Err(TierRefusal::StillRead { offset: through, log_start });
        }
        (self.dropped, self.dropped_ms) = (through, clock_ms);
        Ok(Changed::Tier)
    }

    fn deleted(&mut self, through: i64, pages: &[u64]) -> Result<Changed, TierRefusal> {
        let dropped = self.dropped;
        if through > dropped {
            return Err(TierRefusal::NotDropped { offset: through, dropped });
        }
        let before = (self.deleted, self.replaced.len());
        self.deleted = self.deleted.max(through);
        while self.pages.pop_front_if(|page| page.end <= through).is_some() {}
        while self.objects.pop_front_if(|object| object.end <= through).is_some() {}
        self.replaced.retain(|page| !pages.contains(&page.digest));
        let is_same = before == (self.deleted, self.replaced.len());
        Ok(if is_same { Changed::Nothing } else { Changed::Tier })
    }
}

fn same_term(written: u64, current: u64) -> Result<(), TierRefusal> {
    if written == current { Ok(()) } else { Err(TierRefusal::WrongTerm { written, current }) }
}

pub(super) fn room_for(what: Bounded, count: usize, max: usize) -> Result<(), TierRefusal> {
    if count < max { Ok(()) } else { Err(TierRefusal::TooMany { what, count: max }) }
}

/// Consecutive entries of a page, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    base: i64,
    end: i64,
    count: u32,
    objects_bytes: u64,
    max_timestamp_ms: i64,
    is_contiguous: bool,
}

impl From<&ObjectRef> for Listed {
    fn from(object: &ObjectRef) -> Self {
        let ObjectRef { base, end, size_bytes, max_timestamp_ms, .. } = *object;
        Self {
            base,
            end,
            count: 1,
            objects_bytes: size_bytes,
            max_timestamp_ms,
            is_contiguous: true,
        }
    }
}

impl From<&PageRef> for Listed {
    /// The page as one entry of another one.
    fn from(page: &PageRef) -> Self {
        Self { count: 1, ..Self::of_entries(page) }
    }
}

impl Listed {
    fn of_entries(page: &PageRef) -> Self {
        let PageRef { base, end, count, objects_bytes, max_timestamp_ms, .. } = *page;
        Self { base, end, count, objects_bytes, max_timestamp_ms, is_contiguous: true }
    }

    fn followed_by(self, next: Self) -> Self {
        Self {
            base: self.base,
            end: next.end,
            count: self.count.saturating_add(next.count),
            objects_bytes: self.objects_bytes.saturating_add(next.objects_bytes),
            max_timestamp_ms: self.max_timestamp_ms.max(next.max_timestamp_ms),
            is_contiguous: self.is_contiguous && self.end == next.base,
        }
    }
}
