//! What a manifest says of one partition, and the pages that it refers to.

use std::collections::{BTreeMap, BTreeSet};

use crate::bucket::Bucket;
use crate::error::TierError;
use crate::folders::Folder;
use crate::limits;
use crate::names::{Name, ObjectRef, PageRef, PartitionKey};
use crate::page::{Entries, Page};

/// What a manifest says of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The first offset that is read.
    pub log_start: i64,
    /// Where the next object begins.
    pub end: i64,
    /// The pages that list the oldest objects, ascending.
    pub pages: Vec<PageRef>,
    /// The newest objects, ascending.
    pub objects: Vec<ObjectRef>,
}

/// A part of a manifest: an object, or a page that could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Object(ObjectRef),
    Unread(PageRef),
}

impl Part {
    /// The first offset, and the one behind the last.
    pub(crate) fn range(&self) -> (i64, i64) {
        match self {
            Self::Object(object) => (object.base, object.end),
            Self::Unread(page) => (page.base, page.end),
        }
    }
}

/// A manifest with the contents of its pages.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Objects and unread pages, ascending.
    pub(crate) parts: Vec<Part>,
    /// The pages that the manifest refers to, directly or by another page.
    pub(crate) pages: BTreeSet<Name>,
}

impl Manifest {
    /// What the manifest lists, with the pages that could be read.
    pub(crate) fn parts(&self, key: &PartitionKey, read: &BTreeMap<Name, Page>) -> Parts {
        let mut found = Parts::default();
        let mut rest: Vec<PageRef> = self.pages.iter().rev().copied().collect();
        while let Some(page) = rest.pop() {
            let name = page.name(key);
            match read.get(&name).map(Page::entries) {
                Some(Entries::Objects(objects)) => {
                    found.parts.extend(objects.iter().copied().map(Part::Object));
                }
                Some(Entries::Pages(pages)) => rest.extend(pages.iter().rev().copied()),
                None => found.parts.push(Part::Unread(page)),
            }
            found.pages.insert(name);
        }
        found.parts.extend(self.objects.iter().copied().map(Part::Object));
        found
    }
}

/// The pages of a folder.
#[derive(Debug, Default)]
pub(crate) struct ReadPages {
    pub(crate) pages: BTreeMap<Name, Page>,
    /// The pages that are damaged, with what is wrong.
    pub(crate) damaged: Vec<(Name, String)>,
}

/// Reads the pages of a folder. One that was deleted after the list is left out.
pub(crate) async fn read_pages(bucket: &Bucket, folder: &Folder) -> Result<ReadPages, TierError> {
    let mut read = ReadPages::default();
    for found in &folder.pages {
        let decoded = match bucket.get(&found.name.to_string(), limits::PAGE_BYTES_MAX).await {
            Ok(bytes) => Page::decode(&bytes, &found.name).map_err(|error| error.to_string()),
            Err(TierError::Damaged { source, .. }) => Err(source.to_string()),
            Err(TierError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        match decoded {
            Ok(page) => drop(read.pages.insert(found.name.clone(), page)),
            Err(why) => read.damaged.push((found.name.clone(), why)),
        }
    }
    Ok(read)
}
