//! Names of objects and manifest pages in a bucket, below its prefix. Those of checkpoints are in
//! `checkpoint`.
//!
//! ```text
//! CLUSTER/TOPIC/PARTITION/BASE-END-HISTORY-TERM-DIGEST.rwo    an object
//! CLUSTER/TOPIC/PARTITION/BASE-END-HISTORY-TERM-DIGEST.rwp    a page of up to 4096 objects
//! CLUSTER/TOPIC/PARTITION/BASE-END-HISTORY-TERM-DIGEST.rwpp   a page of up to 4096 such pages
//! ```
//!
//! CLUSTER is the cluster id, TOPIC the topic id as a UUID, PARTITION the index with five digits.
//! BASE and END are the offset range with 20 digits, so that a list is in the order of offsets;
//! END is behind the last offset. HISTORY is the history of the shard that wrote the object, 16
//! hexadecimal digits, TERM its term with 20 digits. DIGEST are the first eight bytes of the
//! SHA-256 of the contents, 16 hexadecimal digits.
//!
//! # Invariants
//!
//! - A name is written in one way only: [`Name::parse`] refuses every other spelling.
//! - A name depends on the contents. Two leaders that upload the same range write different
//!   objects, unless these are equal; so no upload replaces another one.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::limits;

mod checkpoint;

pub use checkpoint::{CheckpointName, CheckpointOf};

/// The id of a cluster: 1 to 63 letters, digits, `-` and `_`, as Kafka's are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// Checks a cluster id.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters: it is a folder of the bucket.
    pub fn new(id: &str) -> Result<Self, NameError> {
        let is_valid = !id.is_empty()
            && id.len() <= limits::CLUSTER_ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if is_valid { Ok(Self(id.into())) } else { Err(NameError::ClusterId(id.to_owned())) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A cluster id that cannot be the name of a folder.
    #[error(
        "cluster id {0:?} cannot be used in a bucket: it must have 1 to 63 letters, digits, \
         hyphens and underscores"
    )]
    ClusterId(String),
    /// Not the name of an object, page or checkpoint.
    #[error("{0:?} is not the name of an object, manifest page or checkpoint")]
    Unknown(String),
}

/// A partition, as part of the names of its objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The cluster that wrote the objects. After a restore this is not the cluster that reads them.
    pub cluster: ClusterId,
    /// Id of the topic.
    pub topic: Uuid,
    /// Number of the partition in the topic, from 0.
    pub index: i32,
}

impl PartitionKey {
    /// What the names of all objects and pages of the partition begin with, without a slash at
    /// the end. To be listed.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}/{:05}", self.cluster, self.topic.as_hyphenated(), self.index)
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:05}", self.topic.as_hyphenated(), self.index)
    }
}

/// What a manifest keeps of an object: together with the partition it gives the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// First offset of the range. The first batch may begin before it.
    pub base: i64,
    /// Offset behind the range.
    pub end: i64,
    /// History of the shard that wrote the object.
    pub history: u64,
    /// Term of the leader that wrote the object.
    pub term: u64,
    /// Size of the whole object.
    pub size_bytes: u64,
    /// The first eight bytes of the SHA-256 of the object.
    pub digest: u64,
    /// Largest timestamp of the range.
    pub max_timestamp_ms: i64,
    /// Leader epoch of the first batch.
    pub first_epoch: i32,
}

impl ObjectRef {
    /// The name of the object.
    #[must_use]
    pub fn name(&self, partition: &PartitionKey) -> Name {
        Name {
            partition: partition.clone(),
            kind: Kind::Object,
            base: self.base,
            end: self.end,
            history: self.history,
            term: self.term,
            digest: self.digest,
        }
    }
}

/// What a manifest keeps of a page: together with the partition it gives the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// What the entries of the page are.
    pub level: Level,
    /// First offset of the range that the page covers.
    pub base: i64,
    /// Offset behind that range.
    pub end: i64,
    /// History of the shard that wrote the page.
    pub history: u64,
    /// Term of the leader that wrote the page.
    pub term: u64,
    /// Size of the page, at most [`limits::PAGE_BYTES_MAX`].
    pub size_bytes: u32,
    /// The first eight bytes of the SHA-256 of the page.
    pub digest: u64,
    /// Largest timestamp of the range.
    pub max_timestamp_ms: i64,
    /// Number of entries of the page.
    pub count: u32,
    /// Size of all objects below the page together, for retention by size.
    pub objects_bytes: u64,
}

/// What the entries of a manifest page are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Objects, that is records.
    Objects,
    /// Pages of objects. With two levels a partition has up to 64 × 4096 × 4096 objects.
    Pages,
}

impl PageRef {
    /// The name of the page.
    #[must_use]
    pub fn name(&self, partition: &PartitionKey) -> Name {
        Name {
            partition: partition.clone(),
            kind: Kind::Page(self.level),
            base: self.base,
            end: self.end,
            history: self.history,
            term: self.term,
            digest: self.digest,
        }
    }
}

/// What a name denotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The records of a range.
    Object,
    /// A part of the manifest.
    Page(Level),
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Object => "rwo",
            Self::Page(Level::Objects) => "rwp",
            Self::Page(Level::Pages) => "rwpp",
        }
    }

    fn of_suffix(suffix: &str) -> Option<Self> {
        let all = [Self::Object, Self::Page(Level::Objects), Self::Page(Level::Pages)];
        all.into_iter().find(|kind| kind.suffix() == suffix)
    }
}

