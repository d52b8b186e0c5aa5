//! Every kind of problem is found, and a clean bucket has none: by names and by contents.

use proptest::collection::vec;
use proptest::prelude::*;
use ropewalk_batch::{Builder, StampedBatch};

use super::*;
use crate::chain::Chains;
use crate::content::Content;
use crate::folders::Found;
use crate::identity::Origin;
use crate::names::{ObjectRef, PageRef};
use crate::object::{EncodedObject, Encoder, Push};
use crate::page::{EncodedPage, Entries, Page};

const ORIGIN: Origin = Origin { history: 7, term: 3 };
const HOUR_MS: i64 = 3_600_000;
const NOW_MS: i64 = 1_700_000_000_000;
const OPTIONS: CheckOptions = CheckOptions { quick: false, grace_ms: HOUR_MS, now_ms: NOW_MS };

fn key() -> PartitionKey {
    let cluster = ClusterId::new("check-tests").unwrap();
    PartitionKey { cluster, topic: Uuid::from_u128(5), index: 2 }
}

fn reference(base: i64, end: i64, term: u64) -> ObjectRef {
    ObjectRef {
        base,
        end,
        history: 7,
        term,
        size_bytes: 1000 + (end - base) as u64,
        digest: (base as u64) << 20 | end as u64,
        max_timestamp_ms: end,
        first_epoch: 1,
    }
}

fn found(object: &ObjectRef, modified_ms: i64) -> Found {
    Found { name: object.name(&key()), size_bytes: object.size_bytes, modified_ms }
}

/// A partition as the names describe it.
#[derive(Debug, Clone)]
struct World {
    objects: Vec<Found>,
    page_names: Vec<Found>,
    pages: BTreeMap<Name, Page>,
    manifest: Option<Manifest>,
}

/// Where the manifest of a partition begins and ends, by number of its objects.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Objects before the log start.
    retired: usize,
    /// Objects in a page.
    paged: usize,
    /// Objects that the manifest names, those in the page included.
    named: usize,
    has_manifest: bool,
}

impl World {
    /// A clean partition with one object for each length.
    fn clean(lengths: &[u8], shape: Shape) -> Self {
        let mut next = 0;
        let mut references = Vec::new();
        for length in lengths {
            let end = next + 1 + i64::from(*length);
            references.push(reference(next, end, 3));
            next = end;
        }
        let offset = |at: usize| references.get(at).map_or(next, |object| object.base);
        let (paged, rest) = references[..shape.named].split_at(shape.paged);
        let mut world = Self {
            objects: references.iter().map(|object| found(object, 0)).collect(),
            page_names: Vec::new(),
            pages: BTreeMap::new(),
            manifest: None,
        };
        let page = (!paged.is_empty()).then(|| world.add_page(paged, 0));
        world.manifest = shape.has_manifest.then(|| Manifest {
            log_start: offset(shape.retired),
            end: offset(shape.named),
            pages: page.into_iter().collect(),
            objects: rest.to_vec(),
        });
        world
    }

    fn add_page(&mut self, entries: &[ObjectRef], modified_ms: i64) -> PageRef {
        let page = Page::new(key(), ORIGIN, Entries::Objects(entries.to_vec())).unwrap();
        let EncodedPage { name, reference, .. } = page.encode();
        let size_bytes = u64::from(reference.size_bytes);
        self.page_names.push(Found { name: name.clone(), size_bytes, modified_ms });
        self.pages.insert(name, page);
        reference
    }

    fn verdict(&self) -> Verdict {
        let key = key();
        let contents = Contents {
            key: &key,
            objects: &self.objects,
            page_names: &self.page_names,
            pages: &self.pages,
        };
        judge(contents, self.manifest.as_ref(), false, OPTIONS)
    }

    fn kinds(&self) -> Vec<ProblemKind> {
        self.verdict().problems.iter().map(|problem| problem.kind).collect()
    }

    fn end(&self) -> i64 {
        self.objects.iter().map(|found| found.name.end).max().unwrap_or(0)
    }
}

/// A clean partition of at least four objects.
fn world() -> impl Strategy<Value = (World, Shape)> {
    (vec(0..20_u8, 4..20), any::<[prop::sample::Index; 3]>(), any::<bool>()).prop_map(
        |(lengths, [named, paged, retired], has_manifest)| {
            let named = 1 + named.index(lengths.len());
            let paged = paged.index(named + 1);
            let retired = if has_manifest { retired.index(named) } else { 0 };
            let shape = Shape { retired, paged, named, has_manifest };
            (World::clean(&lengths, shape), shape)
        },
    )
}

