//! The writer thread: rounds, the order of completions, and failures.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropewalk_disk::{Disk, Fault, File, Lock, Open, Operation, SimDisk};
use ropewalk_wal::{
    Options, ROUND_BYTES_MAX, Record, ReplicaKey, RoundReport, Submission, Wal, WalError,
    WalHandle, Writer,
};

const KEY: ReplicaKey = ReplicaKey { shard: 1, replica: 1 };
const OPTIONS: Options = Options {
    file_bytes: 256 << 10,
    first_file_bytes: 256 << 10,
    files_bytes_max: 16 << 20,
    spares_max: 4,
    prefilled: 0,
};
const PATIENCE: Duration = Duration::from_secs(30);

type Answers = mpsc::Receiver<(u64, Result<(), Arc<WalError>>)>;

struct Bench {
    handle: WalHandle,
    rounds: Arc<Mutex<Vec<RoundReport>>>,
    done: mpsc::Sender<(u64, Result<(), Arc<WalError>>)>,
    answers: Answers,
}

impl Bench {
    fn new(disk: &SimDisk, options: Options) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (wal, _) = Wal::open(disk, Path::new("/wal"), options).expect("a healthy disk");
        let rounds = Arc::new(Mutex::new(Vec::new()));
        let reports = Arc::clone(&rounds);
        let report = move |round: &RoundReport| reports.lock().expect("no panic").push(*round);
        let handle =
            Writer::spawn(wal, ropewalk_wal::Answers::give, report).expect("threads start");
        let (done, answers) = mpsc::channel();
        Self { handle, rounds, done, answers }
    }

    /// A submission that reports its result with a number.
    fn submission(&self, number: u64, records: Vec<Record>) -> Submission {
        let done = self.done.clone();
        Submission::new(records, move |result| {
            // The test may have stopped waiting.
            let _ = done.send((number, result));
        })
    }

    fn submit(&self, number: u64, records: Vec<Record>) {
        self.handle.submit(self.submission(number, records));
    }

    fn answer(&self) -> (u64, Result<(), Arc<WalError>>) {
        self.answers.recv_timeout(PATIENCE).expect("every submission is completed")
    }

    /// Blocks the writer thread inside a completion until the sender is used or dropped.
    fn hold(&self) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel::<()>();
        let (held, holding) = mpsc::channel();
        self.handle.submit(Submission::new(vec![created()], move |_| {
            held.send(()).expect("the test waits");
            let _ = wait.recv();
        }));
        holding.recv_timeout(PATIENCE).expect("the writer runs");
        go
    }
}

fn created() -> Record {
    Record::Created { key: KEY, index: 1, term: 1, conf_state: Bytes::new() }
}

fn entry(index: u64, len: usize) -> Record {
    let data = Bytes::from(vec![1; len]).into();
    Record::Entry { key: KEY, index, term: 1, kind: 0, data }
}

#[test]
fn what_queues_while_a_round_is_written_becomes_one_round_in_order() {
    let bench = Bench::new(&SimDisk::new(0), OPTIONS);
    let go = bench.hold();
    for index in 2..102 {
        bench.submit(index, vec![entry(index, 100)]);
    }
    drop(go);
    for index in 2..102 {
        let (number, result) = bench.answer();
        assert_eq!(number, index);
        result.unwrap();
    }
    bench.handle.close();
    let rounds = bench.rounds.lock().unwrap();
    let sizes: Vec<_> = rounds.iter().map(|round| round.submissions).collect();
    assert_eq!(sizes, [1, 100]);
}

#[test]
fn a_round_has_a_bound_and_a_larger_submission_goes_alone() {
    let options = Options { file_bytes: 16 << 20, files_bytes_max: 256 << 20, ..OPTIONS };
    let bench = Bench::new(&SimDisk::new(0), options);
    let go = bench.hold();
    for index in 2..12 {
        bench.submit(index, vec![entry(index, 1 << 20)]);
    }
    bench.submit(12, vec![entry(12, 6 << 20)]);
    bench.submit(13, vec![entry(13, 100)]);
    bench.submit(14, vec![entry(14, 20 << 20)]);
    bench.submit(15, vec![entry(14, 10)]);
    drop(go);
    for number in 2..16 {
        let (answered, result) = bench.answer();
        match result {
            Ok(()) => assert_ne!(answered, 14),
            Err(error) => {
                assert_eq!(answered, 14, "{number}: {error}");
                assert!(matches!(*error, WalError::TooLarge { .. }), "{error}");
            }
        }
    }
    bench.handle.close();
    let rounds = bench.rounds.lock().unwrap();
    let (alone, bounded): (Vec<RoundReport>, Vec<RoundReport>) =
        rounds.iter().copied().partition(|round| round.bytes > ROUND_BYTES_MAX);
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0].submissions, 1);
    assert!(bounded.len() < 8, "{bounded:?}");
}

