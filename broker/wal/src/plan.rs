//! A round before it is written: its records, its size, and its effect on each replica.
//!
//! All checks are made here, so a round fits its file once writing begins.

use std::collections::BTreeMap;

use crate::frame;
use crate::record::{Record, ReplicaKey};
use crate::replicas::{Change, Replicas, Span};

/// The effect of a round on one replica.
#[derive(Debug, Clone, Copy)]
struct Touched {
    records: u32,
    span: Span,
}

/// Reasons why records cannot be added to a round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// They would leave a gap in a replica's log.
    NotContiguous { key: ReplicaKey, index: u64, span: Span },
    /// The round would be larger than a file.
    TooLarge { size_bytes: u64, size_bytes_max: u64 },
}

/// The round being collected. It is reused from round to round, to keep its memory.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    touched: BTreeMap<ReplicaKey, Touched>,
    /// Changes of one call of [`Plan::add`], so that it can be refused as a whole.
    draft: Vec<(ReplicaKey, Touched)>,
    records: usize,
    records_bytes: usize,
}

impl Plan {
    pub(crate) fn clear(&mut self) {
        self.touched.clear();
        self.draft.clear();
        self.records = 0;
        self.records_bytes = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Size of the round so far in bytes, without padding.
    pub(crate) fn frame_bytes(&self) -> u64 {
        frame::frame_bytes(self.touched.len(), self.records_bytes) as u64
    }

    /// The replicas with records in the round, each with its number of records.
    pub(crate) fn directory(&self) -> impl ExactSizeIterator<Item = (ReplicaKey, u32)> {
        self.touched.iter().map(|(key, touched)| (*key, touched.records))
    }

    /// Adds all of `records`, or none if one of them is refused.
    pub(crate) fn add(
        &mut self,
        replicas: &Replicas,
        records: &[Record],
        size_bytes_max: u64,
    ) -> Result<(), Refusal> {
        self.draft.clear();
        let mut bytes = 0;
        for record in records {
            bytes += record.size_bytes();
            self.draft(replicas, record)?;
        }
        let keys = self.touched.len() + self.draft.len();
        let size_bytes = frame::frame_bytes(keys, self.records_bytes + bytes) as u64;
        if size_bytes > size_bytes_max {
            return Err(Refusal::TooLarge { size_bytes, size_bytes_max });
        }
        self.touched.extend(self.draft.drain(..));
        self.records += records.len();
        self.records_bytes += bytes;
        Ok(())
    }

    fn draft(&mut self, replicas: &Replicas, record: &Record) -> Result<(), Refusal> {
        let key = record.key();
        // Records of one replica are usually adjacent: search from the end.
        let at = self.draft.iter().rposition(|(drafted, _)| *drafted == key);
        let at = at.unwrap_or_else(|| {
            let fresh = || Touched { records: 0, span: replicas.span(key) };
            let touched = self.touched.get(&key).copied().unwrap_or_else(fresh);
            self.draft.push((key, touched));
            self.draft.len() - 1
        });
        let touched = &mut self.draft[at].1;
        if let Record::Entry { index, .. } = record
            && !touched.span.takes(*index)
        {
            return Err(Refusal::NotContiguous { key, index: *index, span: touched.span });
        }
        touched.records += 1;
        touched.span.apply(&Change::from(record));
        Ok(())
    }
}