proptest! {
    #[test]
    fn t1_a_clean_partition_has_no_problem((world, _) in world()) {
        let verdict = world.verdict();
        prop_assert_eq!(&verdict.problems, &[]);
        prop_assert_eq!(verdict.young, 0);
        prop_assert_eq!(verdict.expected.len(), world.objects.len());
    }

    /// Objects before the log start are deleted at some time, and nothing else is.
    #[test]
    fn t1_a_missing_object_is_found(
        (world, shape) in world(),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(world.objects.len());
        let mut lacking = world.clone();
        lacking.objects.remove(at);
        let kinds = lacking.kinds();
        if shape.has_manifest && at < shape.retired {
            prop_assert_eq!(&kinds, &[]);
        } else if shape.has_manifest && at < shape.named {
            prop_assert_eq!(&kinds, &[ProblemKind::Missing]);
        } else if 0 < at && at + 1 < world.objects.len() {
            // Without a manifest, the page that lists the object may be all that shows the loss.
            let is_listed = !shape.has_manifest && at < shape.paged;
            let is_found = |kind| kinds.contains(&kind);
            prop_assert!(
                is_found(ProblemKind::Gap) || is_listed && is_found(ProblemKind::Missing),
                "{:?}",
                kinds
            );
        }
    }

    #[test]
    fn a_missing_page_is_found((world, shape) in world()) {
        let page = world.pages.keys().next().cloned();
        let is_needed = shape.has_manifest && shape.retired < shape.paged;
        if let Some(page) = page.filter(|_| is_needed) {
            let mut lacking = world.clone();
            lacking.page_names.clear();
            lacking.pages.remove(&page);
            prop_assert_eq!(lacking.kinds(), [ProblemKind::Missing]);
        }
    }

    #[test]
    fn an_object_of_another_size_is_damaged(
        (mut world, shape) in world(),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(world.objects.len());
        world.objects[at].size_bytes += 1;
        let is_named = at < shape.paged || shape.has_manifest && at < shape.named;
        let expected: &[ProblemKind] = if is_named { &[ProblemKind::Damaged] } else { &[] };
        prop_assert_eq!(world.kinds(), expected);
    }

    /// What a deposed leader leaves: a range of its own, of another term.
    #[test]
    fn an_object_that_no_manifest_names_is_an_orphan_when_it_is_old(
        (mut world, _) in world(),
        (base, length) in any::<(prop::sample::Index, prop::sample::Index)>(),
        age_ms in 0..2 * HOUR_MS,
    ) {
        let end = world.end() as usize;
        let base = base.index(end);
        let length = 1 + length.index(end - base);
        let orphan = reference(base as i64, (base + length) as i64, 2);
        let is_chosen = world.manifest.as_ref().map_or(0, |manifest| manifest.end) <= orphan.base;
        world.objects.push(found(&orphan, NOW_MS - age_ms));
        let verdict = world.verdict();
        // Behind the manifest it may as well be the one that is taken: then the other one is not.
        if !is_chosen && age_ms < HOUR_MS {
            prop_assert_eq!(&verdict.problems, &[]);
            prop_assert_eq!(verdict.young, 1);
        } else if !is_chosen {
            prop_assert_eq!(verdict.problems.len(), 1);
            prop_assert_eq!(verdict.problems[0].kind, ProblemKind::Orphan);
            prop_assert_eq!(&verdict.problems[0].name, &orphan.name(&key()).to_string());
        }
    }

    #[test]
    fn an_old_object_that_ends_after_all_others_overlaps((mut world, _) in world()) {
        let end = world.end();
        // Not at the beginning of another one, so that no chain contains it.
        let last = world.objects.last().map(|found| found.name.base).unwrap_or(0);
        if end - last > 1 {
            world.objects.push(found(&reference(end - 1, end + 1, 2), 0));
            prop_assert_eq!(world.kinds(), [ProblemKind::Overlap]);
        }
    }

    /// Objects in any order, with any others: the chain is contiguous, and no longer one exists.
    #[test]
    fn o4_the_chain_is_contiguous_and_ends_last(
        ranges in vec((0..12_i64, 1..6_i64, 0..3_u64), 0..12),
        start in 0..12_i64,
    ) {
        let objects: Vec<Found> = ranges
            .iter()
            .map(|(base, length, term)| found(&reference(*base, base + length, *term), 0))
            .collect();
        let chain = Chains::new(&objects).from(start);
        let mut next = start;
        for object in &chain {
            prop_assert_eq!(object.name.base, next);
            next = object.name.end;
        }
        let mut reached = BTreeSet::from([start]);
        for offset in start..40 {
            if reached.contains(&offset) {
                let behind = objects.iter().filter(|found| found.name.base == offset);
                reached.extend(behind.map(|found| found.name.end));
            }
        }
        prop_assert_eq!(reached.last(), Some(&next));
    }
}

