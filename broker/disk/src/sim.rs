//! A simulated disk in memory. It loses power, fails and fills up; a seed decides how.
//!
//! It keeps two views of everything: what running processes see (the cache) and what is durable
//! (the disk). Syncs copy from the cache to the disk. [`SimDisk::power_cycle`] discards the cache,
//! after a random part of what was not synced has reached the disk: single sectors of 512 bytes in
//! any order, and single names.
//!
//! # Behaviour after errors and crashes
//!
//! - Syncing a file makes its content durable, not its name; syncing a directory makes names
//!   durable, not content. A durable write makes its own range durable and nothing else.
//! - After a failed sync the cache still has the bytes, they count as clean, and a later sync does
//!   not write them. So reading the file back does not prove that it is durable.
//! - A renamed file keeps its content, so a recycled file still has its old content.
//! - A handle or lock from before a crash returns errors.
//!
//! # Use in tests
//!
//! Run once and read [`SimDisk::operations`]. Run again with [`SimDisk::crash_at`] at any lower
//! number, then call [`SimDisk::power_cycle`] (the machine died) or [`SimDisk::restart`] (only the
//! process died), open again, and compare with what had been acknowledged. To show that a sync is
//! needed, disable it with [`SimDisk::ignore_syncs`] and check that the comparison fails.

mod fault;
mod inode;
mod names;
mod random;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use fault::{Fault, Operation};
pub use random::Dice;
use state::State;

use crate::{Aligned, Disk, File, Lock, Open};

const WHY_PREALLOCATE: &str = "preallocate";
const FREE_BYTES_UNBOUNDED: u64 = 1 << 50;

/// A simulated disk. Clones share one disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    before: Arc<Mutex<Option<Act>>>,
}

type Act = Arc<dyn Fn(Operation, &Path) + Send + Sync>;

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("state", &self.state).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk without a size limit. The seed decides the partial effects of failures.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))), before: Arc::default() }
    }

    /// Number of operations with an effect that were begun since the last start.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// A hash of all operations with an effect since the disk was created, in order, with their
    /// arguments. If the same seed yields different hashes, the operations depend on something
    /// besides the seed.
    pub fn trace(&self) -> u64 {
        self.state.lock().trace.finish()
    }

    /// Makes the operation with this number (counted from the last start, the first is 1) and all
    /// later ones fail. The operation itself may take effect in part.
    pub fn crash_at(&self, operation: u64) {
        self.state.lock().crash_at = Some(operation);
    }

    /// Whether the crash point was reached.
    pub fn crashed(&self) -> bool {
        self.state.lock().crashed
    }

    /// Simulates a power loss: only what is on the disk remains, with a random part of what was not
    /// synced.
    pub fn power_cycle(&self, seed: u64) {
        self.state.lock().power_cycle(seed);
    }

    /// Simulates the death of the process: the cache remains.
    pub fn restart(&self) {
        self.state.lock().restart();
    }

    /// Number of open handles.
    pub fn open_files(&self) -> usize {
        self.state.lock().inodes.values().map(|inode| inode.handles).sum()
    }

    /// Bytes for which [`File::start_write_back`] was called since the disk was created.
    pub fn write_back_bytes(&self) -> u64 {
        self.state.lock().write_back_bytes
    }

    /// Calls `act` before every operation that changes something, on the thread that executes it,
    /// with the kind of the operation and the path. Also before the operations of `act` itself.
    pub fn before_operations(&self, act: impl Fn(Operation, &Path) + Send + Sync + 'static) {
        *self.before.lock() = Some(Arc::new(act));
    }

    /// Ends the calls of [`SimDisk::before_operations`].
    pub fn no_more_before_operations(&self) {
        *self.before.lock() = None;
    }

    fn operate(&self, operation: Operation, path: &Path) -> parking_lot::MutexGuard<'_, State> {
        let act = self.before.lock().clone();
        if let Some(act) = act {
            act(operation, path);
        }
        self.state.lock()
    }

    /// Makes every sync with this reason succeed without an effect.
    pub fn ignore_syncs(&self, why: &'static str) {
        self.state.lock().ignored.insert(why);
    }

    /// Makes all syncs effective again, after [`SimDisk::ignore_syncs`].
    pub fn heed_all_syncs(&self) {
        self.state.lock().ignored.clear();
    }

    /// Makes a later operation fail.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Removes the injected faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Limits the sum of all file lengths. Writes beyond it fail with a full disk.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// The content of a file as processes see it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.names.lookup(path)?;
        Some(state.inodes[&inode].cache().to_vec())
    }

    /// Writes a file durably, and replaces an existing file.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        self.state.lock().put(path, content);
    }

    /// Flips bits of one byte, in the cache and on the disk. Returns whether there is such a byte.
    pub fn corrupt(&self, path: &Path, at: u64, mask: u8) -> bool {
        self.state.lock().damage(path, |inode| inode.flip(at, mask))
    }

    /// Truncates a file, in the cache and on the disk. Returns whether there is such a file.
    pub fn truncate(&self, path: &Path, len: u64) -> bool {
        self.state.lock().damage(path, |inode| inode.cut(len))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Create, path).create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Create, path).create_dir(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = match how {
            Open::Read | Open::ReadWrite | Open::Durable => self.state.lock(),
            Open::CreateNew | Open::CreateOrTruncate => self.operate(Operation::Create, path),
        };
        let inode = state.open(path, how)?;
        let generation = state.generation;
        drop(state);
        let writable = how != Open::Read;
        let path = path.to_owned();
        Ok(Arc::new(SimFile { disk: self.clone(), generation, inode, path, writable }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        state.alive()?;
        Ok(state.names.lookup(path).is_some() || state.names.is_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.alive()?;
        state.names.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(Operation::Rename, from).rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Remove, path).remove(path)
    }

    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()> {
        self.operate(Operation::SyncDir, dir).sync_dir(dir, why)
    }

    /// Does nothing, because callers may rely on no effect.
    fn write_back(&self, _dir: &Path) {}

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut state = self.state.lock();
        if state.names.lookup(path).is_none() {
            let inode = state.open(path, Open::CreateNew)?;
            state.close(inode);
        }
        state.alive()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        drop(state);
        Ok(Lock::holding(SimLock { disk: self.clone(), generation, path: path.to_owned() }))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        state.alive()?;
        Ok(match state.capacity_bytes {
            Some(capacity) => capacity.saturating_sub(state.used_bytes()),
            None => FREE_BYTES_UNBOUNDED,
        })
    }

    fn draw(&self) -> u64 {
        self.state.lock().draw()
    }

    fn sync_counts(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().counts.clone()
    }
}

