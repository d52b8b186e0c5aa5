//! The names of simulated files: in the cache and on the disk.
//!
//! Changes are kept in order until their directory is synced. At a power loss any of them may reach
//! the disk, but never without the earlier changes of the same file or name: a rename does not
//! survive without the creation of the file. A file whose directory has not reached the disk is
//! lost, even if it was synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::random::{Dice, Survival};

#[derive(Debug, Default)]
pub(super) struct Names {
    cache: Tree,
    disk: Tree,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Default)]
struct Tree {
    files: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone)]
struct Change {
    inode: u64,
    removed: Option<PathBuf>,
    added: Option<PathBuf>,
    is_dir: bool,
}

impl Tree {
    fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || path == Path::new("/") || self.dirs.contains(path)
    }

    /// Drops the entries of directories that do not exist.
    fn drop_unreachable(&mut self) {
        let dirs = std::mem::take(&mut self.dirs);
        // Sorted, so parents come before their entries.
        for dir in dirs {
            if dir.parent().is_none_or(|parent| self.is_dir(parent)) {
                self.dirs.insert(dir);
            }
        }
        let mut files = std::mem::take(&mut self.files);
        files.retain(|path, _| path.parent().is_some_and(|dir| self.is_dir(dir)));
        self.files = files;
    }
}

impl Change {
    /// The directory whose sync makes the change durable.
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

    fn apply(&self, tree: &mut Tree) {
        if let Some(removed) = &self.removed {
            tree.files.remove(removed);
        }
        match &self.added {
            Some(added) if self.is_dir => {
                tree.dirs.insert(added.clone());
            }
            Some(added) => {
                tree.files.insert(added.clone(), self.inode);
            }
            None => {}
        }
    }
}

impl Names {
    pub(super) fn lookup(&self, path: &Path) -> Option<u64> {
        self.cache.files.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.cache.is_dir(path)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for ancestor in path.ancestors() {
            if self.cache.files.contains_key(ancestor) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.cache.dirs.insert(ancestor.to_owned());
            self.disk.dirs.insert(ancestor.to_owned());
        }
        Ok(())
    }

    pub(super) fn make_dir(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        if self.is_dir(path) || self.lookup(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| self.is_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change { inode, removed: None, added: Some(path.to_owned()), is_dir: true });
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let names: BTreeSet<String> = (self.cache.files.keys().filter(inside))
            .chain(self.cache.dirs.iter().filter(inside))
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
        self.file_change(inode, None, Some(path));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.lookup(from).ok_or(io::ErrorKind::NotFound)?;
        if !to.parent().is_some_and(|dir| self.is_dir(dir)) || self.is_dir(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.file_change(inode, Some(from), Some(to));
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.lookup(path).ok_or(io::ErrorKind::NotFound)?;
        self.file_change(inode, Some(path), None);
        Ok(())
    }

    fn file_change(&mut self, inode: u64, removed: Option<&Path>, added: Option<&Path>) {
        let (removed, added) = (removed.map(Path::to_owned), added.map(Path::to_owned));
        self.change(Change { inode, removed, added, is_dir: false });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.pending.push(change);
    }

    /// Makes the names in `dir` durable, with the changes that they depend on.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let chosen = self.pending.iter().map(|change| change.dir() == Some(dir)).collect();
        self.apply_chosen(chosen);
    }

    pub(super) fn lose_power(&mut self, random: &mut Dice) {
        let survival = Survival::choose(random, self.pending.len() as u64);
        let chosen = (0..self.pending.len()).map(|at| survival.keeps(at as u64, random)).collect();
        self.apply_chosen(chosen);
        self.pending.clear();
        self.disk.drop_unreachable();
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

    /// All files that have a name, or may get one back at a power loss.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        (self.cache.files.values().chain(self.disk.files.values()).copied())
            .chain(self.pending.iter().map(|change| change.inode))
            .collect()
    }

    /// Adds a name of a file to both views.
    pub(super) fn put(&mut self, path: &Path, inode: u64) {
        self.cache.files.insert(path.to_owned(), inode);
        self.disk.files.insert(path.to_owned(), inode);
    }
}
