//! Pages of manifests: reads them, and folds references of the state into them.

use ropewalk_shard::command::TierChange;
use ropewalk_shard::manifest::PageRef;
use ropewalk_shard::state::Tier;
use ropewalk_tier::{Entries, ObjectRef, Page, PartitionKey, TierError, limits};
use tracing::debug;

use super::convert;
use super::led::{Led, StepError};
use super::parts::Parts;
use super::plan::{self, Fold, FoldEntries};

/// Reads a page.
pub(super) async fn read(
    parts: &Parts,
    key: &PartitionKey,
    page: &ropewalk_tier::PageRef,
) -> Result<Page, TierError> {
    let name = page.name(key);
    let bytes = parts.bucket.get(&name.to_string(), limits::PAGE_BYTES_MAX).await?;
    Page::decode(&bytes, &name).map_err(|source| TierError::Damaged {
        bucket: parts.bucket.url().to_owned(),
        name: name.to_string(),
        source,
    })
}

/// Folds references into a page, if the state has many. Returns whether it did.
pub(super) async fn fold(parts: &Parts, led: &Led) -> Result<bool, StepError> {
    let fold = led.look(|partition| partition.tier.as_deref().and_then(plan::fold))?;
    let Some(fold) = fold else { return Ok(false) };
    let key = convert::key(&parts.cluster, led.id);
    let entries = listed(parts, &key, &fold).await?;
    let page = Page::new(key, led.origin(), entries)?.encode();
    parts.fence.permit_upload_of(led).await?;
    led.check()?;
    parts.bucket.put_if_absent(&page.name.to_string(), &page.content).await?;
    led.change(TierChange::FoldObjects(convert::page_of(&page.reference))).await?;
    debug!(name = %page.name, entries = page.reference.count, "manifest folded into a page");
    Ok(true)
}

/// The entries of the new page.
async fn listed(parts: &Parts, key: &PartitionKey, fold: &Fold) -> Result<Entries, StepError> {
    let known = match &fold.grows {
        Some(page) => Some(read(parts, key, &convert::page(page)).await?),
        None => None,
    };
    let known = known.as_ref().map(Page::entries);
    Ok(match &fold.entries {
        FoldEntries::Objects(added) => {
            let known = match known {
                Some(Entries::Objects(objects)) => objects.as_slice(),
                Some(Entries::Pages(_)) | None => &[],
            };
            let added = added.iter().map(convert::object);
            Entries::Objects(known.iter().copied().chain(added).collect())
        }
        FoldEntries::Pages(added) => {
            let known = match known {
                Some(Entries::Pages(pages)) => pages.as_slice(),
                Some(Entries::Objects(_)) | None => &[],
            };
            let added = added.iter().map(convert::page);
            Entries::Pages(known.iter().copied().chain(added).collect())
        }
    })
}

/// The oldest objects that a partition still has, of the page that lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oldest {
    /// Size of the objects in the first page of the state that end before these.
    pub(super) before_bytes: u64,
    /// The objects, oldest first.
    pub(super) objects: Vec<ObjectRef>,
}

/// Reads the page that lists the oldest objects from `log_start` on: `first`, or one that it lists.
pub(super) async fn oldest(
    parts: &Parts,
    key: &PartitionKey,
    first: &PageRef,
    log_start: i64,
) -> Result<Oldest, TierError> {
    let mut before_bytes = 0;
    let mut page = convert::page(first);
    loop {
        let read = read(parts, key, &page).await?;
        match read.entries() {
            Entries::Objects(objects) => {
                let (gone, kept): (Vec<_>, Vec<_>) =
                    objects.iter().copied().partition(|object| object.end <= log_start);
                before_bytes += gone.iter().map(|object| object.size_bytes).sum::<u64>();
                return Ok(Oldest { before_bytes, objects: kept });
            }
            Entries::Pages(pages) => {
                let gone = pages.iter().take_while(|page| page.end <= log_start);
                before_bytes += gone.map(|page| page.objects_bytes).sum::<u64>();
                let Some(next) = pages.iter().find(|page| page.end > log_start) else {
                    return Ok(Oldest { before_bytes, objects: Vec::new() });
                };
                page = *next;
            }
        }
    }
}

/// The first page that lists objects from `log_start` on.
pub(super) fn first_page(tier: &Tier, log_start: i64) -> Option<&PageRef> {
    tier.pages.iter().find(|page| page.end > log_start)
}
