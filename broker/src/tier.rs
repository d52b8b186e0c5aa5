//! Older records in a bucket: what this broker reads from it.
//!
//! The state of a shard says which records of a partition are in objects. [`remote`] reads them.

#![cfg_attr(
    not(test),
    allow(
        dead_code,
        unused_imports,
        reason = "no setting names a bucket yet, so only tests read one"
    )
)]

pub(crate) mod convert;
pub(crate) mod remote;
