//! The format of a manifest page: which objects a range of a partition has. Pages keep the state of
//! a shard small: it names the newest objects one by one, and the older ones by page.
//!
//! ```text
//! "RWOBJPAG", version u32, level u8 (0: objects, 1: pages), identity as in an object,
//! number of entries u32,
//! of an object: end offset i64, history u64, term u64, size u64, digest u64,
//!               largest timestamp i64, epoch of the first batch i32
//! of a page:    end offset i64, history u64, term u64, size u32, digest u64,
//!               largest timestamp i64, number of entries u32, size of its objects u64
//! CRC-32C of all this u32
//! ```
//!
//! Numbers are little-endian. An entry begins where the one before it ends, and the first one where
//! the page begins; so a page has no gaps and no overlaps. A page never changes: retention moves
//! the log start past its entries, and the page is deleted when the log start is behind all of
//! them.
//!
//! # Invariants
//!
//! - Every byte is covered by the checksum, and the SHA-256 of the page is in its name.
//! - The last entry ends where the page ends.

use crate::content::{Content, sha256, short};
use crate::format::{Fields, FormatError, Frame};
use crate::identity::{IDENTITY_BYTES_MAX, Identity, Origin};
use crate::limits;
use crate::names::{Kind, Level, Name, ObjectRef, PageRef, PartitionKey};

const MAGIC: &[u8; 8] = b"RWOBJPAG";
const VERSION: u32 = 1;
const WHAT: &str = "manifest page";
const FRAME: Frame = Frame { what: WHAT, magic: MAGIC, version: VERSION };
const OBJECT_BYTES: usize = 8 + 8 + 8 + 8 + 8 + 8 + 4;
const PAGE_BYTES: usize = 8 + 8 + 8 + 4 + 8 + 8 + 4 + 8;

/// A page, decoded. Its entries are contiguous and at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    identity: Identity,
    entries: Entries,
}

/// The entries of a page, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entries {
    /// References of objects.
    Objects(Vec<ObjectRef>),
    /// References of pages of objects.
    Pages(Vec<PageRef>),
}

/// A page as it is put into a bucket.
#[derive(Debug, Clone)]
pub struct EncodedPage {
    /// The name, below the bucket's prefix.
    pub name: Name,
    /// What the state of the shard keeps.
    pub reference: PageRef,
    /// The bytes of the page.
    pub content: Content,
}

impl Entries {
    /// What the entries are.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Objects(_) => Level::Objects,
            Self::Pages(_) => Level::Pages,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Objects(objects) => objects.len(),
            Self::Pages(pages) => pages.len(),
        }
    }

    /// The range of each entry.
    fn ranges(&self) -> Vec<(i64, i64)> {
        match self {
            Self::Objects(objects) => objects.iter().map(|o| (o.base, o.end)).collect(),
            Self::Pages(pages) => pages.iter().map(|p| (p.base, p.end)).collect(),
        }
    }

    /// A sum that a bad page made too large stays at the largest value.
    fn objects_bytes(&self) -> u64 {
        let add = |sum: u64, bytes: u64| sum.saturating_add(bytes);
        match self {
            Self::Objects(objects) => objects.iter().map(|o| o.size_bytes).fold(0, add),
            Self::Pages(pages) => pages.iter().map(|p| p.objects_bytes).fold(0, add),
        }
    }

    fn max_timestamp_ms(&self) -> i64 {
        let largest = match self {
            Self::Objects(objects) => objects.iter().map(|o| o.max_timestamp_ms).max(),
            Self::Pages(pages) => pages.iter().map(|p| p.max_timestamp_ms).max(),
        };
        largest.unwrap_or(-1)
    }
}

impl Page {
    /// A page of contiguous entries.
    ///
    /// # Errors
    /// When there are none, more than [`limits::PAGE_ENTRIES_MAX`], or they leave a gap or overlap.
    pub fn new(
        partition: PartitionKey,
        origin: Origin,
        entries: Entries,
    ) -> Result<Self, FormatError> {
        let ranges = entries.ranges();
        let (found, limit) = (ranges.len() as u64, u64::from(limits::PAGE_ENTRIES_MAX));
        if found > limit {
            return Err(FormatError::Bound { what: "number of entries", found, limit });
        }
        let Some((&(base, _), &(_, end))) = ranges.first().zip(ranges.last()) else {
            return Err(FormatError::invalid(WHAT, "it has no entries"));
        };
        if ranges.iter().any(|(base, end)| base >= end) || base < 0 {
            return Err(FormatError::invalid(WHAT, "an entry has no offsets"));
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 != pair[1].0) {
            let why =
                format!("an entry ends at {}, the next one begins at {}", pair[0].1, pair[1].0);
            return Err(FormatError::invalid(WHAT, why));
        }
        if let Entries::Pages(pages) = &entries
            && pages.iter().any(|page| page.level != Level::Objects)
        {
            return Err(FormatError::invalid(WHAT, "there are two levels of pages, not more"));
        }
        Ok(Self { identity: Identity { partition, base, end, origin }, entries })
    }

