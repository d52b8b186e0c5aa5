//! Older records in a bucket: object names and the object format.

mod content;
mod format;
mod identity;
pub mod limits;
mod names;
mod object;

pub use content::Content;
pub use format::FormatError;
pub use identity::{Identity, Origin};
pub use names::{ClusterId, Kind, Level, Name, NameError, ObjectRef, PageRef, PartitionKey};
pub use object::{
    Block, EncodeError, EncodedObject, Encoder, EpochStart, Footer, Producer, ProducerBatch, Push,
    Tail, batches, read_tail, tail_range, verify,
};