#[test]
fn a_gap_between_manifest_and_list_is_found() {
    let shape = Shape { retired: 0, paged: 0, named: 2, has_manifest: true };
    let mut world = World::clean(&[1, 1, 1, 1], shape);
    world.objects.remove(2);
    let verdict = world.verdict();
    let folder = key().folder();
    let why = "offsets 4 to 6 are in no object".to_owned();
    assert_eq!(verdict.problems, [Problem { kind: ProblemKind::Gap, name: folder, why }]);
}

#[test]
fn a_manifest_with_gap_or_overlap_is_found() {
    let shape = Shape { retired: 0, paged: 1, named: 3, has_manifest: true };
    let clean = World::clean(&[1, 1, 1], shape);
    let mut gap = clean.clone();
    let manifest = gap.manifest.as_mut().unwrap();
    manifest.objects.remove(0);
    assert!(gap.kinds().contains(&ProblemKind::Gap), "{:?}", gap.kinds());
    let mut twice = clean;
    let manifest = twice.manifest.as_mut().unwrap();
    manifest.objects.insert(0, reference(0, 2, 3));
    assert_eq!(twice.kinds(), [ProblemKind::Overlap]);
}

#[test]
fn a_replaced_page_is_an_orphan_after_the_grace_period_of_the_page_that_replaced_it() {
    let shape = Shape { retired: 0, paged: 3, named: 4, has_manifest: true };
    let mut world = World::clean(&[1, 1, 1, 1], shape);
    let first = [reference(0, 2, 3)];
    world.add_page(&first, 0);
    assert_eq!(world.kinds(), [ProblemKind::Orphan]);
    world.page_names[0].modified_ms = NOW_MS - HOUR_MS / 2;
    let verdict = world.verdict();
    assert_eq!((verdict.problems.len(), verdict.young), (0, 1));
}

#[test]
fn what_a_deleted_topic_leaves_is_an_orphan_when_it_is_old() {
    let shape = Shape { retired: 0, paged: 0, named: 1, has_manifest: true };
    let mut world = World::clean(&[1, 1], shape);
    world.objects[0].modified_ms = NOW_MS;
    let (key, pages) = (key(), BTreeMap::new());
    let contents = Contents { key: &key, objects: &world.objects, page_names: &[], pages: &pages };
    let verdict = judge(contents, None, true, OPTIONS);
    assert_eq!((verdict.problems.len(), verdict.young), (1, 1));
    assert_eq!(verdict.problems[0].kind, ProblemKind::Orphan);
}

/// An object with one batch of each length.
fn object(base: i64, count: i64) -> EncodedObject {
    let mut encoder = Encoder::new(key(), ORIGIN, base);
    for offset in base..base + count {
        let bytes = Builder::new().record(NOW_MS + offset, None, Some(b"some value")).build();
        let batch = StampedBatch::new(bytes, offset, 3).unwrap();
        assert_eq!(encoder.push(&batch).unwrap(), Push::Added);
    }
    encoder.finish(base + count).unwrap()
}

struct Uploaded {
    bucket: Bucket,
    objects: Vec<EncodedObject>,
    manifests: Manifests,
}

