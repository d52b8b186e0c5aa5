//! Orphans: objects and pages in the bucket that no manifest names. A leader whose term ended
//! before its command was applied leaves one, and a deleted topic leaves its whole folder.
//!
//! The leader of a shard lists the folders of its partitions, and reads the manifests after that.
//! What was listed and is not named is deleted, if it is older than the grace period and if no
//! later command can name it: an object that ends after the tier may still be added, and a page of
//! this term may be about to be. The leader of the catalog deletes the folders of topics whose
//! deletion the catalog can prove.
//!
//! # Invariants
//!
//! - **T1** nothing is deleted that a manifest names or may still name. If a page cannot be read,
//!   nothing of its partition is deleted.
//! - A folder without a proof that its topic was deleted stays: the catalog may have lost the
//!   topic.
//! - **R1** at most [`limits::TIER_ORPHANS_LISTED_MAX`] names are held.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use ropewalk_node::ShardHandle;
use ropewalk_shard::state::Tier;
use ropewalk_shard::{PartitionId, ShardId, TopicId};
use ropewalk_tier::{Entries, Kind, Name, Origin, PartitionKey, Remedy, TierError};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::led::{Led, StepError};
use super::parts::Parts;
use super::{convert, delete, pages};
use crate::clock;
use crate::limits;

/// Deletes the orphans of the shards that this broker leads.
#[derive(Debug)]
pub(crate) struct Orphans {
    parts: Arc<Parts>,
    checked: HashMap<ShardId, Checked>,
    /// Deleted topics that may have a folder, and since when that is known.
    deleted: BTreeMap<TopicId, Instant>,
    /// The revision of the catalog up to which deleted topics are known; 0 for none.
    revision: u64,
}

/// The last search of a shard.
#[derive(Debug, Clone, Copy)]
struct Checked {
    term: u64,
    at: Instant,
}

