//! What an object or page says about itself: partition, range and origin. Its name says the same,
//! so that one is not accepted for another.
//!
//! ```text
//! topic id (16 bytes), partition i32, base offset i64, end offset i64, history u64, term u64,
//! length of the cluster id u8, cluster id
//! ```

use crate::format::{Fields, FormatError};
use crate::limits;
use crate::names::{ClusterId, Kind, Name, PartitionKey};

/// Size of the fields without the cluster id.
pub(crate) const IDENTITY_BYTES_MIN: usize = 16 + 4 + 8 + 8 + 8 + 8 + 1;
/// Size of the fields with the longest cluster id.
pub(crate) const IDENTITY_BYTES_MAX: usize = IDENTITY_BYTES_MIN + limits::CLUSTER_ID_BYTES_MAX;

/// Who writes: which history and term of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The history of the shard.
    pub history: u64,
    /// The term of the leader.
    pub term: u64,
}

/// Partition, range and origin of an object or page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The partition, with the cluster that wrote it.
    pub partition: PartitionKey,
    /// First offset of the range.
    pub base: i64,
    /// Offset behind the range.
    pub end: i64,
    /// The history and term that wrote it.
    pub origin: Origin,
}

impl Identity {
    /// What a name says.
    pub(crate) fn of(name: &Name) -> Self {
        Self {
            partition: name.partition.clone(),
            base: name.base,
            end: name.end,
            origin: Origin { history: name.history, term: name.term },
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.partition.topic.as_bytes());
        out.extend(self.partition.index.to_le_bytes());
        out.extend(self.base.to_le_bytes());
        out.extend(self.end.to_le_bytes());
        out.extend(self.origin.history.to_le_bytes());
        out.extend(self.origin.term.to_le_bytes());
        put_cluster_id(out, &self.partition.cluster);
    }

    pub(crate) fn decode(what: &'static str, fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let topic = fields.uuid()?;
        let index = fields.i32()?;
        let (base, end) = (fields.i64()?, fields.i64()?);
        let origin = Origin { history: fields.u64()?, term: fields.u64()? };
        let cluster = take_cluster_id(what, fields)?;
        if index < 0 || base < 0 || base >= end {
            let why = format!("it names partition {index}, offsets {base} to {end}");
            return Err(FormatError::invalid(what, why));
        }
        Ok(Self { partition: PartitionKey { cluster, topic, index }, base, end, origin })
    }

    /// Refuses what is not the object or page of that name.
    pub(crate) fn expect(
        &self,
        what: &'static str,
        kind: Kind,
        name: &Name,
    ) -> Result<(), FormatError> {
        if name.kind == kind && *self == Self::of(name) {
            return Ok(());
        }
        let Self { partition, base, end, origin } = self;
        let why = format!(
            "{name} contains partition {partition} of cluster {}, offsets {base} to {end}, \
             written in term {} of history {:016x}",
            partition.cluster, origin.term, origin.history
        );
        Err(FormatError::invalid(what, why))
    }
}

/// The length of a cluster id in one byte, and the id.
pub(crate) fn put_cluster_id(out: &mut Vec<u8>, cluster: &ClusterId) {
    let cluster = cluster.as_str().as_bytes();
    out.push(cluster.len() as u8);
    out.extend(cluster);
}

pub(crate) fn take_cluster_id(
    what: &'static str,
    fields: &mut Fields<'_>,
) -> Result<ClusterId, FormatError> {
    let length = fields.u8()?;
    let cluster = str::from_utf8(fields.take(usize::from(length))?)
        .map_err(|error| FormatError::invalid(what, error.to_string()))?;
    ClusterId::new(cluster).map_err(|error| FormatError::invalid(what, error.to_string()))
}