/// The name of an object or a manifest page. [`fmt::Display`] gives it below the bucket's prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The partition that it belongs to.
    pub partition: PartitionKey,
    /// What it denotes.
    pub kind: Kind,
    /// First offset of the range.
    pub base: i64,
    /// Offset behind the range.
    pub end: i64,
    /// History of the shard that wrote it.
    pub history: u64,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// The first eight bytes of the SHA-256 of the contents.
    pub digest: u64,
}

impl Name {
    /// Reads a name below the bucket's prefix.
    ///
    /// # Errors
    /// When it is not written exactly as this broker writes names.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = Self::read(text).filter(|name| name.to_string() == text);
        name.ok_or_else(|| NameError::Unknown(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        let [cluster, topic, index, file] = fields(text, '/')?;
        let (stem, suffix) = file.rsplit_once('.')?;
        let [base, end, history, term, digest] = fields(stem, '-')?;
        let name = Self {
            partition: PartitionKey {
                cluster: ClusterId::new(cluster).ok()?,
                topic: Uuid::try_parse(topic).ok()?,
                index: index.parse().ok()?,
            },
            kind: Kind::of_suffix(suffix)?,
            base: base.parse().ok()?,
            end: end.parse().ok()?,
            history: u64::from_str_radix(history, 16).ok()?,
            term: term.parse().ok()?,
            digest: u64::from_str_radix(digest, 16).ok()?,
        };
        let is_valid = name.partition.index >= 0 && 0 <= name.base && name.base < name.end;
        is_valid.then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, kind, base, end, history, term, digest } = self;
        let (folder, suffix) = (partition.folder(), kind.suffix());
        write!(f, "{folder}/{base:020}-{end:020}-{history:016x}-{term:020}-{digest:016x}.{suffix}")
    }
}

/// The parts of a text, if there are exactly as many as asked for.
fn fields<const N: usize>(text: &str, separator: char) -> Option<[&str; N]> {
    let mut parts = text.split(separator);
    let mut fields = [""; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: &[Kind] = &[Kind::Object, Kind::Page(Level::Objects), Kind::Page(Level::Pages)];

    fn name() -> impl Strategy<Value = Name> {
        (
            ("[A-Za-z0-9_-]{1,63}", any::<u128>(), 0..=i32::MAX),
            proptest::sample::select(KINDS),
            (0..i64::MAX, 1..=i64::MAX),
            any::<[u64; 3]>(),
        )
            .prop_map(
                |((cluster, topic, index), kind, (base, count), [history, term, digest])| {
                    let cluster = ClusterId::new(&cluster).unwrap();
                    let partition = PartitionKey { cluster, topic: Uuid::from_u128(topic), index };
                    let end = base.saturating_add(count);
                    Name { partition, kind, base, end, history, term, digest }
                },
            )
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(name in name()) {
            prop_assert_eq!(Name::parse(&name.to_string()), Ok(name));
        }

        #[test]
        fn a_changed_name_is_another_one_or_none(
            name in name(),
            at in any::<prop::sample::Index>(),
            byte in "[ -~]",
        ) {
            let mut text = name.to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &byte);
            if let Ok(read) = Name::parse(&text) {
                prop_assert_eq!(read.to_string(), text.clone());
                prop_assert_eq!(read == name, text == name.to_string());
            }
        }

        #[test]
        fn any_text_gives_a_name_or_an_error(text in "[0-9a-f/.+-]{0,80}") {
            prop_assert!(Name::parse(&text).is_err());
        }

        #[test]
        fn names_sort_by_offset(mut one in name(), other in name()) {
            one.partition = other.partition.clone();
            let by_text = one.to_string().cmp(&other.to_string());
            let by_offset = one.base.cmp(&other.base).then(one.end.cmp(&other.end));
            prop_assert_eq!(by_text, by_offset.then(by_text));
        }
    }

    #[test]
    fn the_spelling_is_the_documented_one() {
        let partition = PartitionKey {
            cluster: ClusterId::new("cluster_1").unwrap(),
            topic: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            index: 7,
        };
        let object = ObjectRef {
            base: 1_000,
            end: 2_000,
            history: 0xab,
            term: 12,
            size_bytes: 64 << 20,
            digest: 0x1234_5678_9abc_def0,
            max_timestamp_ms: 5,
            first_epoch: 3,
        };
        let text = "cluster_1/01234567-89ab-cdef-0123-456789abcdef/00007/\
                    00000000000000001000-00000000000000002000-00000000000000ab-\
                    00000000000000000012-123456789abcdef0.rwo";
        assert_eq!(object.name(&partition).to_string(), text);
        for wrong in [
            text.replace("/00007/", "/7/"),
            text.replace("abcdef/", "ABCDEF/"),
            text.replace("1000-", "3000-"),
            text.replace(".rwo", ".rwx"),
            text.replace(".rwo", ".rwo.rwo"),
            format!("{text}/"),
            format!("/{text}"),
        ] {
            assert_eq!(Name::parse(&wrong), Err(NameError::Unknown(wrong.clone())));
        }
    }

    #[test]
    fn a_cluster_id_is_one_folder() {
        for wrong in ["", "a/b", "..", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(ClusterId::new(wrong), Err(NameError::ClusterId(wrong.to_owned())));
        }
        let longest = "x".repeat(63);
        assert_eq!(ClusterId::new(&longest).unwrap().to_string(), longest);
    }
}