    /// Partition, range and origin.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The entries, ascending and contiguous, at least one.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Bytes that this page takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let entries = match &self.entries {
            Entries::Objects(objects) => objects.capacity() * size_of::<ObjectRef>(),
            Entries::Pages(pages) => pages.capacity() * size_of::<PageRef>(),
        };
        size_of::<Self>() + self.identity.partition.cluster.as_str().len() + entries
    }

    /// Reads a page without comparing it with a name.
    #[cfg(feature = "testing")]
    pub(crate) fn of_any_name(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).ok().map(|(page, _)| page)
    }

    /// The bytes, name and reference of the page.
    #[must_use]
    pub fn encode(&self) -> EncodedPage {
        let level = self.entries.level();
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        put_level(&mut out, level);
        self.identity.encode(&mut out);
        out.extend((self.entries.len() as u32).to_le_bytes());
        match &self.entries {
            Entries::Objects(objects) => {
                objects.iter().for_each(|entry| put_object(&mut out, entry))
            }
            Entries::Pages(pages) => pages.iter().for_each(|entry| put_page(&mut out, entry)),
        }
        out.extend(ropewalk_crc::of(&out).to_le_bytes());
        let content = Content::new(vec![out.into()]);
        let Identity { partition, base, end, origin } = &self.identity;
        let reference = PageRef {
            level,
            base: *base,
            end: *end,
            history: origin.history,
            term: origin.term,
            size_bytes: content.size_bytes() as u32,
            digest: content.short(),
            max_timestamp_ms: self.entries.max_timestamp_ms(),
            count: self.entries.len() as u32,
            objects_bytes: self.entries.objects_bytes(),
        };
        EncodedPage { name: reference.name(partition), reference, content }
    }

    /// Reads the page that is called `name`.
    ///
    /// # Errors
    /// When the bytes are damaged, of another page, or of a newer version.
    pub fn decode(bytes: &[u8], name: &Name) -> Result<Self, FormatError> {
        let (page, kind) = Self::read(bytes)?;
        page.identity.expect(WHAT, kind, name)?;
        if short(&sha256([bytes])) != name.digest {
            return Err(FormatError::invalid(WHAT, "its SHA-256 is not the one of its name"));
        }
        Ok(page)
    }

    fn read(bytes: &[u8]) -> Result<(Self, Kind), FormatError> {
        let mut fields = FRAME.open(bytes)?;
        let level = take_level(&mut fields)?;
        let identity = Identity::decode(WHAT, &mut fields)?;
        let mut base = identity.base;
        let entries = match level {
            Level::Objects => {
                let count = fields.count(ENTRIES, OBJECT_BYTES, limits::PAGE_ENTRIES_MAX)?;
                let entries = (0..count).map(|_| take_object(&mut fields, &mut base));
                Entries::Objects(entries.collect::<Result<_, _>>()?)
            }
            Level::Pages => {
                let count = fields.count(ENTRIES, PAGE_BYTES, limits::PAGE_ENTRIES_MAX)?;
                let entries = (0..count).map(|_| take_page(&mut fields, &mut base));
                Entries::Pages(entries.collect::<Result<_, _>>()?)
            }
        };
        fields.finish()?;
        let page = Self::new(identity.partition.clone(), identity.origin, entries)?;
        if page.identity != identity {
            return Err(FormatError::invalid(WHAT, "its entries do not end where it ends"));
        }
        Ok((page, Kind::Page(level)))
    }

    /// The object that contains `offset`, in a page of objects.
    #[must_use]
    pub fn object_at(&self, offset: i64) -> Option<&ObjectRef> {
        let Entries::Objects(objects) = &self.entries else { return None };
        let at = objects.partition_point(|object| object.end <= offset);
        objects.get(at).filter(|object| object.base <= offset)
    }

    /// The page that contains `offset`, in a page of pages.
    #[must_use]
    pub fn page_at(&self, offset: i64) -> Option<&PageRef> {
        let Entries::Pages(pages) = &self.entries else { return None };
        let at = pages.partition_point(|page| page.end <= offset);
        pages.get(at).filter(|page| page.base <= offset)
    }
}

const ENTRIES: &str = "number of entries";

const _: () = assert!(
    Frame::FRONT_BYTES
        + 1
        + IDENTITY_BYTES_MAX
        + 4
        + limits::PAGE_ENTRIES_MAX as usize * OBJECT_BYTES
        + 4
        <= limits::PAGE_BYTES_MAX as usize,
    "the largest page fits"
);

