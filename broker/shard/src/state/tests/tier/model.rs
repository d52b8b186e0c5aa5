//! The state machine against a model that notes of every offset where its record is.
//!
//! The model's leader writes objects and pages to a bucket, proposes what it did, or something that
//! does not fit, and deletes from the bucket what was dropped.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Where a record is. The bucket's copy is that of the object with this digest.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    is_local: bool,
    object: Option<u64>,
}

/// What is in the bucket, by digest.
#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<u64, ObjectRef>,
    /// The objects that each page lists.
    pages: BTreeMap<u64, Vec<ObjectRef>>,
}

#[derive(Debug, Clone)]
enum Act {
    Append(usize),
    Enable,
    Disable,
    /// An object that begins so far from the end of the tier and has so many offsets, or one of
    /// another term.
    Add(i64, i64, bool),
    /// So many of the oldest objects, after those of the newest page or not.
    Fold(usize, bool),
    FoldPages(usize),
    LocalStart(u8),
    LogStart(u8),
    Drop(u8),
    Delete(u8),
    Reload,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..30_usize).prop_map(Act::Append),
        1 => Just(Act::Enable),
        1 => prop::bool::weighted(0.2).prop_map(|is| if is { Act::Disable } else { Act::Enable }),
        8 => (1..10_i64).prop_map(|count| Act::Add(0, count, true)),
        1 => (-3..4_i64, -1..10_i64, any::<bool>()).prop_map(|(b, c, t)| Act::Add(b, c, t)),
        3 => (0..6_usize, any::<bool>()).prop_map(|(count, again)| Act::Fold(count, again)),
        1 => (0..4_usize).prop_map(Act::FoldPages),
        3 => any::<u8>().prop_map(Act::LocalStart),
        2 => (0..80_u8).prop_map(Act::LogStart),
        2 => any::<u8>().prop_map(Act::Drop),
        2 => any::<u8>().prop_map(Act::Delete),
        1 => Just(Act::Reload),
    ];
    prop::collection::vec(act, 1..80)
}

struct Fixture {
    state: State,
    places: Vec<Place>,
    log_start: i64,
    /// Whether objects are taken; `None` without a tier.
    is_enabled: Option<bool>,
    bucket: Bucket,
    next_digest: u64,
}

impl Fixture {
    fn new() -> Self {
        let (state, bucket) = (opened(), Bucket::default());
        let places = Vec::new();
        Self { state, places, log_start: 0, is_enabled: None, bucket, next_digest: 1 }
    }

    fn partition(&self) -> &Partition {
        &self.state.partitions[&partition()]
    }

    fn digest(&mut self) -> u64 {
        self.next_digest += 1;
        self.next_digest
    }

    fn end(&self) -> i64 {
        self.places.len() as i64
    }

    fn place(&self, offset: i64) -> Place {
        self.places[usize::try_from(offset).expect("not negative")]
    }

    /// The first offset that is in no object.
    fn tier_end(&self) -> i64 {
        let mut offsets = self.log_start..self.end();
        offsets.find(|at| self.place(*at).object.is_none()).unwrap_or(self.end())
    }

    /// A part of the offsets from the log start to the end, and one more.
    fn part(&self, part: u8) -> i64 {
        self.log_start + (self.end() + 1 - self.log_start) * i64::from(part) / 255
    }

