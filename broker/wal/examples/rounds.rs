//! Measures the throughput of the log through its threads: durable submissions per second.
//!
//! `cargo run --release -p ropewalk-wal --example rounds -- DIR [SECONDS]`
//!
//! Every submitter has one submission in flight. Only an empty log remains in DIR.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropewalk_disk::{Direct, Disk, Options as DiskOptions, RealDisk};
use ropewalk_wal::{Answers, Options, Record, ReplicaKey, Submission, Wal, WalHandle, Writer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "wal.tmp".to_owned());
    let seconds = std::env::args().nth(2).map_or(Ok(3), |text| text.parse())?;
    println!(
        "direct submitters  bytes  submissions/s  rounds/s  MB/s  p50 µs  p99 µs  cpu µs each"
    );
    for (submitters, bytes) in [(1, 100), (1, 16 << 10), (64, 100), (64, 1 << 10), (64, 16 << 10)] {
        for direct in [Direct::Auto, Direct::Off] {
            measure(Path::new(&dir), direct, (submitters, bytes), Duration::from_secs(seconds))?;
        }
    }
    Ok(())
}

fn measure(
    dir: &Path,
    direct: Direct,
    (submitters, bytes): (u32, usize),
    time: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(DiskOptions { direct }));
    let (wal, _) = Wal::open(disk, dir, Options::default())?;
    let handle = Writer::spawn(wal, Answers::give, |_| {})?;
    std::thread::sleep(Duration::from_millis(500));
    let stop = Arc::new(AtomicBool::new(false));
    let lasts = Arc::new((0..submitters).map(|_| AtomicU64::new(1)).collect::<Vec<_>>());
    let cpu = cpu_micros();
    let began = Instant::now();
    let threads: Vec<_> = (0..submitters)
        .map(|shard| {
            let (handle, stop, lasts) = (handle.clone(), Arc::clone(&stop), Arc::clone(&lasts));
            std::thread::spawn(move || {
                submit(&handle, &stop, &lasts[shard as usize], (shard, bytes))
            })
        })
        .collect();
    let mut checkpoints = 0;
    while began.elapsed() < time {
        std::thread::sleep(Duration::from_millis(200));
        checkpoints += 1;
        truncate(&handle, &lasts);
    }
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| "a submitter panicked")?);
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = (cpu_micros() - cpu) as f64 / times.len() as f64;
    times.sort_unstable();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    let stats = handle.stats();
    let rounds = (stats.rounds - checkpoints) as f64 / took;
    let rate = times.len() as f64 / took;
    println!(
        "{direct:>6?} {submitters:>10} {bytes:>6} {rate:>14.0} {rounds:>9.0} {:>5.0} {:>7.0} {:>7.0} {cpu:>12.1}",
        rate * bytes as f64 / 1e6,
        micros(times.len() / 2),
        micros(times.len() * 99 / 100),
    );
    handle.close();
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn key(shard: u32) -> ReplicaKey {
    ReplicaKey { shard, replica: 1 }
}

/// Submits one entry after another and returns the latency of each.
fn submit(
    handle: &WalHandle,
    stop: &AtomicBool,
    last: &AtomicU64,
    (shard, bytes): (u32, usize),
) -> Vec<Duration> {
    let payload = Bytes::from(vec![7; bytes]);
    let (told, durable) = mpsc::channel();
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let index = last.load(Ordering::Relaxed) + 1;
        let data = payload.clone().into();
        let record = Record::Entry { key: key(shard), index, term: 1, kind: 0, data };
        let first =
            Record::Created { key: key(shard), index: 1, term: 1, conf_state: Bytes::new() };
        let records = if index == 2 { vec![first, record] } else { vec![record] };
        let told = told.clone();
        let began = Instant::now();
        handle.submit(Submission::new(records, move |result| {
            told.send(result.is_ok()).expect("the submitter waits");
        }));
        assert!(durable.recv().expect("an answer"), "the log refuses");
        times.push(began.elapsed());
        last.store(index, Ordering::Relaxed);
    }
    times
}

/// Simulates a checkpoint of all shards.
fn truncate(handle: &WalHandle, lasts: &[AtomicU64]) {
    let lasts: Vec<_> =
        (0..).zip(lasts).map(|(shard, last)| (key(shard), last.load(Ordering::Relaxed))).collect();
    let records = lasts
        .iter()
        .filter(|(_, last)| *last > 1)
        .map(|(key, index)| Record::Truncated { key: *key, index: *index, term: 1 })
        .collect();
    handle.submit(Submission::new(records, |_| {}));
    handle.release(lasts.into_iter().map(|(key, last)| (key, last + 1)).collect());
}

/// Resource usage of this process so far.
///
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks * 10_000
}
