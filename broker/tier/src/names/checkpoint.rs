//! Names of checkpoints in a bucket, below its prefix.
//!
//! ```text
//! CLUSTER/catalog/EPOCH-TERM-INDEX-DIGEST.rwc         a checkpoint of the catalog
//! CLUSTER/shards/SHARD/EPOCH-TERM-INDEX-DIGEST.rws    a checkpoint of a shard
//! ```
//!
//! SHARD is the number of the shard with five digits. EPOCH is the epoch of the claim under which
//! the checkpoint was written, ten digits; TERM is the term of the leader that wrote it, and INDEX
//! the index of the last entry that it includes, 20 digits each. DIGEST is as in other names.
//!
//! So a list is in the order of age: a cluster that was restored from the bucket begins with index
//! 1 again, and has a later claim; a repair of a shard may lose entries, and has a later term.

use std::fmt;

use super::{ClusterId, NameError, fields};

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointOf {
    /// The catalog of the cluster.
    Catalog,
    /// The shard with this number.
    Shard(u32),
}

impl CheckpointOf {
    /// What the names of all checkpoints of it begin with, without a slash at the end. To be
    /// listed.
    #[must_use]
    pub fn folder(self, cluster: &ClusterId) -> String {
        match self {
            Self::Catalog => format!("{cluster}/catalog"),
            Self::Shard(shard) => format!("{cluster}/shards/{shard:05}"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Catalog => "rwc",
            Self::Shard(_) => "rws",
        }
    }
}

impl fmt::Display for CheckpointOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("catalog"),
            Self::Shard(shard) => write!(f, "shard {shard}"),
        }
    }
}

/// The name of a checkpoint. [`fmt::Display`] gives it below the bucket's prefix. Of the same
/// cluster and shard, the greatest one is the newest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointName {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// What it is of.
    pub of: CheckpointOf,
    /// Epoch of the claim that the cluster had.
    pub epoch: u32,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Index of the last entry that it includes.
    pub index: u64,
    /// The first eight bytes of the SHA-256 of the contents.
    pub digest: u64,
}

impl CheckpointName {
    /// Reads a name below the bucket's prefix.
    ///
    /// # Errors
    /// When it is not written exactly as this broker writes names.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = Self::read(text).filter(|name| name.to_string() == text);
        name.ok_or_else(|| NameError::Unknown(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        let (folder, file) = text.rsplit_once('/')?;
        let (cluster, of) = match fields(folder, '/') {
            Some([cluster, "catalog"]) => (cluster, CheckpointOf::Catalog),
            Some(_) => return None,
            None => {
                let [cluster, "shards", shard] = fields(folder, '/')? else { return None };
                (cluster, CheckpointOf::Shard(shard.parse().ok()?))
            }
        };
        let [epoch, term, index, digest] = fields(file.strip_suffix(of.suffix())?, '-')?;
        Some(Self {
            cluster: ClusterId::new(cluster).ok()?,
            of,
            epoch: epoch.parse().ok()?,
            term: term.parse().ok()?,
            index: index.parse().ok()?,
            digest: u64::from_str_radix(digest.strip_suffix('.')?, 16).ok()?,
        })
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, of, epoch, term, index, digest } = self;
        let (folder, suffix) = (of.folder(cluster), of.suffix());
        write!(f, "{folder}/{epoch:010}-{term:020}-{index:020}-{digest:016x}.{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::Name;

    fn of() -> impl Strategy<Value = CheckpointOf> {
        prop_oneof![Just(CheckpointOf::Catalog), any::<u32>().prop_map(CheckpointOf::Shard)]
    }

    fn name() -> impl Strategy<Value = CheckpointName> {
        ("[A-Za-z0-9_-]{1,63}", of(), any::<u32>(), any::<[u64; 3]>()).prop_map(
            |(cluster, of, epoch, [term, index, digest])| {
                let cluster = ClusterId::new(&cluster).unwrap();
                CheckpointName { cluster, of, epoch, term, index, digest }
            },
        )
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(name in name()) {
            let text = name.to_string();
            let folder = name.of.folder(&name.cluster) + "/";
            prop_assert!(text.starts_with(&folder));
            prop_assert!(Name::parse(&text).is_err(), "it is no name of records");
            prop_assert_eq!(CheckpointName::parse(&text), Ok(name));
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
            if let Ok(read) = CheckpointName::parse(&text) {
                prop_assert_eq!(read.to_string(), text.clone());
                prop_assert_eq!(read == name, text == name.to_string());
            }
        }

        #[test]
        fn any_text_gives_a_name_or_an_error(text in "[0-9a-f/.+-]{0,80}") {
            prop_assert!(CheckpointName::parse(&text).is_err());
        }

        #[test]
        fn names_sort_by_age(one in name(), mut other in name()) {
            (other.cluster, other.of) = (one.cluster.clone(), one.of);
            prop_assert_eq!(one.to_string().cmp(&other.to_string()), one.cmp(&other));
        }
    }

    #[test]
    fn the_spelling_is_the_documented_one() {
        let cluster = ClusterId::new("cluster_1").unwrap();
        let of = CheckpointOf::Catalog;
        let name = CheckpointName { cluster, of, epoch: 2, term: 7, index: 1_000, digest: 0xab };
        let digits = "0000000002-00000000000000000007-00000000000000001000-00000000000000ab";
        assert_eq!(name.to_string(), format!("cluster_1/catalog/{digits}.rwc"));
        let shard = CheckpointName { of: CheckpointOf::Shard(12), ..name };
        let text = format!("cluster_1/shards/00012/{digits}.rws");
        assert_eq!(shard.to_string(), text);
        for wrong in [
            text.replace("/00012/", "/12/"),
            text.replace("shards", "catalog"),
            text.replace(".rws", ".rwc"),
            text.replace(".rws", "rws"),
            text.replace("/shards", ""),
            format!("{text}/"),
            format!("/{text}"),
        ] {
            assert_eq!(CheckpointName::parse(&wrong), Err(NameError::Unknown(wrong.clone())));
        }
    }
}