impl Orphans {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self { parts, checked: HashMap::new(), deleted: BTreeMap::new(), revision: 0 }
    }

    /// Searches at intervals, and after this broker became a leader.
    pub(crate) async fn run(mut self) {
        let interval = self.parts.rules.orphan_check_interval;
        loop {
            tokio::time::sleep(interval.min(limits::TIER_ORPHANS_LOOK_INTERVAL)).await;
            self.pass().await;
        }
    }

    /// Searches what is due.
    pub(crate) async fn pass(&mut self) {
        let shards: Vec<_> = self.parts.node.shards().cloned().collect();
        for shard in shards {
            if self.parts.health.is_paused(Instant::now()) {
                return;
            }
            let Some(term) = shard.leading() else { continue };
            if self.is_due(shard.id(), term) && self.search(&shard).await {
                self.checked.insert(shard.id(), Checked { term, at: Instant::now() });
            }
        }
        if self.note_deleted() {
            let done = self.delete_topics().await;
            self.report(done, "the folders of deleted topics stay in the bucket, will retry");
        }
    }

    fn is_due(&self, shard: ShardId, term: u64) -> bool {
        let interval = self.parts.rules.orphan_check_interval;
        self.checked.get(&shard).is_none_or(|checked| {
            let pause = if checked.term == term {
                interval
            } else {
                interval.min(limits::TIER_ORPHANS_PAUSE)
            };
            checked.at.elapsed() >= pause
        })
    }

    /// Searches the folders of a shard. Returns whether it came to an end.
    async fn search(&mut self, shard: &Arc<ShardHandle>) -> bool {
        if shard.id() == ShardId::CATALOG {
            let listed = self.list_topics(shard).await;
            return self.report(listed, "the bucket is not searched for deleted topics");
        }
        let mut is_complete = true;
        for id in tiered(shard) {
            let removed = remove(&self.parts, shard, id).await;
            is_complete &= self.report(removed, "orphans stay in the bucket");
        }
        is_complete
    }

    /// Reports a failure. Returns whether a repetition is of no use now.
    fn report(&self, done: Result<(), StepError>, what: &str) -> bool {
        let Err(error) = done else { return true };
        if error.is_of_leadership() {
            debug!(%error, "{what}");
            return false;
        }
        self.parts.metrics.failed(error.kind());
        self.parts.pause_after(&error);
        warn!(%error, "{what}");
        match error {
            StepError::Bucket(error) => error.remedy() == Remedy::Object,
            StepError::Proposed(_) => false,
            StepError::Local(_)
            | StepError::Encode(_)
            | StepError::Page(_)
            | StepError::Refused(_)
            | StepError::Unclaimed
            | StepError::Unfinished
            | StepError::Fenced
            | StepError::NotLeader => true,
        }
    }

    /// Notes the topics that have a folder and were deleted.
    async fn list_topics(&mut self, catalog: &Arc<ShardHandle>) -> Result<(), StepError> {
        let mut found = BTreeSet::new();
        let mut listed = self.parts.bucket.list(self.parts.cluster.as_str());
        while let Some(object) = listed.try_next().await? {
            if let Ok(name) = Name::parse(&object.name) {
                found.insert(TopicId(name.partition.topic));
            }
        }
        catalog.read_barrier().await?;
        let state = catalog.state();
        let Some(known) = &state.catalog else { return Ok(()) };
        let deleted = found.into_iter().filter(|topic| known.deletion(*topic).is_some());
        for topic in deleted.take(limits::TIER_DELETED_TOPICS_MAX) {
            self.deleted.entry(topic).or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Notes topics that were deleted since the last look. Returns whether this broker leads the
    /// catalog.
    fn note_deleted(&mut self) -> bool {
        let leads = self.parts.node.try_catalog().filter(|catalog| catalog.leading().is_some());
        let Some(catalog) = leads else {
            self.deleted.clear();
            self.revision = 0;
            return false;
        };
        let state = catalog.state();
        let Some(known) = &state.catalog else { return false };
        let since = std::mem::replace(&mut self.revision, known.revision);
        // Those before the first look are found by their folders.
        if since != 0 && since != known.revision {
            let room = limits::TIER_DELETED_TOPICS_MAX.saturating_sub(self.deleted.len());
            let new = known.tombstones.iter().filter(|(_, revision)| **revision > since);
            for (topic, _) in new.take(room) {
                self.deleted.entry(*topic).or_insert_with(Instant::now);
            }
        }
        true
    }

    /// Deletes the folders of topics whose grace period is over.
    async fn delete_topics(&mut self) -> Result<(), StepError> {
        let grace_ms = u128::try_from(self.parts.rules.grace_ms).unwrap_or(0);
        let due = self.deleted.iter().filter(|(_, since)| since.elapsed().as_millis() >= grace_ms);
        let due: Vec<TopicId> = due.map(|(topic, _)| *topic).collect();
        for topic in due {
            let count = delete_topic(&self.parts, topic).await?;
            if count > 0 {
                info!(%topic, count, "objects of a deleted topic deleted");
            }
            self.deleted.remove(&topic);
        }
        Ok(())
    }
}

/// The partitions of a shard that have a tier.
fn tiered(shard: &ShardHandle) -> Vec<PartitionId> {
    let state = shard.state();
    let with_tier = state.partitions.iter().filter(|(_, partition)| partition.tier.is_some());
    with_tier.map(|(id, _)| *id).collect()
}

/// Deletes everything in the folder of a topic that was deleted. Returns how many objects.
async fn delete_topic(parts: &Parts, topic: TopicId) -> Result<usize, StepError> {
    let mut listed = parts.bucket.list(&format!("{}/{topic}", parts.cluster));
    let (mut names, mut count) = (Vec::new(), 0);
    loop {
        let next = listed.try_next().await?;
        let is_end = next.is_none();
        names.extend(next.and_then(|object| Name::parse(&object.name).ok()));
        if names.len() >= limits::TIER_DELETES_MAX || (is_end && !names.is_empty()) {
            parts.fence.permit_deletion().await?;
            delete::delete(parts, &names).await?;
            parts.metrics.orphans_deleted(names.len());
            count += names.len();
            names.clear();
        }
        if is_end {
            return Ok(count);
        }
    }
}

/// Deletes the orphans of a partition.
async fn remove(parts: &Parts, shard: &Arc<ShardHandle>, id: PartitionId) -> Result<(), StepError> {
    let key = convert::key(&parts.cluster, id);
    let listed = old_enough(parts, &key).await?;
    if listed.is_empty() {
        return Ok(());
    }
    // Only now, so that everything that was added before the list is in the manifest.
    let led = Led::begin(shard, id).await?;
    let Some(tier) = led.look(|partition| partition.tier.clone())? else { return Ok(()) };
    let (end, writer) = (tier.end, led.origin());
    let mut unnamed: HashSet<Name> =
        listed.into_iter().filter(|name| is_settled(name, end, writer)).collect();
    remove_named(parts, &key, &tier, &mut unnamed).await?;
    let orphans: Vec<Name> = unnamed.into_iter().collect();
    for orphans in orphans.chunks(limits::TIER_DELETES_MAX) {
        parts.fence.permit_deletion().await?;
        led.check()?;
        delete::delete(parts, orphans).await?;
        parts.metrics.orphans_deleted(orphans.len());
        info!(partition = %id, count = orphans.len(), "objects that no manifest names deleted");
    }
    Ok(())
}

/// The names in the folder of a partition that were put before the grace period.
async fn old_enough(parts: &Parts, key: &PartitionKey) -> Result<VecDeque<Name>, TierError> {
    let put_before_ms = clock::now_ms().saturating_sub(parts.rules.grace_ms);
    let mut listed = parts.bucket.list(&key.folder());
    let mut names = VecDeque::new();
    while let Some(object) = listed.try_next().await? {
        let name = Name::parse(&object.name).ok().filter(|name| name.partition == *key);
        names.extend(name.filter(|_| object.modified_ms <= put_before_ms));
        if names.len() > limits::TIER_ORPHANS_LISTED_MAX {
            names.pop_front();
        }
    }
    Ok(names)
}

/// Whether no later command can name it, in a tier that ends there, by the leader in this term: the
/// state takes objects only at the end of the tier, and pages only of the current term.
fn is_settled(name: &Name, tier_end: i64, writer: Origin) -> bool {
    let is_of_writer = Origin { history: name.history, term: name.term } == writer;
    name.end <= tier_end
        && match name.kind {
            Kind::Object => true,
            Kind::Page(_) => !is_of_writer,
        }
}

/// Removes what the manifest names. Pages that no name overlaps are not read.
async fn remove_named(
    parts: &Parts,
    key: &PartitionKey,
    tier: &Tier,
    unnamed: &mut HashSet<Name>,
) -> Result<(), TierError> {
    for object in &tier.objects {
        unnamed.remove(&convert::object(object).name(key));
    }
    for page in &tier.replaced {
        unnamed.remove(&convert::page(page).name(key));
    }
    let mut named: Vec<_> = tier.pages.iter().map(convert::page).collect();
    while let Some(page) = named.pop() {
        unnamed.remove(&page.name(key));
        if !unnamed.iter().any(|name| name.base < page.end && page.base < name.end) {
            continue;
        }
        match pages::read(parts, key, &page).await?.entries() {
            Entries::Objects(objects) => objects.iter().for_each(|object| {
                unnamed.remove(&object.name(key));
            }),
            Entries::Pages(listed) => named.extend(listed.iter().copied()),
        }
    }
    Ok(())
}