/// Four objects: two in a page, one in the manifest, one behind it.
async fn uploaded() -> Uploaded {
    let bucket = Bucket::memory();
    let objects: Vec<EncodedObject> = (0..4).map(|number| object(number * 3, 3)).collect();
    for object in &objects {
        bucket.put_if_absent(&object.name.to_string(), &object.content).await.unwrap();
    }
    let entries = objects[..2].iter().map(|object| object.reference).collect();
    let page = Page::new(key(), ORIGIN, Entries::Objects(entries)).unwrap().encode();
    bucket.put_if_absent(&page.name.to_string(), &page.content).await.unwrap();
    let manifest = Manifest {
        log_start: 1,
        end: 9,
        pages: vec![page.reference],
        objects: vec![objects[2].reference],
    };
    let partitions = BTreeMap::from([(key(), manifest)]);
    Uploaded { bucket, objects, manifests: Manifests { partitions, ..Manifests::default() } }
}

impl Uploaded {
    async fn check(&self, options: CheckOptions) -> CheckReport {
        let (cluster, manifests) = (key().cluster, self.manifests.clone());
        check_with(&self.bucket, &cluster, manifests, options, |_| {}).await.unwrap()
    }

    /// The kinds of problems of a whole and of a quick check.
    async fn kinds(&self) -> [Vec<ProblemKind>; 2] {
        let whole = self.check(OPTIONS).await;
        let quick = self.check(CheckOptions { quick: true, ..OPTIONS }).await;
        [whole, quick].map(|report| report.counts.keys().copied().collect())
    }

    /// Puts an object with other contents in the place of the one at `at`.
    async fn replace(&self, at: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let object = &self.objects[at];
        let mut bytes = object.content.to_bytes().to_vec();
        change(&mut bytes);
        let name = object.name.to_string();
        self.bucket.delete(&name).await.unwrap();
        let content = Content::from(Bytes::from(bytes));
        self.bucket.put_if_absent(&name, &content).await.unwrap();
    }
}

#[tokio::test]
async fn a_clean_bucket_is_clean_with_and_without_a_manifest() {
    let mut uploaded = uploaded().await;
    let sum: u64 = uploaded.objects.iter().map(|object| object.reference.size_bytes).sum();
    let clean = CheckReport {
        partitions: 1,
        objects: 4,
        objects_bytes: sum,
        pages: 1,
        verified_bytes: sum,
        ..CheckReport::default()
    };
    assert_eq!(uploaded.check(OPTIONS).await, clean);
    uploaded.manifests = Manifests::default();
    assert_eq!(uploaded.check(OPTIONS).await, clean);
    assert_eq!(uploaded.kinds().await, [vec![], vec![]]);
}

/// The same manifest, read from a checkpoint; and without the topic in the catalog.
#[tokio::test]
async fn manifests_are_those_of_the_newest_checkpoints() {
    use crate::checkpoint::*;

    let uploaded = uploaded().await;
    let cluster = key().cluster;
    let Manifest { log_start, end, pages, objects } = uploaded.manifests.partitions[&key()].clone();
    let tier =
        TierCheckpoint { is_enabled: true, end, dropped: 0, pages, objects, replaced: Vec::new() };
    let partition = PartitionCheckpoint {
        topic: key().topic,
        index: key().index,
        log_start,
        next_offset: 99,
        leader_epoch: 3,
        max_timestamp_ms: -1,
        epochs: Vec::new(),
        tier: Some(tier),
    };
    let put = async |contents: Contents, index: u64| {
        let origin =
            CheckpointOrigin { cluster: key().cluster, epoch: 1, history: 7, term: 3, index };
        let encoded = Checkpoint { origin, written_ms: 5, contents }.encode().unwrap();
        let name = encoded.name.to_string();
        uploaded.bucket.put_if_absent(&name, &encoded.content).await.unwrap();
        name
    };
    let shard = ShardCheckpoint { groups: Vec::new(), partitions: vec![partition] };
    put(Contents::Shard(4, ShardCheckpoint::default()), 1).await;
    put(Contents::Shard(4, shard), 2).await;
    assert_eq!(Manifests::read(&uploaded.bucket, &cluster).await.unwrap(), uploaded.manifests);
    let report = check(&uploaded.bucket, &cluster, OPTIONS, |_| {}).await.unwrap();
    assert_eq!((report.problems_all(), report.checkpoints, report.objects), (0, 2, 4));

    let catalog = put(Contents::Catalog(CatalogCheckpoint::default()), 1).await;
    let late = CheckOptions { now_ms: i64::MAX, ..OPTIONS };
    let report = check(&uploaded.bucket, &cluster, late, |_| {}).await.unwrap();
    assert_eq!(report.counts, BTreeMap::from([(ProblemKind::Orphan, 5)]));
    // A damaged checkpoint is a problem, and an older one is used.
    uploaded.bucket.delete(&catalog).await.unwrap();
    let damaged = Content::from(Bytes::from_static(b"no checkpoint"));
    uploaded.bucket.put_if_absent(&catalog, &damaged).await.unwrap();
    let report = check(&uploaded.bucket, &cluster, OPTIONS, |_| {}).await.unwrap();
    assert_eq!(report.counts, BTreeMap::from([(ProblemKind::Damaged, 1)]));
    assert_eq!(report.problems[0].name, catalog);
}