#[test]
fn d2_after_a_failed_sync_everybody_gets_the_error_now_and_later() {
    let disk = SimDisk::new(0);
    let bench = Bench::new(&disk, OPTIONS);
    let go = bench.hold();
    disk.inject(Fault { why: "wal-round", ..Fault::next(Operation::Sync) });
    for index in 2..5 {
        bench.submit(index, vec![entry(index, 100)]);
    }
    drop(go);
    for _ in 2..5 {
        let error = bench.answer().1.unwrap_err();
        assert!(matches!(*error, WalError::Failed(_)), "{error}");
    }
    bench.submit(5, vec![entry(2, 100)]);
    let error = bench.answer().1.unwrap_err();
    assert!(error.is_final(), "{error}");
    assert!(bench.handle.stats().failed);
    assert!(bench.handle.pinned_by_oldest().is_empty());
    bench.handle.close();
}

#[test]
fn on_a_full_disk_only_the_reserve_is_written_and_space_is_noticed_again() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(900 << 10));
    let bench = Bench::new(&disk, OPTIONS);
    bench.submit(1, vec![created()]);
    bench.answer().1.unwrap();
    let mut last = 1;
    let refused = loop {
        bench.submit(0, vec![entry(last + 1, 10_000)]);
        match bench.answer().1 {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(*refused, WalError::Full { .. }), "{refused}");
    let stats = bench.handle.stats();
    assert!(stats.full && stats.disk_full, "{stats:?}");

    // In one collected round: refused, refused because of that, and written.
    let held_from = bench.submission(3, vec![Record::Truncated { key: KEY, index: last, term: 1 }]);
    bench.submit(1, vec![entry(last + 1, 10_000)]);
    bench.submit(2, vec![entry(last + 2, 10_000)]);
    bench.handle.submit(held_from.from_reserve());
    let answers: Vec<_> = (0..3).map(|_| bench.answer()).collect();
    for (number, result) in answers {
        assert_eq!(result.is_ok(), number == 3, "{number}: {result:?}");
    }

    // Space is freed while no submission arrives; the writer notices it.
    disk.set_capacity(None);
    let began = Instant::now();
    while bench.handle.stats().full {
        assert!(began.elapsed() < PATIENCE, "{:?}", bench.handle.stats());
        std::thread::sleep(Duration::from_millis(50));
    }
    bench.submit(4, vec![entry(last + 1, 10_000)]);
    bench.answer().1.unwrap();
}

/// A delete that comes together with a large batch must not be refused because of it.
#[test]
fn a_large_submission_does_not_keep_a_small_one_out_of_the_reserve() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(900 << 10));
    let bench = Bench::new(&disk, OPTIONS);
    let other = ReplicaKey { shard: 2, replica: 1 };
    let conf_state = Bytes::new();
    let created_other = Record::Created { key: other, index: 1, term: 1, conf_state };
    bench.submit(1, vec![created(), created_other]);
    bench.answer().1.unwrap();
    let mut last = 1;
    loop {
        let more = bench.submission(0, vec![entry(last + 1, 30_000)]).from_reserve();
        bench.handle.submit(more);
        if bench.answer().1.is_err() {
            break;
        }
        last += 1;
    }
    let data = Bytes::from_static(b"close").into();
    let close = Record::Entry { key: other, index: 2, term: 1, kind: 0, data };
    let go = bench.hold();
    bench.handle.submit(bench.submission(1, vec![entry(last + 1, 30_000)]).from_reserve());
    bench.handle.submit(bench.submission(2, vec![close]).from_reserve());
    bench.handle.submit(bench.submission(3, vec![entry(last + 2, 10)]).from_reserve());
    drop(go);
    for _ in 0..3 {
        let (number, result) = bench.answer();
        assert_eq!(result.is_ok(), number == 2, "{number}: {result:?}");
    }
    bench.handle.close();
}

