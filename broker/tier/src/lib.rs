//! Older records in a bucket: names, formats and the bucket.

mod bucket;
mod claim;
mod content;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod format;
mod identity;
pub mod limits;
mod names;
mod object;
mod page;
mod probe;

pub use bucket::{
    AddressStyle, Bucket, BucketCounts, BucketSettings, BucketUrl, Credentials, Listed, PutOutcome,
};
pub use claim::{Claim, claim, current as current_claim, take_over};
pub use content::Content;
pub use error::{Operation, Remedy, TierError};
pub use format::FormatError;
pub use identity::{Identity, Origin};
pub use names::{ClusterId, Kind, Level, Name, NameError, ObjectRef, PageRef, PartitionKey};
pub use object::{
    Block, EncodeError, EncodedObject, Encoder, EpochStart, Footer, Producer, ProducerBatch, Push,
    Tail, batches, read_tail, tail_range, verify,
};
pub use page::{EncodedPage, Entries, Page};
pub use probe::{ProbeReport, probe};