/// Adds magic, version and checksum to the other bytes of a page.
#[cfg(feature = "testing")]
pub(crate) fn seal(bytes: &[u8]) -> Vec<u8> {
    FRAME.seal(bytes)
}

pub(crate) fn put_level(out: &mut Vec<u8>, level: Level) {
    out.push(match level {
        Level::Objects => 0,
        Level::Pages => 1,
    });
}

pub(crate) fn take_level(fields: &mut Fields<'_>) -> Result<Level, FormatError> {
    match fields.u8()? {
        0 => Ok(Level::Objects),
        1 => Ok(Level::Pages),
        level => Err(FormatError::invalid(WHAT, format!("its level is {level}"))),
    }
}

pub(crate) fn put_object(out: &mut Vec<u8>, object: &ObjectRef) {
    out.extend(object.end.to_le_bytes());
    out.extend(object.history.to_le_bytes());
    out.extend(object.term.to_le_bytes());
    out.extend(object.size_bytes.to_le_bytes());
    out.extend(object.digest.to_le_bytes());
    out.extend(object.max_timestamp_ms.to_le_bytes());
    out.extend(object.first_epoch.to_le_bytes());
}

/// Reads the entry that begins at `base`, and moves `base` to its end.
pub(crate) fn take_object(
    fields: &mut Fields<'_>,
    base: &mut i64,
) -> Result<ObjectRef, FormatError> {
    let object = ObjectRef {
        base: *base,
        end: fields.i64()?,
        history: fields.u64()?,
        term: fields.u64()?,
        size_bytes: fields.u64()?,
        digest: fields.u64()?,
        max_timestamp_ms: fields.i64()?,
        first_epoch: fields.i32()?,
    };
    *base = object.end;
    Ok(object)
}

pub(crate) fn put_page(out: &mut Vec<u8>, page: &PageRef) {
    out.extend(page.end.to_le_bytes());
    out.extend(page.history.to_le_bytes());
    out.extend(page.term.to_le_bytes());
    out.extend(page.size_bytes.to_le_bytes());
    out.extend(page.digest.to_le_bytes());
    out.extend(page.max_timestamp_ms.to_le_bytes());
    out.extend(page.count.to_le_bytes());
    out.extend(page.objects_bytes.to_le_bytes());
}

