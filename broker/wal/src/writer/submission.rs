//! Submissions: records that a shard hands to the writer thread.

use std::sync::Arc;

use crate::log::{Admission, WalError};
use crate::record::Record;

/// Called when the records are durable, or with the reason why they are not.
pub type Completion = Box<dyn FnOnce(Result<(), Arc<WalError>>) + Send>;

/// Records that become durable together, in one round.
pub struct Submission {
    pub(super) records: Vec<Record>,
    pub(super) size_bytes: u64,
    pub(super) admission: Admission,
    pub(super) done: Completion,
}

impl Submission {
    /// The records, and the function to call with the result.
    pub fn new(
        records: Vec<Record>,
        done: impl FnOnce(Result<(), Arc<WalError>>) + Send + 'static,
    ) -> Self {
        let size_bytes = records.iter().map(Record::size_bytes).sum::<usize>() as u64;
        Self { records, size_bytes, admission: Admission::Normal, done: Box::new(done) }
    }

    /// Allows the submission to use the reserve, which is kept for records that free space:
    /// deletes, retention, truncation.
    pub fn from_reserve(mut self) -> Self {
        self.admission = Admission::Reserve;
        self
    }

    /// Allows the submission to use all space. It is meant for records that allow files of the log
    /// to be released: truncation.
    pub fn for_release(mut self) -> Self {
        self.admission = Admission::Release;
        self
    }
}
