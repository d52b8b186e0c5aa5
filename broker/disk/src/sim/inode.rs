//! The content of one simulated file: in the cache and on the disk.

use std::collections::BTreeSet;

use super::random::{Dice, Survival};

/// Size of an atomic write of a drive.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    /// Sectors whose cached content is not on the disk yet.
    dirty: BTreeSet<u64>,
    pub(super) handles: usize,
}

impl Inode {
    pub(super) fn durable(content: Vec<u8>) -> Self {
        Self { cache: content.clone(), disk: content, dirty: BTreeSet::new(), handles: 0 }
    }

    pub(super) fn cache(&self) -> &[u8] {
        &self.cache
    }

    pub(super) fn write(&mut self, buf: &[u8], at: u64) {
        let start = at as usize;
        let end = start + buf.len();
        if end > self.cache.len() {
            self.set_len(end as u64);
        }
        self.cache[start..end].copy_from_slice(buf);
        self.mark_dirty(at, end as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let before = self.cache.len() as u64;
        self.cache.resize(len as usize, 0);
        // Where the cached file was truncated and extended again, the disk must become zero.
        self.mark_dirty(before, len.min(self.disk.len() as u64));
        self.dirty.split_off(&len.div_ceil(SECTOR_BYTES));
    }

    fn mark_dirty(&mut self, from: u64, to: u64) {
        if from < to {
            self.dirty.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
        }
    }

    /// Writes everything to the disk.
    pub(super) fn sync(&mut self) {
        self.disk.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
    }

    /// Writes a range to the disk, and extends the file there only as far as the range needs.
    pub(super) fn sync_range(&mut self, at: u64, len: u64) {
        let end = (at + len) as usize;
        if self.disk.len() < end {
            self.disk.resize(end, 0);
        }
        for sector in at / SECTOR_BYTES..(at + len).div_ceil(SECTOR_BYTES) {
            if self.dirty.remove(&sector) {
                self.write_back(sector);
            }
        }
    }

    /// Writes a part of what is dirty to the disk; all of it then counts as clean.
    pub(super) fn fail_sync(&mut self, random: &mut Dice) {
        self.write_back_some(random);
        self.dirty.clear();
    }

    /// Writes a part of what is dirty to the disk, and discards the cache.
    pub(super) fn lose_power(&mut self, random: &mut Dice) {
        self.write_back_some(random);
        self.dirty.clear();
        self.cache.clone_from(&self.disk);
        self.handles = 0;
    }

    fn write_back_some(&mut self, random: &mut Dice) {
        let survival = Survival::choose(random, self.dirty.len() as u64);
        self.change_len_perhaps(survival, random);
        for (number, sector) in (0..).zip(std::mem::take(&mut self.dirty)) {
            if survival.keeps(number, random) {
                self.write_back(sector);
            }
        }
    }

    fn change_len_perhaps(&mut self, survival: Survival, random: &mut Dice) {
        let (disk, cache) = (self.disk.len() as u64, self.cache.len() as u64);
        let changes = match survival {
            Survival::Nothing => false,
            Survival::All => true,
            Survival::Prefix(_) | Survival::Suffix(_) | Survival::Each => random.coin(),
        };
        if cache != disk && changes {
            self.disk.resize(cache as usize, 0);
        } else if cache > disk && !matches!(survival, Survival::Nothing) {
            self.disk.resize((disk + random.below(cache - disk)) as usize, 0);
        }
    }

    /// Writes one sector to the disk, up to the length that the file has there.
    fn write_back(&mut self, sector: u64) {
        let start = (sector * SECTOR_BYTES) as usize;
        let end = (start + SECTOR_BYTES as usize).min(self.cache.len()).min(self.disk.len());
        if start < end {
            self.disk[start..end].copy_from_slice(&self.cache[start..end]);
        }
    }

    pub(super) fn flip(&mut self, at: u64, mask: u8) -> bool {
        let at = at as usize;
        for view in [&mut self.cache, &mut self.disk] {
            let Some(byte) = view.get_mut(at) else { return false };
            *byte ^= mask;
        }
        true
    }

    pub(super) fn cut(&mut self, len: u64) -> bool {
        self.cache.truncate(len as usize);
        self.disk.truncate(len as usize);
        self.dirty.split_off(&len.div_ceil(SECTOR_BYTES));
        true
    }
}