/// Reads the entry that begins at `base`, and moves `base` to its end.
pub(crate) fn take_page(fields: &mut Fields<'_>, base: &mut i64) -> Result<PageRef, FormatError> {
    let page = PageRef {
        level: Level::Objects,
        base: *base,
        end: fields.i64()?,
        history: fields.u64()?,
        term: fields.u64()?,
        size_bytes: fields.u32()?,
        digest: fields.u64()?,
        max_timestamp_ms: fields.i64()?,
        count: fields.u32()?,
        objects_bytes: fields.u64()?,
    };
    *base = page.end;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::names::ClusterId;

    const ORIGIN: Origin = Origin { history: 7, term: 3 };

    fn partition() -> PartitionKey {
        let cluster = ClusterId::new("page-tests").unwrap();
        PartitionKey { cluster, topic: Uuid::from_u128(5), index: 2 }
    }

    fn objects(base: i64, lengths: &[u32]) -> Vec<ObjectRef> {
        let mut next = base;
        let object = |length: &u32| {
            let base = next;
            next += i64::from(*length) + 1;
            ObjectRef {
                base,
                end: next,
                history: u64::from(*length),
                term: 9,
                size_bytes: 64 << 20,
                digest: u64::from(*length) << 32,
                max_timestamp_ms: i64::from(*length) - 5,
                first_epoch: 4,
            }
        };
        lengths.iter().map(object).collect()
    }

    fn page_of(entries: Vec<ObjectRef>) -> Result<Page, FormatError> {
        Page::new(partition(), ORIGIN, Entries::Objects(entries))
    }

    fn bytes_of(page: &EncodedPage) -> Bytes {
        page.content.to_bytes()
    }

    fn page_of_pages(lengths: &[u32]) -> Page {
        let pages = objects(3, lengths)
            .into_iter()
            .map(|object| page_of(vec![object]).expect("one object is a page").encode().reference);
        Page::new(partition(), ORIGIN, Entries::Pages(pages.collect())).expect("contiguous pages")
    }

    proptest! {
        #[test]
        fn a_page_is_read_as_it_was_written(
            base in 0..1_i64 << 60,
            lengths in vec(any::<u32>(), 1..50),
        ) {
            for page in [page_of(objects(base, &lengths)).unwrap(), page_of_pages(&lengths)] {
                let encoded = page.encode();
                prop_assert_eq!(encoded.reference.size_bytes as usize, bytes_of(&encoded).len());
                prop_assert_eq!(encoded.reference.count as usize, lengths.len());
                prop_assert_eq!(encoded.reference.objects_bytes, (64 << 20) * lengths.len() as u64);
                prop_assert_eq!(&encoded.reference.name(&partition()), &encoded.name);
                prop_assert_eq!(Page::decode(&bytes_of(&encoded), &encoded.name), Ok(page));
            }
        }

        #[test]
        fn every_offset_is_found_in_its_entry(
            lengths in vec(0..20_u32, 1..50),
            offset in 0..1_200_i64,
        ) {
            let objects = objects(3, &lengths);
            let expected = objects.iter().find(|o| (o.base..o.end).contains(&offset)).copied();
            let page = page_of(objects).unwrap();
            prop_assert_eq!(page.object_at(offset).copied(), expected);
            prop_assert_eq!(page.page_at(offset), None);
            let page = page_of_pages(&lengths);
            let found = page.page_at(offset).map(|page| (page.base, page.end));
            prop_assert_eq!(found, expected.map(|object| (object.base, object.end)));
            prop_assert_eq!(page.object_at(offset), None);
        }

        #[test]
        fn a_flipped_bit_or_a_missing_end_is_seen(
            lengths in vec(0..20_u32, 1..5),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let encoded = page_of(objects(3, &lengths)).unwrap().encode();
            let at = at.index(bytes_of(&encoded).len());
            prop_assert!(Page::decode(&bytes_of(&encoded)[..at], &encoded.name).is_err());
            let mut bytes = bytes_of(&encoded).to_vec();
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Page::decode(&bytes, &encoded.name).is_err());
        }

        /// As if the checksum had been computed after the damage.
        #[test]
        fn damage_behind_a_valid_checksum_is_an_error_or_a_valid_page(
            lengths in vec(0..20_u32, 1..5),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in 0..40_usize,
        ) {
            let encoded = page_of(objects(3, &lengths)).unwrap().encode();
            let mut bytes = bytes_of(&encoded).to_vec();
            bytes.truncate((bytes.len() - 4).saturating_sub(cut));
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.extend(ropewalk_crc::of(&bytes).to_le_bytes());
            if let Ok((page, _)) = Page::read(&bytes) {
                prop_assert_eq!(&bytes_of(&page.encode())[..], &bytes[..]);
            }
        }

        #[test]
        fn any_bytes_give_a_page_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let mut behind_magic = MAGIC.to_vec();
            behind_magic.extend(&bytes);
            prop_assert!(Page::read(&bytes).is_err());
            prop_assert!(Page::read(&behind_magic).is_err());
        }
    }

    #[test]
    fn a_page_has_no_gap_no_overlap_and_no_third_level() {
        let contiguous = objects(3, &[1, 2, 3]);
        for change in [-1, 1] {
            let mut entries = contiguous.clone();
            entries[1].base += change;
            assert!(matches!(page_of(entries), Err(FormatError::Invalid { .. })));
        }
        assert!(matches!(page_of(Vec::new()), Err(FormatError::Invalid { .. })));
        let third = Entries::Pages(vec![page_of_pages(&[1]).encode().reference]);
        assert!(Page::new(partition(), ORIGIN, third).is_err());
    }

    #[test]
    fn r1_a_page_has_at_most_4096_entries() {
        let most = objects(0, &vec![0; limits::PAGE_ENTRIES_MAX as usize]);
        let encoded = page_of(most.clone()).unwrap().encode();
        assert!(bytes_of(&encoded).len() as u64 <= limits::PAGE_BYTES_MAX);
        assert!(Page::decode(&bytes_of(&encoded), &encoded.name).is_ok());
        let more = objects(0, &vec![0; limits::PAGE_ENTRIES_MAX as usize + 1]);
        let refused = page_of(more).unwrap_err();
        assert_eq!(refused.to_string(), "the number of entries is 4097, over the limit of 4096");
    }

    #[test]
    fn a_page_is_accepted_only_under_its_own_name() {
        let encoded = page_of(objects(3, &[1, 2])).unwrap().encode();
        let object = Name { kind: Kind::Object, ..encoded.name.clone() };
        let other = Name { term: 4, ..encoded.name.clone() };
        let digest = Name { digest: 1, ..encoded.name.clone() };
        for wrong in [object, other, digest] {
            assert!(Page::decode(&bytes_of(&encoded), &wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_is_no_damage() {
        let encoded = page_of(objects(3, &[1])).unwrap().encode();
        let mut bytes = bytes_of(&encoded).to_vec();
        bytes[8] = 2;
        let refused = Page::decode(&bytes, &encoded.name).unwrap_err();
        assert_eq!(refused, FormatError::Version { what: WHAT, found: 2, newest: 1 });
    }
}