#[tokio::test]
async fn a_missing_object_of_a_page_or_manifest_is_found() {
    for at in 0..3 {
        let uploaded = uploaded().await;
        let name = uploaded.objects[at].name.to_string();
        uploaded.bucket.delete(&name).await.unwrap();
        let report = uploaded.check(OPTIONS).await;
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        let problem = &report.problems[0];
        assert_eq!((problem.kind, &problem.name), (ProblemKind::Missing, &name));
    }
}

#[tokio::test]
async fn d3_a_flipped_bit_in_records_is_found_by_a_whole_check_only() {
    let uploaded = uploaded().await;
    uploaded.replace(1, |bytes| bytes[200] ^= 1).await;
    assert_eq!(uploaded.kinds().await, [vec![ProblemKind::Damaged], vec![]]);
}

#[tokio::test]
async fn d3_a_damaged_footer_is_found_by_both() {
    let uploaded = uploaded().await;
    uploaded.replace(3, |bytes| *bytes.iter_mut().rev().nth(30).unwrap() ^= 1).await;
    assert_eq!(uploaded.kinds().await, [vec![ProblemKind::Damaged], vec![ProblemKind::Damaged]]);
}

#[tokio::test]
async fn an_object_that_is_cut_off_is_damaged() {
    let uploaded = uploaded().await;
    uploaded.replace(3, |bytes| bytes.truncate(100)).await;
    let report = uploaded.check(OPTIONS).await;
    assert_eq!(report.counts, BTreeMap::from([(ProblemKind::Damaged, 1)]));
}

#[tokio::test]
async fn a_damaged_page_is_found_and_its_objects_are_no_orphans() {
    let uploaded = uploaded().await;
    let page = uploaded.manifests.partitions[&key()].pages[0].name(&key()).to_string();
    uploaded.bucket.delete(&page).await.unwrap();
    let other = Content::from(Bytes::from_static(b"no page"));
    uploaded.bucket.put_if_absent(&page, &other).await.unwrap();
    let report = uploaded.check(CheckOptions { now_ms: i64::MAX, ..OPTIONS }).await;
    assert_eq!(report.counts, BTreeMap::from([(ProblemKind::Damaged, 1)]));
    assert_eq!(report.problems[0].name, page);
}

#[tokio::test]
async fn an_object_that_the_manifest_describes_otherwise_is_damaged() {
    let mut uploaded = uploaded().await;
    let manifest = uploaded.manifests.partitions.get_mut(&key()).unwrap();
    manifest.objects[0].max_timestamp_ms += 1;
    assert_eq!(uploaded.kinds().await, [vec![ProblemKind::Damaged], vec![ProblemKind::Damaged]]);
}

#[tokio::test]
async fn a_name_that_no_broker_writes_is_unknown() {
    let uploaded = uploaded().await;
    let other = Content::from(Bytes::from_static(b"notes"));
    uploaded.bucket.put_if_absent("check-tests/notes.txt", &other).await.unwrap();
    let report = uploaded.check(OPTIONS).await;
    assert_eq!(report.counts, BTreeMap::from([(ProblemKind::Unknown, 1)]));
    assert_eq!(report.problems[0].name, "check-tests/notes.txt");
}

#[test]
fn r1_a_report_has_a_bounded_number_of_problems_and_counts_all() {
    let mut report = CheckReport::default();
    let problem = Problem { kind: ProblemKind::Gap, name: String::new(), why: String::new() };
    report.add_all(vec![problem; limits::PROBLEMS_MAX + 3]);
    assert_eq!(report.problems.len(), limits::PROBLEMS_MAX);
    assert_eq!(report.problems_all(), limits::PROBLEMS_MAX as u64 + 3);
}
