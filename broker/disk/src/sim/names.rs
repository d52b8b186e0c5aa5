//! The names of simulated files: as processes see them, and as the disk holds them.
//!
//! Changes wait in order until their directory is synced. At a power loss any of them may have
//! reached the disk, but never a change without those before it that concern the same file or
//! name: a rename does not survive the creation it renames.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::random::{Random, Survival};

#[derive(Debug, Default)]
pub(super) struct Names {
    cache: BTreeMap<PathBuf, u64>,
    disk: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    inode: u64,
    removed: Option<PathBuf>,
    added: Option<PathBuf>,
}

impl Change {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> Option<&Path> {
        self.added.as_deref().or(self.removed.as_deref()).and_then(Path::parent)
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.removed.iter().chain(&self.added)
    }

    fn needs(&self, earlier: &Self) -> bool {
        self.inode == earlier.inode
            || self.paths().any(|path| earlier.paths().any(|other| path == other))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(removed) = &self.removed {
            names.remove(removed);
        }
        if let Some(added) = &self.added {
            names.insert(added.clone(), self.inode);
        }
    }
}

impl Names {
    pub(super) fn lookup(&self, path: &Path) -> Option<u64> {
        self.cache.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || path == Path::new("/") || self.dirs.contains(path)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for ancestor in path.ancestors() {
            if self.cache.contains_key(ancestor) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.dirs.insert(ancestor.to_owned());
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let names: BTreeSet<String> = (self.cache.keys().filter(inside))
            .chain(self.dirs.iter().filter(inside))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    pub(super) fn link(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        if self.is_dir(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !path.parent().is_some_and(|dir| self.is_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change { inode, removed: None, added: Some(path.to_owned()) });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.lookup(from).ok_or(io::ErrorKind::NotFound)?;
        if !to.parent().is_some_and(|dir| self.is_dir(dir)) || self.is_dir(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change { inode, removed: Some(from.to_owned()), added: Some(to.to_owned()) });
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.lookup(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(Change { inode, removed: Some(path.to_owned()), added: None });
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.pending.push(change);
    }

    /// The names in `dir` become durable, with what they depend on.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let chosen = self.pending.iter().map(|change| change.dir() == Some(dir)).collect();
        self.apply_chosen(chosen);
    }

    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let survival = Survival::choose(random, self.pending.len() as u64);
        let chosen = (0..self.pending.len()).map(|at| survival.keeps(at as u64, random)).collect();
        self.apply_chosen(chosen);
        self.pending.clear();
        self.cache.clone_from(&self.disk);
    }

    fn apply_chosen(&mut self, mut chosen: Vec<bool>) {
        for later in (0..chosen.len()).rev() {
            for earlier in 0..later {
                if chosen[later] && self.pending[later].needs(&self.pending[earlier]) {
                    chosen[earlier] = true;
                }
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, chosen) in pending.into_iter().zip(chosen) {
            if chosen {
                change.apply(&mut self.disk);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Every file that has a name somewhere, or may get one back.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        (self.cache.values().chain(self.disk.values()).copied())
            .chain(self.pending.iter().map(|change| change.inode))
            .collect()
    }

    /// Gives a name to a file in both views.
    pub(super) fn put(&mut self, path: &Path, inode: u64) {
        self.cache.insert(path.to_owned(), inode);
        self.disk.insert(path.to_owned(), inode);
    }
}
