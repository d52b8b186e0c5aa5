//! Counts of requests and bytes, for metrics and costs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests and bytes since a bucket was opened. Each attempt counts; of a list only its first
/// answer, because the library asks for the others by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketCounts {
    /// Attempts to put an object.
    pub puts: u64,
    /// Attempts to read a range or an object.
    pub gets: u64,
    /// Attempts to read size and metadata.
    pub heads: u64,
    /// Lists that were begun.
    pub lists: u64,
    /// Attempts to delete an object.
    pub deletes: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Attempts that were made because the one before them failed.
    pub retries: u64,
    /// Bytes of all attempts to put.
    pub written_bytes: u64,
    /// Bytes of all successful reads.
    pub read_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

impl Tally {
    pub(super) fn put(&self, bytes: u64) {
        add(&self.puts, 1);
        add(&self.written_bytes, bytes);
    }

    pub(super) fn get(&self) {
        add(&self.gets, 1);
    }

    pub(super) fn read(&self, bytes: u64) {
        add(&self.read_bytes, bytes);
    }

    pub(super) fn head(&self) {
        add(&self.heads, 1);
    }

    pub(super) fn list(&self) {
        add(&self.lists, 1);
    }

    pub(super) fn delete(&self) {
        add(&self.deletes, 1);
    }

    pub(super) fn failure(&self) {
        add(&self.failures, 1);
    }

    pub(super) fn retry(&self) {
        add(&self.retries, 1);
    }

    pub(super) fn counts(&self) -> BucketCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BucketCounts {
            puts: of(&self.puts),
            gets: of(&self.gets),
            heads: of(&self.heads),
            lists: of(&self.lists),
            deletes: of(&self.deletes),
            failures: of(&self.failures),
            retries: of(&self.retries),
            written_bytes: of(&self.written_bytes),
            read_bytes: of(&self.read_bytes),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
