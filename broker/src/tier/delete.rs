//! Deletes from the bucket what retention dropped, after the grace period: objects and pages first,
//! then the command that removes their references.
//!
//! A deletion that fails half-way is repeated: to delete what is gone already is no error, and a
//! page that is gone had all its objects deleted.

use std::collections::VecDeque;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use ropewalk_shard::command::TierChange;
use ropewalk_shard::state::Tier;
use ropewalk_tier::{Entries, Name, ObjectRef, PageRef, PartitionKey, TierError};
use tracing::debug;

use super::convert;
use super::led::{Led, StepError};
use super::pages;
use super::parts::Parts;
use crate::limits;

/// Deletes what was dropped, at most [`limits::TIER_DELETES_MAX`] objects. Returns how many.
pub(super) async fn dropped(parts: &Parts, led: &Led) -> Result<usize, StepError> {
    let tier = led.look(|partition| partition.tier.clone())?;
    let Some(tier) = tier.filter(|tier| tier.deleted < tier.dropped) else { return Ok(0) };
    let key = convert::key(&parts.cluster, led.id);
    let found = Found::of(parts, &key, &tier).await?;
    parts.fence.permit_deletion().await?;
    led.check()?;
    delete(parts, &found.objects).await?;
    // A page only after everything that it lists: it is how that is found.
    delete(parts, &found.pages).await?;
    let count = found.objects.len();
    let through = found.through;
    led.change(TierChange::ObjectsDeleted { through, pages: Vec::new() }).await?;
    parts.metrics.deleted(count);
    debug!(partition = %led.id, through, count, "dropped objects deleted");
    Ok(count)
}

/// Deletes replaced pages.
pub(super) async fn replaced(
    parts: &Parts,
    led: &Led,
    pages: &[ropewalk_shard::manifest::PageRef],
) -> Result<(), StepError> {
    let key = convert::key(&parts.cluster, led.id);
    parts.fence.permit_deletion().await?;
    led.check()?;
    let names: Vec<Name> = pages.iter().map(|page| convert::page(page).name(&key)).collect();
    delete(parts, &names).await?;
    let through = led.look(|partition| partition.tier.as_ref().map(|tier| tier.deleted))?;
    let Some(through) = through else { return Ok(()) };
    let pages = pages.iter().map(|page| page.digest).collect();
    led.change(TierChange::ObjectsDeleted { through, pages }).await
}

pub(super) async fn delete(parts: &Parts, names: &[Name]) -> Result<(), TierError> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let deleted = stream::iter(names).map(|name| async move { parts.bucket.delete(&name).await });
    deleted.buffer_unordered(limits::TIER_STEPS_AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

/// What of a tier is deleted next.
#[derive(Debug, Default)]
struct Found {
    objects: Vec<Name>,
    pages: Vec<Name>,
    /// Everything that ends here or before is among them, or was deleted before.
    through: i64,
}

/// A reference that is examined.
enum Entry {
    Object(ObjectRef),
    Page(PageRef),
    /// All that the page lists was examined.
    PageEnd(PageRef),
}

impl Found {
    /// Examines the dropped references, oldest first.
    async fn of(parts: &Parts, key: &PartitionKey, tier: &Tier) -> Result<Self, TierError> {
        let mut found = Self { through: tier.deleted, ..Self::default() };
        let pages = tier.pages.iter().map(|page| Entry::Page(convert::page(page)));
        let objects = tier.objects.iter().map(|object| Entry::Object(convert::object(object)));
        let mut rest: VecDeque<Entry> = pages.chain(objects).collect();
        while let Some(entry) = rest.pop_front() {
            if found.objects.len() >= limits::TIER_DELETES_MAX {
                return Ok(found);
            }
            match entry {
                Entry::Object(object) if object.end <= tier.dropped => {
                    if object.end > tier.deleted {
                        found.objects.push(object.name(key));
                    }
                    found.through = found.through.max(object.end);
                }
                Entry::Page(page) if page.base < tier.dropped => {
                    for entry in entries(parts, key, &page).await?.into_iter().rev() {
                        rest.push_front(entry);
                    }
                }
                Entry::PageEnd(page) if page.end <= tier.dropped => {
                    found.pages.push(page.name(key));
                    found.through = found.through.max(page.end);
                }
                // The first one that remains.
                Entry::Object(_) | Entry::Page(_) | Entry::PageEnd(_) => break,
            }
        }
        found.through = tier.dropped;
        Ok(found)
    }
}

/// What a page lists, and its end. A page that is gone lists nothing any more.
async fn entries(
    parts: &Parts,
    key: &PartitionKey,
    page: &PageRef,
) -> Result<Vec<Entry>, TierError> {
    let read = match pages::read(parts, key, page).await {
        Ok(read) => Some(read),
        Err(TierError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    let listed: Vec<Entry> = match read.as_ref().map(ropewalk_tier::Page::entries) {
        Some(Entries::Objects(objects)) => objects.iter().copied().map(Entry::Object).collect(),
        Some(Entries::Pages(pages)) => pages.iter().copied().map(Entry::Page).collect(),
        None => Vec::new(),
    };
    Ok(listed.into_iter().chain([Entry::PageEnd(*page)]).collect())
}
