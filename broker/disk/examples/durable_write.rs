//! Measures the latency of durable writes, with and without the page cache.
//!
//! `cargo run --release -p ropewalk-disk --example durable_write -- DIR`
//!
//! The modes are interleaved, so that other load on the machine affects both. All files are
//! removed.

use std::path::Path;
use std::time::{Duration, Instant};

use ropewalk_disk::{Aligned, Direct, Disk, Open, Options, RealDisk};

const FILE_BYTES: u64 = 64 << 20;

fn main() -> std::io::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let modes = [Direct::On, Direct::Off];
    println!("{:>8} {:>6} {:>9} {:>9} {:>9}", "bytes", "direct", "p50 µs", "p99 µs", "MB/s");
    for size in [4 << 10, 64 << 10, 1 << 20] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            for (mode, times) in modes.into_iter().zip(&mut times) {
                times.extend(measure(Path::new(&dir), mode, size)?);
            }
        }
        for (mode, mut times) in modes.into_iter().zip(times) {
            times.sort_unstable();
            let micros = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1e6;
            let total: Duration = times.iter().sum();
            let rate = (size * times.len()) as f64 / total.as_secs_f64() / 1e6;
            let (p50, p99) = (micros(times.len() / 2), micros(times.len() * 99 / 100));
            println!("{size:>8} {:>6} {p50:>9.0} {p99:>9.0} {rate:>9.0}", format!("{mode:?}"));
        }
    }
    Ok(())
}

/// Overwrites a preallocated file once (or with 500 writes) and returns the duration of each write.
fn measure(dir: &Path, direct: Direct, size: usize) -> std::io::Result<Vec<Duration>> {
    let disk = RealDisk::new(Options { direct });
    let path = dir.join("durable_write.tmp");
    disk.open(&path, Open::CreateOrTruncate)?.preallocate(FILE_BYTES, &mut |_| {})?;
    let file = disk.open(&path, Open::Durable)?;
    let mut buffer = Aligned::with_capacity(size);
    buffer.resize(size);
    buffer.fill(7);
    let mut times = Vec::new();
    for at in (0..FILE_BYTES).step_by(size).take(500) {
        let began = Instant::now();
        file.write_durable_at(&buffer, at, "measure")?;
        times.push(began.elapsed());
    }
    disk.remove(&path)?;
    Ok(times)
}