    /// Whether the state accepts a change.
    fn is_accepted(&mut self, change: TierChange) -> bool {
        let outcome = change_tier(&mut self.state, change).0;
        let is_refused = matches!(outcome, Outcome::TierRefused(_));
        assert!(is_refused || outcome == Outcome::Done, "{outcome:?}");
        !is_refused
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Append(count) => {
                append(&mut self.state, batch(count)).expect("taken");
                let place = Place { is_local: true, object: None };
                self.places.resize(self.places.len() + count, place);
            }
            Act::Enable => {
                assert!(self.is_accepted(TierChange::Enable));
                self.is_enabled = Some(true);
            }
            Act::Disable => {
                let accepted = self.is_accepted(TierChange::Disable);
                assert_eq!(accepted, self.is_enabled.is_some());
                self.is_enabled = self.is_enabled.and(Some(false));
            }
            Act::Add(beside, count, of_term) => self.add(beside, count, of_term),
            Act::Fold(count, again) => self.fold(count, again),
            Act::FoldPages(count) => self.fold_pages(count),
            Act::LocalStart(part) => self.set_local_start(self.part(part)),
            Act::LogStart(part) => {
                let offset = self.part(part).min(self.end());
                advance(&mut self.state, offset);
                self.log_start = self.log_start.max(offset);
            }
            Act::Drop(part) => {
                let through = self.part(part) - 3;
                let accepted = self.is_accepted(TierChange::DropObjects { through });
                assert!(!accepted || self.is_enabled.is_some());
                assert!(accepted || self.is_enabled.is_none() || through > self.log_start);
            }
            Act::Delete(part) => self.delete(part),
            Act::Reload => {
                let bytes = postcard::to_allocvec(&self.state).expect("encodes");
                self.state = postcard::from_bytes(&bytes).expect("decodes");
            }
        }
        if self.partition().tier.is_none() {
            assert_ne!(self.is_enabled, Some(true), "only a disabled tier is removed");
            self.is_enabled = None;
        }
        self.check();
    }

    fn add(&mut self, beside: i64, count: i64, of_term: bool) {
        let base = self.tier_end() + beside;
        let end = base + count;
        let term = TERM + u64::from(!of_term);
        let added = ObjectRef { digest: self.digest(), term, ..object(base, end) };
        let is_full = self.partition().tier.as_ref().is_some_and(|tier| tier.objects.len() >= 64);
        let fits = beside == 0 && count > 0 && end <= self.end() && of_term && !is_full;
        let accepted = self.is_accepted(TierChange::AddObject(added));
        assert_eq!(accepted, fits && self.is_enabled == Some(true), "{added:?}");
        if accepted {
            self.bucket.objects.insert(added.digest, added);
            for place in &mut self.places[base as usize..end as usize] {
                place.object = Some(added.digest);
            }
        }
    }

    fn fold(&mut self, count: usize, again: bool) {
        let digest = self.digest();
        let Some(tier) = self.partition().tier.as_deref() else { return };
        let newest = tier.pages.back().filter(|page| again && page.level == 0);
        let mut listed = newest.map_or_else(Vec::new, |p| self.bucket.pages[&p.digest].clone());
        let count = count.min(tier.objects.len());
        listed.extend(tier.objects.iter().take(count));
        if listed.len() < 2 {
            return;
        }
        let page = PageRef { digest, ..page_of(&listed) };
        let is_contiguous = listed.windows(2).all(|pair| pair[0].end == pair[1].base);
        let has_room = if newest.is_some() {
            tier.replaced.len() < limits::TIER_REPLACED_MAX
        } else {
            tier.pages.len() < limits::TIER_PAGES_MAX
        };
        let accepted = self.is_accepted(TierChange::FoldObjects(page));
        assert_eq!(accepted, is_contiguous && has_room && count > 0, "{page:?} of {listed:?}");
        if accepted {
            self.bucket.pages.insert(digest, listed);
        }
    }

    fn fold_pages(&mut self, count: usize) {
        let digest = self.digest();
        let Some(tier) = self.partition().tier.as_deref() else { return };
        let pages: Vec<PageRef> =
            tier.pages.iter().filter(|page| page.level == 0).take(count).copied().collect();
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return };
        let page = PageRef {
            level: 1,
            end: last.end,
            count: count.min(pages.len()).try_into().expect("few"),
            objects_bytes: pages.iter().map(|page| page.objects_bytes).sum(),
            max_timestamp_ms: pages.iter().map(|p| p.max_timestamp_ms).max().expect("some"),
            digest,
            ..*first
        };
        let is_contiguous = pages.windows(2).all(|pair| pair[0].end == pair[1].base);
        let listed = pages.iter().flat_map(|page| self.bucket.pages[&page.digest].clone());
        let listed = listed.collect();
        assert_eq!(self.is_accepted(TierChange::FoldObjects(page)), is_contiguous);
        if is_contiguous {
            self.bucket.pages.insert(digest, listed);
        }
    }

    fn set_local_start(&mut self, offset: i64) {
        let is_in_bucket = offset <= self.tier_end();
        let accepted = self.is_accepted(TierChange::SetLocalStart(offset));
        assert_eq!(accepted, is_in_bucket && self.is_enabled.is_some(), "{offset}");
        if accepted {
            for place in &mut self.places[..offset as usize] {
                place.is_local = false;
            }
        }
    }

    /// Deletes a part of what was dropped, first from the bucket.
    fn delete(&mut self, part: u8) {
        let Some(tier) = self.partition().tier.as_deref() else { return };
        let (dropped, replaced) = (tier.dropped, tier.replaced.clone());
        let through = if part == 255 { dropped + 1 } else { dropped * i64::from(part) / 254 };
        let pages: Vec<u64> =
            replaced.iter().map(|page| page.digest).take(usize::from(part) % 3).collect();
        let change = TierChange::ObjectsDeleted { through, pages: pages.clone() };
        let accepted = self.is_accepted(change);
        assert_eq!(accepted, through <= dropped);
        if accepted {
            self.bucket.objects.retain(|_, object| object.end > through);
            pages.iter().for_each(|page| drop(self.bucket.pages.remove(page)));
        }
    }

    /// The object in which the state finds an offset, by way of the pages in the bucket.
    fn found(&self, offset: i64) -> Option<u64> {
        let tier = self.partition().tier.as_deref()?;
        if let Some(object) = tier.object_at(offset) {
            return Some(object.digest);
        }
        let page = tier.page_at(offset)?;
        let listed = &self.bucket.pages[&page.digest];
        let object = listed.iter().find(|object| (object.base..object.end).contains(&offset));
        object.map(|object| object.digest)
    }

    fn check(&self) {
        let partition = self.partition();
        let (start, local) = (partition.log_start, partition.local_start());
        let (end, next) = (partition.tier_end(), partition.next_offset);
        assert_eq!((start, next), (self.log_start, self.end()));
        assert!(start <= local && local <= end && end <= next, "{start} {local} {end} {next}");
        for offset in start..next {
            let place = self.place(offset);
            // T1: what is not on disks is in an object that the bucket has.
            assert!(offset >= local || place.object.is_some(), "{offset} is nowhere");
            assert_eq!(self.found(offset), place.object, "{offset}");
            if let Some(object) = place.object {
                assert!(self.bucket.objects.contains_key(&object), "{offset}: it was deleted");
            }
        }
        if let Some(tier) = &partition.tier {
            assert_eq!(end, self.tier_end());
            self.check_order(tier);
        }
    }

    /// O4: objects follow one another from the log start on, and R1.
    fn check_order(&self, tier: &Tier) {
        assert!(tier.objects.len() <= limits::TIER_OBJECTS_MAX);
        assert!(tier.pages.len() <= limits::TIER_PAGES_MAX);
        assert!(tier.replaced.len() <= limits::TIER_REPLACED_MAX);
        assert!(tier.pages.iter().map(|page| page.level).is_sorted_by(|a, b| a >= b));
        let pages = tier.pages.iter().flat_map(|page| &self.bucket.pages[&page.digest]);
        let objects: Vec<&ObjectRef> = pages.chain(&tier.objects).collect();
        for pair in objects.windows(2) {
            let is_gap = pair[0].end < pair[1].base && pair[1].base <= self.log_start;
            assert!(pair[0].end == pair[1].base || is_gap, "{pair:?}");
        }
    }
}

proptest! {
    #[test]
    fn t1_o4_every_offset_is_on_disks_or_in_an_object_that_the_bucket_has(acts in acts()) {
        let mut fixture = Fixture::new();
        for act in &acts {
            fixture.act(act);
        }
    }
}
