//! The disk of one start of a broker: nothing passes any more when the process is dead.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ropewalk_disk::{Disk, File, Lock, Open, SimDisk};

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) disk: SimDisk,
    pub(crate) is_dead: Arc<AtomicBool>,
}

impl Gate {
    fn alive(&self) -> io::Result<&SimDisk> {
        match self.is_dead.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the process is dead")),
            false => Ok(&self.disk),
        }
    }
}

impl Disk for Gate {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.alive()?.create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.alive()?.create_dir(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.alive()?.open(path, how)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.alive()?.exists(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive()?.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove(path)
    }

    fn sync_dir(&self, dir: &Path, why: &'static str) -> io::Result<()> {
        self.alive()?.sync_dir(dir, why)
    }

    fn write_back(&self, dir: &Path) {
        self.disk.write_back(dir);
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.alive()?.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.alive()?.free_bytes(path)
    }

    fn draw(&self) -> u64 {
        self.disk.draw()
    }

    fn sync_counts(&self) -> BTreeMap<&'static str, u64> {
        self.disk.sync_counts()
    }
}