struct SimLock {
    disk: SimDisk,
    generation: u64,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    generation: u64,
    inode: u64,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        self.check(self.disk.state.lock())
    }

    fn check<'a>(
        &self,
        state: parking_lot::MutexGuard<'a, State>,
    ) -> io::Result<parking_lot::MutexGuard<'a, State>> {
        state.alive()?;
        if state.generation != self.generation {
            return Err(io::Error::other("this handle was opened before the crash"));
        }
        Ok(state)
    }

    fn state_to_write(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.check(self.disk.operate(Operation::Write, &self.path))
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes[&self.inode].cache().len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.fail_if_injected(Operation::Read, &self.path, "")?;
        let cache = state.inodes[&self.inode].cache();
        let content = usize::try_from(at)
            .ok()
            .and_then(|at| cache.get(at..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(content);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.state_to_write()?.write((self.inode, &self.path), buf, at)
    }

    fn write_vectored_all_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let joined: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.write_all_at(&joined, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state_to_write()?.set_len((self.inode, &self.path), len)
    }

    fn sync(&self, why: &'static str) -> io::Result<()> {
        self.check(self.disk.operate(Operation::Sync, &self.path))?.sync(
            (self.inode, &self.path),
            None,
            why,
        )
    }

    fn start_write_back(&self, _at: u64, len: u64) {
        self.disk.state.lock().write_back_bytes += len;
    }

    fn write_durable_at(&self, buf: &Aligned, at: u64, why: &'static str) -> io::Result<()> {
        let mut state = self.state_to_write()?;
        state.write((self.inode, &self.path), buf, at)?;
        state.sync((self.inode, &self.path), Some((at, buf.len() as u64)), why)
    }

    fn preallocate(&self, len: u64, pause: &mut dyn FnMut(u64)) -> io::Result<()> {
        pause(len);
        let mut state = self.state_to_write()?;
        state.set_len((self.inode, &self.path), 0)?;
        let zeroes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        state.write((self.inode, &self.path), &zeroes, 0)?;
        state.sync((self.inode, &self.path), None, WHY_PREALLOCATE)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.generation == self.generation {
            state.close(self.inode);
        }
    }
}

#[cfg(test)]
mod tests;
