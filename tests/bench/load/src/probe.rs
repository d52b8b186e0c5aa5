//! What the machine itself does: the price of page-cache memory, and the rates of the disk.
//!
//! A virtual machine pays several times more for a page that its host has not backed with memory
//! yet. The probe measures both kinds, so that a reader of the table can judge which kind it shows.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::meter::{GIB, Meter};
use crate::payload::Ring;
use crate::percentiles::Percentiles;

const MIB: usize = 1 << 20;
/// Alignment that direct I/O needs on every common disk, in bytes.
const ALIGNMENT: usize = 4096;
/// Size of one sequential write, in bytes.
const SEQUENTIAL_BYTES: usize = 4 * MIB;
/// Bytes that are written again and again for the price of recycled pages.
const RECYCLED_BYTES: usize = 64 * MIB;

/// Where to measure, and how much.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Probe {
    /// A directory on the disk under test; the probe's files are removed at the end.
    #[arg(long)]
    directory: PathBuf,
    /// Bytes to write for the price of fresh pages, and for the sequential rate.
    #[arg(long, default_value_t = 1 << 30)]
    size_bytes: usize,
    /// How long to measure each kind of synchronous write.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// Fills memory with page cache by writing a file, which it leaves behind.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Fill {
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    size_bytes: usize,
}

impl Fill {
    /// Writes and syncs the file; the processor time of its last part is that of recycled pages.
    pub(crate) fn run(&self) -> Result<Value> {
        let file = File::create(&self.file).context("creating the file to fill memory")?;
        let buffer = random(MIB)?;
        let parts = 8;
        let part = (self.size_bytes / parts / MIB).max(1) * MIB;
        let costs = (0..parts).map(|i| buffered(&file, buffer.bytes(), i * part, part));
        let costs = costs.collect::<Result<Vec<f64>>>()?;
        file.sync_all()?;
        Ok(json!({
            "bytes": part * parts, "first_cpu_s_per_gib": costs.first(),
            "last_cpu_s_per_gib": costs.last(),
        }))
    }
}

impl Probe {
    pub(crate) fn run(&self) -> Result<Value> {
        let path = self.directory.join("probe");
        let measured = self.measure(&path);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        measured
    }

    fn measure(&self, path: &Path) -> Result<Value> {
        let buffer = random(SEQUENTIAL_BYTES)?;
        let memory = self.memory(path, buffer.bytes())?;
        let sequential = self.sequential(path, &buffer)?;
        let round = |size| self.synchronous(path, &buffer.bytes()[..size]);
        Ok(json!({
            "memory": memory, "sequential_mb_per_s": sequential,
            "sync_4_kib": round(4 << 10)?, "sync_64_kib": round(64 << 10)?,
            "sync_1_mib": round(MIB)?,
        }))
    }

    /// Processor seconds per GiB of buffered writes: pages taken from free memory, pages that were
    /// freed a moment before, and pages that the cache holds.
    fn memory(&self, path: &Path, buffer: &[u8]) -> Result<Value> {
        let file = File::create(path).context("creating the probe's file")?;
        let fresh = buffered(&file, &buffer[..MIB], 0, self.size_bytes)?;
        let cached = buffered(&file, &buffer[..MIB], 0, RECYCLED_BYTES.min(self.size_bytes))?;
        let mut recycled = f64::INFINITY;
        for _ in 0..3 {
            file.set_len(0)?;
            recycled = recycled.min(buffered(&file, &buffer[..MIB], 0, RECYCLED_BYTES)?);
        }
        file.set_len(0)?;
        Ok(json!({ "fresh": fresh, "recycled": recycled, "cached": cached }))
    }

    /// MB/s of direct writes over blocks that are allocated.
    fn sequential(&self, path: &Path, buffer: &Aligned) -> Result<f64> {
        let file = open(path, libc::O_DIRECT)?;
        let pieces = (self.size_bytes / SEQUENTIAL_BYTES).max(1);
        let mut seconds = 0.0;
        for _ in 0..2 {
            let started = Instant::now();
            for i in 0..pieces {
                file.write_all_at(buffer.bytes(), (i * SEQUENTIAL_BYTES) as u64)?;
            }
            file.sync_data()?;
            seconds = started.elapsed().as_secs_f64();
        }
        Ok((pieces * SEQUENTIAL_BYTES) as f64 / 1e6 / seconds)
    }

    /// Latency and rate of writes with `O_DIRECT|O_DSYNC` over blocks that are allocated, one
    /// after the other.
    fn synchronous(&self, path: &Path, piece: &[u8]) -> Result<Value> {
        let file = open(path, libc::O_DIRECT | libc::O_DSYNC)?;
        let pieces = (self.size_bytes / piece.len()).max(1);
        let mut latencies = Percentiles::default();
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.seconds);
        while Instant::now() < end {
            let due = Instant::now();
            let position = latencies.count() % pieces * piece.len();
            file.write_all_at(piece, position as u64)?;
            latencies.answered(due);
        }
        let seconds = started.elapsed().as_secs_f64();
        let count = latencies.count() as f64;
        Ok(json!({
            "per_s": count / seconds, "mb_per_s": count * piece.len() as f64 / 1e6 / seconds,
            "ms": latencies.summary(),
        }))
    }
}

/// Processor seconds per GiB of buffered writes of `size_bytes` bytes from `position` on.
fn buffered(file: &File, piece: &[u8], position: usize, size_bytes: usize) -> Result<f64> {
    let meter = Meter::thread();
    let mut at = position;
    while at < position + size_bytes {
        file.write_all_at(piece, at as u64)?;
        at += piece.len();
    }
    Ok(meter.cpu_seconds() * GIB / (at - position) as f64)
}

fn open(path: &Path, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).custom_flags(flags);
    options.open(path).with_context(|| format!("opening {} for direct writes", path.display()))
}

/// Memory that begins at a multiple of [`ALIGNMENT`].
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

fn random(length: usize) -> Result<Aligned> {
    let mut memory = vec![0; length + ALIGNMENT];
    memory.copy_from_slice(Ring::random(length + ALIGNMENT)?.next(length + ALIGNMENT));
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    ensure!(start < ALIGNMENT, "memory cannot be aligned");
    Ok(Aligned { memory, start, length })
}
