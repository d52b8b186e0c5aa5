//! Older records in a bucket: object names.

pub mod limits;
mod names;

pub use names::{ClusterId, Kind, Level, Name, NameError, ObjectRef, PageRef, PartitionKey};
