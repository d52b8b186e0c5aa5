//! A bounded map from each key to its last offset.
//!
//! [`super::CompactionJob`] fills it from the dirty segments and looks up each record that is
//! rewritten.
//!
//! Invariants:
//! - Of a key only a hash of 128 bits is kept, with a new seed for each map, so that clients cannot
//!   choose colliding keys. The probability that any two of 10^9 keys collide is below 10^-20.
//! - **R1.** It never has more keys than `bytes_max` allows. A full map still takes later offsets
//!   of its keys. Records of other keys are never dropped.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};

/// Memory of a key: hash, offset, and the free slots of a hash map that has just grown, old and
/// new.
const KEY_BYTES: usize = 72;

/// The last offset of each key.
#[derive(Debug)]
pub(crate) struct Keys {
    seeds: [SeededHasher; 2],
    offsets: HashMap<[u64; 2], i64, BuildHasherDefault<PrecomputedHasher>>,
    keys_max: usize,
    part: Option<Part>,
    is_full: bool,
}

/// A part of the keys: those with the same remainder of a hash. All maps of a job use the same
/// split.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) of: u32,
    pub(crate) hasher: SeededHasher,
}

/// A hasher with a seed that clients cannot guess.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeededHasher(pub(crate) u64);

impl BuildHasher for SeededHasher {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

impl Keys {
    /// An empty map for all keys or a part of them.
    pub(crate) fn new(seeds: [SeededHasher; 2], bytes_max: usize, part: Option<Part>) -> Self {
        Self {
            seeds,
            offsets: HashMap::default(),
            keys_max: keys_max(bytes_max),
            part: part.filter(|part| part.of > 1),
            is_full: false,
        }
    }

    /// Number of parts in which this many keys fit, with room for parts of different size.
    pub(crate) fn parts(keys: u64, bytes_max: usize) -> u32 {
        let keys_max = keys_max(bytes_max) as u64;
        u32::try_from((keys + keys / 4).div_ceil(keys_max)).unwrap_or(u32::MAX)
    }

    /// Records that `key` has a record at `offset`. Offsets must ascend.
    pub(crate) fn put(&mut self, key: &[u8], offset: i64) {
        if !self.is_mine(key) {
            return;
        }
        let hash = self.hash(key);
        if self.offsets.len() < self.keys_max {
            self.offsets.insert(hash, offset);
        } else if let Some(last) = self.offsets.get_mut(&hash) {
            *last = offset;
        } else {
            self.is_full = true;
        }
    }

    /// Whether any key did not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether the map has no later record of `key` than the one at `offset`.
    pub(crate) fn is_last(&self, key: &[u8], offset: i64) -> bool {
        self.offsets.get(&self.hash(key)).is_none_or(|last| *last <= offset)
    }

    fn is_mine(&self, key: &[u8]) -> bool {
        let of = |part: &Part| part.hasher.hash_one(key) % u64::from(part.of);
        self.part.as_ref().is_none_or(|part| of(part) == u64::from(part.number))
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.seeds[0].hash_one(key), self.seeds[1].hash_one(key)]
    }
}

fn keys_max(bytes_max: usize) -> usize {
    (bytes_max / KEY_BYTES).max(1)
}

/// Uses the first half of the hash as the hash of the map.
#[derive(Debug, Default)]
struct PrecomputedHasher(u64);

impl Hasher for PrecomputedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_ne_bytes(*first);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [SeededHasher; 2] = [SeededHasher(1), SeededHasher(2)];

    #[test]
    fn the_last_offset_wins_and_strangers_stay() {
        let mut keys = Keys::new(SEEDS, 1 << 20, None);
        keys.put(b"a", 1);
        keys.put(b"b", 2);
        keys.put(b"a", 7);
        assert!(!keys.is_last(b"a", 1));
        assert!(keys.is_last(b"a", 7));
        assert!(keys.is_last(b"b", 2));
        assert!(keys.is_last(b"c", 0));
        assert!(!keys.is_full());
    }

    #[test]
    fn r1_a_full_map_learns_no_new_key_and_drops_nothing_for_it() {
        let mut keys = Keys::new(SEEDS, KEY_BYTES * 2, None);
        for (key, offset) in [(b"a", 1), (b"b", 2), (b"c", 3), (b"c", 4), (b"a", 5)] {
            keys.put(key, offset);
        }
        assert!(keys.is_full());
        assert!(keys.is_last(b"c", 3), "not known, so it stays");
        assert!(!keys.is_last(b"a", 1));
    }

    #[test]
    fn every_key_belongs_to_one_part() {
        let mut known = 0;
        let hasher = SeededHasher(5);
        for number in 0..3 {
            let part = Part { number, of: 3, hasher };
            let mut keys = Keys::new(SEEDS, 1 << 20, Some(part));
            for n in 0..100_u32 {
                keys.put(&n.to_be_bytes(), 9);
                known += u32::from(!keys.is_last(&n.to_be_bytes(), 1));
            }
        }
        assert_eq!(known, 100);
    }
}