/// Consumers continue to commit while producers are refused: a log without idle time recovers, too.
#[test]
fn r1_a_file_that_could_not_be_created_is_tried_again_while_others_write() {
    let disk = SimDisk::new(0);
    let options = Options { file_bytes: 4 << 20, files_bytes_max: 64 << 20, ..OPTIONS };
    let bench = Bench::new(&disk, options);
    let wait_for = |what: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < PATIENCE, "{:?}", bench.handle.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // The first file, two spare files, and two for the next starts.
    wait_for(&|| {
        bench.handle.stats().bytes == 3 * OPTIONS.first_file_bytes + 2 * options.file_bytes
    });
    let (kind, path_contains) = (std::io::ErrorKind::OutOfMemory, "creating-".to_owned());
    disk.inject(Fault { kind, path_contains, ..Fault::next(Operation::Create) });
    bench.submit(1, vec![created(), entry(2, 150_000)]);
    bench.answer().1.unwrap();
    bench.submit(2, vec![entry(3, 150_000)]);
    bench.answer().1.unwrap();
    wait_for(&|| bench.handle.is_full());

    let began = Instant::now();
    let mut index = 3;
    while bench.handle.is_full() {
        assert!(began.elapsed() < 5 * Duration::from_secs(1), "{:?}", bench.handle.stats());
        index += 1;
        bench.handle.submit(bench.submission(index, vec![entry(index, 100)]).from_reserve());
        bench.answer().1.unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.submit(0, vec![entry(index + 1, 100)]);
    bench.answer().1.unwrap();
}

#[test]
fn a_log_at_its_own_limit_is_full_and_the_disk_is_not() {
    let disk = SimDisk::new(0);
    let options = Options { files_bytes_max: 4 * OPTIONS.file_bytes, ..OPTIONS };
    let bench = Bench::new(&disk, options);
    bench.submit(1, vec![created()]);
    bench.answer().1.unwrap();
    let mut last = 1;
    let refused = loop {
        bench.submit(0, vec![entry(last + 1, 10_000)]);
        match bench.answer().1 {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(*refused, WalError::Full { .. }), "{refused}");
    let stats = bench.handle.stats();
    assert!(stats.full && !stats.disk_full, "{stats:?}");
}

/// A burst after a pause finds more files than the two that are always there.
#[test]
fn files_are_created_in_advance_while_the_log_is_idle_and_the_disk_has_room() {
    let wait_for = |bench: &Bench, files: u64| {
        let began = Instant::now();
        // The first file, the spare files, and two for the next starts, all of one size.
        while bench.handle.stats().bytes < (3 + files) * OPTIONS.file_bytes {
            assert!(began.elapsed() < PATIENCE, "{:?}", bench.handle.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let bench = Bench::new(&SimDisk::new(0), Options { prefilled: 4, ..OPTIONS });
    wait_for(&bench, 4);
    bench.handle.close();
    assert_eq!(bench.handle.stats().bytes, 7 * OPTIONS.file_bytes);

    // Much room is eight times the size of a file.
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(11 * OPTIONS.file_bytes));
    let bench = Bench::new(&disk, Options { prefilled: 4, ..OPTIONS });
    wait_for(&bench, 2);
    bench.submit(1, vec![created()]);
    bench.answer().1.unwrap();
    assert!(!bench.handle.is_full());
    bench.handle.close();
    assert_eq!(bench.handle.stats().bytes, 5 * OPTIONS.file_bytes);
}

/// Writes until eight files are full, then releases them.
fn fill_and_release(bench: &Bench) {
    bench.submit(1, vec![created()]);
    bench.answer().1.expect("there is space");
    let mut index = 1;
    while bench.handle.stats().files < 9 {
        index += 1;
        bench.submit(index, vec![entry(index, 50_000)]);
        bench.answer().1.expect("there is space");
    }
    bench.submit(0, vec![Record::Truncated { key: KEY, index, term: 1 }]);
    bench.answer().1.expect("there is space");
    bench.handle.release([(KEY, index + 1)].into());
    while bench.handle.stats().files > 1 {
        // A round, so that the log is not idle.
        bench.submit(0, vec![entry(index + 1, 100)]);
        bench.answer().1.expect("there is space");
    }
}

/// To create a file again takes as much of the disk as the records, and to remove one may stop it.
#[test]
fn a_log_keeps_its_released_files_until_it_is_idle() {
    let bench = Bench::new(&SimDisk::new(0), OPTIONS);
    fill_and_release(&bench);
    // Longer than it takes to release them, with rounds, so that the log is not idle.
    for _ in 0..20 {
        bench.submit(0, vec![Record::Truncated { key: KEY, index: 2, term: 1 }]);
        bench.answer().1.unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // Those that were full, the active one, one or two spare files and two for the next starts.
    let kept = bench.handle.stats().bytes / OPTIONS.file_bytes;
    assert!(kept >= 8 + 1 + 1 + 2, "{kept} files");
    let began = Instant::now();
    let idle = (1 + OPTIONS.spares_max as u64 + 2) * OPTIONS.file_bytes;
    while bench.handle.stats().bytes > idle {
        assert!(began.elapsed() < PATIENCE, "{:?}", bench.handle.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    bench.handle.close();
    assert_eq!(bench.handle.stats().bytes, idle, "it keeps those that its options state");
}

#[test]
fn a_log_on_a_disk_with_little_room_keeps_no_more_files_than_an_idle_one() {
    let disk = SimDisk::new(0);
    // Of its 13 files it removes six, and much room would be eight.
    disk.set_capacity(Some(14 * OPTIONS.file_bytes));
    let bench = Bench::new(&disk, OPTIONS);
    fill_and_release(&bench);
    let began = Instant::now();
    let most = (1 + OPTIONS.spares_max as u64 + 2) * OPTIONS.file_bytes;
    while bench.handle.stats().bytes > most {
        assert!(began.elapsed() < PATIENCE, "{:?}", bench.handle.stats());
        // Without rounds it would be idle.
        bench.submit(0, vec![Record::Truncated { key: KEY, index: 2, term: 1 }]);
        bench.answer().1.unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn d4_closing_seals_what_was_written() {
    let disk = SimDisk::new(0);
    let bench = Bench::new(&disk, OPTIONS);
    bench.submit(1, vec![created()]);
    bench.answer().1.unwrap();
    let path = Path::new("/wal/0000000000000001.wal");
    let mut content = disk.content(path).expect("the first file");
    bench.submit(2, vec![entry(2, 100)]);
    bench.answer().1.unwrap();
    bench.handle.close();
    // The last round vanishes.
    let label = disk.content(path).expect("the first file");
    content[..8192].copy_from_slice(&label[..8192]);
    disk.put(path, content);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (_, recovered) = Wal::open(shared, Path::new("/wal"), OPTIONS).expect("it opens");
    assert!(recovered.replicas[&KEY].damage.is_some());
}

#[test]
fn closing_writes_what_is_queued_and_refuses_the_rest() {
    let disk = SimDisk::new(0);
    let bench = Bench::new(&disk, OPTIONS);
    let go = bench.hold();
    bench.submit(2, vec![entry(2, 100)]);
    let handle = bench.handle.clone();
    let closing = std::thread::spawn(move || handle.close());
    // Submitted or refused, depending on the order; completed in any case.
    bench.submit(3, vec![entry(3, 100)]);
    drop(go);
    closing.join().unwrap();
    let mut answers = [bench.answer(), bench.answer()];
    answers.sort_by_key(|(number, _)| *number);
    let [(_, second), (_, third)] = answers;
    second.unwrap();
    bench.submit(4, vec![entry(4, 100)]);
    assert!(matches!(*bench.answer().1.unwrap_err(), WalError::Closed));

    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (_, recovered) = Wal::open(shared, Path::new("/wal"), OPTIONS).unwrap();
    assert_eq!(recovered.replicas[&KEY].entries.len(), 1 + usize::from(third.is_ok()));
}

#[test]
fn dropping_the_last_handle_still_writes_what_is_queued() {
    let bench = Bench::new(&SimDisk::new(0), OPTIONS);
    bench.submit(1, vec![created()]);
    bench.submit(2, vec![entry(2, 100)]);
    let Bench { handle, answers, .. } = bench;
    drop(handle);
    for _ in 0..2 {
        answers.recv_timeout(PATIENCE).unwrap().1.unwrap();
    }
}

#[test]
fn a_panic_in_an_answer_leaves_nobody_waiting() {
    let bench = Bench::new(&SimDisk::new(0), OPTIONS);
    let go = bench.hold();
    bench.handle.submit(Submission::new(vec![entry(2, 10)], |_| panic!("as the test wants")));
    bench.submit(3, vec![entry(3, 10)]);
    drop(go);
    bench.answer().1.expect("it is as durable as the one before it in the round");
    bench.submit(4, vec![entry(4, 10)]);
    assert!(matches!(*bench.answer().1.unwrap_err(), WalError::Closed));
    assert!(bench.handle.stats().failed);
}

#[test]
fn a_reader_reads_while_the_log_is_written_and_says_when_a_file_is_gone() {
    let disk = SimDisk::new(0);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut wal, _) = Wal::open(Arc::clone(&shared), Path::new("/wal"), OPTIONS).unwrap();
    wal.write_round(&[created(), entry(2, 5000)]).unwrap();
    drop(wal);
    let (wal, recovered) = Wal::open(shared, Path::new("/wal"), OPTIONS).unwrap();
    let reader = wal.reader();
    let location = recovered.replicas[&KEY].entries[0].location;
    let handle = Writer::spawn(wal, ropewalk_wal::Answers::give, |_| {}).unwrap();
    assert_eq!(reader.read(&location).unwrap(), vec![1; 5000]);
    let (done, answered) = mpsc::channel();
    for index in 3..200 {
        let done = done.clone();
        let records = vec![entry(index, 5000), Record::Truncated { key: KEY, index, term: 1 }];
        handle.submit(Submission::new(records, move |result| done.send(result).unwrap()));
        answered.recv_timeout(PATIENCE).unwrap().unwrap();
        handle.release([(KEY, index + 1)].into());
    }
    handle.close();
    assert_eq!(reader.read(&location).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

/// A disk on which creating a file panics from some moment on.
#[derive(Debug)]
struct Panicking {
    disk: SimDisk,
    panics: std::sync::atomic::AtomicBool,
}

impl Disk for Panicking {
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir(path)
    }
    fn open(&self, path: &Path, how: Open) -> std::io::Result<Arc<dyn File>> {
        self.disk.open(path, how)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        self.disk.exists(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path, why: &'static str) -> std::io::Result<()> {
        self.disk.sync_dir(dir, why)
    }
    fn write_back(&self, dir: &Path) {
        self.disk.write_back(dir);
    }
    fn lock(&self, path: &Path) -> std::io::Result<Lock> {
        self.disk.lock(path)
    }
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        let panics = self.panics.load(std::sync::atomic::Ordering::Acquire);
        assert!(!panics, "as the test wants");
        self.disk.free_bytes(path)
    }
    fn draw(&self) -> u64 {
        self.disk.draw()
    }
    fn sync_counts(&self) -> std::collections::BTreeMap<&'static str, u64> {
        self.disk.sync_counts()
    }
}

#[test]
fn a_panic_of_the_thread_that_prepares_files_leaves_nobody_waiting() {
    let panics = std::sync::atomic::AtomicBool::new(false);
    let disk = Arc::new(Panicking { disk: SimDisk::new(0), panics });
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
    let (wal, _) = Wal::open(shared, Path::new("/wal"), OPTIONS).expect("a healthy disk");
    let handle = Writer::spawn(wal, ropewalk_wal::Answers::give, |_| {}).expect("threads start");
    let (done, answers) = mpsc::channel();
    let submit = |records| {
        let done = done.clone();
        handle.submit(Submission::new(records, move |result| done.send(result).expect("it waits")));
        answers.recv_timeout(PATIENCE).expect("every submission is completed")
    };
    submit(vec![created()]).expect("durable");
    disk.panics.store(true, std::sync::atomic::Ordering::Release);
    // Until the existing files are used up.
    let error = (2..200).find_map(|index| submit(vec![entry(index, 20_000)]).err());
    let error = error.expect("there is no further file");
    assert!(error.is_final(), "{error}");
    assert!(handle.stats().failed);
    handle.close();
}
