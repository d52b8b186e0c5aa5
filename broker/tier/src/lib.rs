//! Older records in a bucket: object names, object and page formats.

mod content;
mod format;
mod identity;
pub mod limits;
mod names;
mod object;
mod page;

pub use content::Content;
pub use format::FormatError;
pub use identity::{Identity, Origin};
pub use names::{ClusterId, Kind, Level, Name, NameError, ObjectRef, PageRef, PartitionKey};
pub use object::{
    Block, EncodeError, EncodedObject, Encoder, EpochStart, Footer, Producer, ProducerBatch, Push,
    Tail, batches, read_tail, tail_range, verify,
};
pub use page::{EncodedPage, Entries, Page};
