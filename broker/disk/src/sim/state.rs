//! The state of the simulated machine: files, names, injected faults, and counts of operations.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash};
use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Operation};
use super::inode::Inode;
use super::names::Names;
use super::random::Dice;
use crate::Open;

#[derive(Debug)]
pub(super) struct State {
    random: Dice,
    /// Number of starts of the process. Handles of an earlier start return errors.
    pub(super) generation: u64,
    pub(super) inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    pub(super) names: Names,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) operations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) faults: Vec<Fault>,
    pub(super) ignored: BTreeSet<&'static str>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) trace: DefaultHasher,
    pub(super) write_back_bytes: u64,
}

/// A file and the name by which it was opened.
type Target<'a> = (u64, &'a Path);

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Dice::new(seed),
            generation: 0,
            inodes: BTreeMap::new(),
            inode_next: 1,
            names: Names::default(),
            locks: BTreeSet::new(),
            capacity_bytes: None,
            operations: 0,
            crash_at: None,
            crashed: false,
            faults: Vec::new(),
            ignored: BTreeSet::new(),
            counts: BTreeMap::new(),
            trace: DefaultHasher::new(),
            write_back_bytes: 0,
        }
    }

    pub(super) fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the simulated machine is down")) } else { Ok(()) }
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.random.draw()
    }

    /// Adds an operation to the trace.
    fn note(&mut self, operation: &str, path: &Path, arguments: impl Hash) {
        (operation, path, arguments).hash(&mut self.trace);
    }

    /// Counts an operation. `Ok(true)`: the machine crashes while it runs.
    fn begin(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.operations += 1;
        self.crashed = self.crash_at.is_some_and(|at| self.operations >= at);
        Ok(self.crashed)
    }

    /// Counts an atomic operation. `Ok(true)`: execute it.
    fn begin_atomic(&mut self) -> io::Result<bool> {
        Ok(!self.begin()? || self.random.coin())
    }

    pub(super) fn fail_if_injected(
        &mut self,
        operation: Operation,
        path: &Path,
        why: &str,
    ) -> io::Result<()> {
        let Some(at) = self.faults.iter().position(|fault| fault.matches(operation, path, why))
        else {
            return Ok(());
        };
        if self.faults[at].skip > 0 {
            self.faults[at].skip -= 1;
            return Ok(());
        }
        Err(io::Error::new(self.faults.remove(at).kind, "injected"))
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("a file with a handle or a name is kept")
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.cache().len() as u64).sum()
    }

    fn room_for(&self, inode: u64, len: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let before = self.inodes[&inode].cache().len() as u64;
        if self.used_bytes() + len.saturating_sub(before) > capacity && len > before {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn open(&mut self, path: &Path, how: Open) -> io::Result<u64> {
        self.alive()?;
        let found = self.names.lookup(path);
        let inode = match (found, how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), Open::CreateOrTruncate) => {
                self.set_len((inode, path), 0)?;
                inode
            }
            (Some(inode), Open::Read | Open::ReadWrite | Open::Durable) => inode,
            (None, Open::CreateNew | Open::CreateOrTruncate) => self.create(path)?,
            (None, Open::Read | Open::ReadWrite | Open::Durable) => {
                return Err(io::ErrorKind::NotFound.into());
            }
        };
        self.inode(inode).handles += 1;
        Ok(inode)
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.note("create", path, ());
        self.fail_if_injected(Operation::Create, path, "")?;
        let inode = self.inode_next;
        if self.begin_atomic()? {
            self.names.link(path, inode)?;
            self.inode_next += 1;
            self.inodes.insert(inode, Inode::default());
        }
        self.alive()?;
        Ok(inode)
    }

    pub(super) fn close(&mut self, inode: u64) {
        self.inode(inode).handles -= 1;
        self.drop_unreachable_inodes();
    }

    fn drop_unreachable_inodes(&mut self) {
        let reachable = self.names.reachable();
        self.inodes.retain(|inode, file| file.handles > 0 || reachable.contains(inode));
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.alive()?;
        if self.names.is_dir(path) {
            return Ok(());
        }
        self.note("create directories", path, ());
        self.fail_if_injected(Operation::Create, path, "")?;
        if self.begin_atomic()? {
            self.names.create_dir_all(path)?;
        }
        self.alive()
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        self.alive()?;
        self.note("create directory", path, ());
        self.fail_if_injected(Operation::Create, path, "")?;
        if self.begin_atomic()? {
            self.names.make_dir(path, self.inode_next)?;
            self.inode_next += 1;
        }
        self.alive()
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.note("rename", from, to);
        self.fail_if_injected(Operation::Rename, from, "")?;
        if self.begin_atomic()? {
            self.names.rename(from, to)?;
        }
        self.alive()
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.note("remove", path, ());
        self.fail_if_injected(Operation::Remove, path, "")?;
        if self.begin_atomic()? {
            self.names.unlink(path)?;
        }
        self.alive()
    }

    pub(super) fn sync_dir(&mut self, dir: &Path, why: &'static str) -> io::Result<()> {
        self.note("sync directory", dir, why);
        let crashes = self.begin()?;
        *self.counts.entry(why).or_default() += 1;
        if !self.names.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.fail_if_injected(Operation::SyncDir, dir, why)?;
        if !crashes && !self.ignored.contains(why) {
            self.names.sync_dir(dir);
            self.drop_unreachable_inodes();
        }
        self.alive()
    }

    pub(super) fn write(&mut self, target: Target<'_>, buf: &[u8], at: u64) -> io::Result<()> {
        let (inode, path) = target;
        self.note("write", path, (at, buf.len(), crc32c::crc32c(buf)));
        let crashes = self.begin()?;
        let injected = self.fail_if_injected(Operation::Write, path, "");
        self.room_for(inode, at + buf.len() as u64)?;
        let mut part = buf;
        if crashes || injected.is_err() {
            part = &buf[..self.random.below(buf.len() as u64 + 1) as usize];
        }
        self.inode(inode).write(part, at);
        injected?;
        self.alive()
    }

    pub(super) fn set_len(&mut self, target: Target<'_>, len: u64) -> io::Result<()> {
        let (inode, path) = target;
        self.note("set length", path, len);
        self.fail_if_injected(Operation::Write, path, "")?;
        self.room_for(inode, len)?;
        if self.begin_atomic()? {
            self.inode(inode).set_len(len);
        }
        self.alive()
    }

    /// Makes a whole file or one range of it durable.
    pub(super) fn sync(
        &mut self,
        target: Target<'_>,
        range: Option<(u64, u64)>,
        why: &'static str,
    ) -> io::Result<()> {
        let (inode, path) = target;
        self.note("sync", path, (range, why));
        let crashes = self.begin()?;
        *self.counts.entry(why).or_default() += 1;
        if let Err(error) = self.fail_if_injected(Operation::Sync, path, why) {
            let file = self.inodes.get_mut(&inode).expect("a file with a handle is kept");
            file.fail_sync(&mut self.random);
            return Err(error);
        }
        if !crashes && !self.ignored.contains(why) {
            match range {
                Some((at, len)) => self.inode(inode).sync_range(at, len),
                None => self.inode(inode).sync(),
            }
        }
        self.alive()
    }

    pub(super) fn power_cycle(&mut self, seed: u64) {
        self.random = Dice::new(seed);
        self.names.lose_power(&mut self.random);
        for inode in self.inodes.values_mut() {
            inode.lose_power(&mut self.random);
        }
        self.restart();
    }

    pub(super) fn restart(&mut self) {
        self.generation += 1;
        self.operations = 0;
        self.crash_at = None;
        self.crashed = false;
        self.locks.clear();
        self.faults.clear();
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.drop_unreachable_inodes();
    }

    pub(super) fn put(&mut self, path: &Path, content: Vec<u8>) {
        if let Some(dir) = path.parent() {
            // Fails only if an ancestor is a file; then linking fails, too.
            let _ = self.names.create_dir_all(dir);
        }
        let inode = self.inode_next;
        self.inode_next += 1;
        self.inodes.insert(inode, Inode::durable(content));
        self.names.put(path, inode);
    }

    pub(super) fn damage(&mut self, path: &Path, how: impl FnOnce(&mut Inode) -> bool) -> bool {
        match self.names.lookup(path) {
            Some(inode) => how(self.inode(inode)),
            None => false,
        }
    }
}
