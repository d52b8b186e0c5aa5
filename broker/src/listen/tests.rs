//! Raw sockets against the listener, with a service that does as each frame says.
//!
//! A frame is `[what][milliseconds / 10][anything]`; its answer repeats it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// More than the kernel takes off our hands for a client that does not read.
const ANSWER_BYTES: usize = 24 << 20;

/// The largest `J`.
const JOIN_BYTES_MAX: usize = 900_000;

/// What the budget for bulk has.
const BULK_BYTES: usize = 4 << 20;

const SOON: Duration = Duration::from_secs(10);

/// What [`Echo`] has seen.
#[derive(Debug, Default)]
struct Seen {
    begun: AtomicUsize,
    /// First stages that ran while another first stage of a connection did.
    beginning: AtomicUsize,
    overlapped: AtomicUsize,
    answered: AtomicUsize,
    dropped: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
struct Echo(Arc<Seen>);

/// Counts what never came to its end.
struct Waiting(Arc<Seen>, bool);

impl Waiting {
    fn end(mut self) {
        self.1 = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let counter = if self.1 { &self.0.answered } else { &self.0.dropped };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service for Echo {
    fn accept(&self, peer: &Arc<Peer>, frame: Bytes, share: Share) -> Result<Request, Close> {
        let seen = Arc::clone(&self.0);
        let turn = match frame[0] {
            b'P' | b'N' | b'E' | b'O' => Turn::Pipelined,
            b'K' | b'F' | b'J' => Turn::Parked,
            b'X' => return Err(Close::UnknownApi(-1)),
            _ => Turn::Alone,
        };
        let lane = match frame[0] {
            b'P' | b'N' | b'E' | b'O' => Lane::Bulk,
            b'F' => Lane::Fetch,
            _ => Lane::Small,
        };
        let pause = match frame.get(1) {
            None => Duration::ZERO,
            // Longer than any test.
            Some(0xff) => Duration::from_secs(3600),
            Some(byte) => Duration::from_millis(10 * u64::from(*byte)),
        };
        let order = peer.order.clone();
        let begin = async move {
            if frame[0] == b'O' {
                order.end();
            }
            let waiting = Waiting(Arc::clone(&seen), false);
            seen.begun.fetch_add(1, Ordering::SeqCst);
            let others = seen.beginning.fetch_add(1, Ordering::SeqCst);
            seen.overlapped.fetch_add(others, Ordering::SeqCst);
            tokio::task::yield_now().await;
            seen.beginning.fetch_sub(1, Ordering::SeqCst);
            let answer = async move {
                if frame[0] == b'J' {
                    share.release();
                }
                sleep(pause).await;
                waiting.end();
                match frame[0] {
                    b'N' => Ok(Reply::default()),
                    b'E' => Err(Close::Unanswerable { code: 6 }),
                    b'B' => {
                        Ok(Reply { chunks: vec![Bytes::from(vec![0; ANSWER_BYTES])], held: vec![] })
                    }
                    _ => Ok(Reply { chunks: framed(&frame), held: vec![] }),
                }
            };
            Ok(answer.boxed())
        };
        Ok(Request { turn, lane, begin: begin.boxed() })
    }

    fn check_size(&self, key: i16, size_bytes: usize) -> Result<(), Close> {
        if key.to_be_bytes()[0] == b'J' && size_bytes > JOIN_BYTES_MAX {
            return Err(Close::FrameTooLarge { size_bytes, size_bytes_max: JOIN_BYTES_MAX });
        }
        Ok(())
    }
}

/// Length and body as separate chunks, as answers have them.
fn framed(body: &[u8]) -> Vec<Bytes> {
    let length = u32::try_from(body.len()).expect("small").to_be_bytes();
    vec![Bytes::copy_from_slice(&length), Bytes::copy_from_slice(body)]
}

#[derive(Debug)]
struct Limits(AtomicUsize, usize);

impl Limits {
    fn new(all: usize, per_ip: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(all), per_ip))
    }
}

impl ConnectionLimits for Limits {
    fn connections_max(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn connections_per_ip_max(&self) -> usize {
        self.1
    }
}

fn options() -> Options {
    Options {
        frame_bytes_max: 1 << 20,
        idle_max: SOON,
        frame_time_max: SOON,
        write_time_max: SOON,
        limits: Limits::new(100, 100),
    }
}

/// What all budgets have together.
fn all_bytes() -> usize {
    Lanes::new(BULK_BYTES).free_bytes()
}

/// A listener that runs, and what it serves.
struct Served {
    address: SocketAddr,
    seen: Arc<Seen>,
    lanes: Lanes,
    metrics: metrics::Metrics,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn served(options: Options) -> Served {
    let echo = Echo::default();
    let seen = Arc::clone(&echo.0);
    let lanes = Lanes::new(BULK_BYTES);
    let metrics = metrics::Metrics::default();
    let (stopping, stop) = watch::channel(false);
    let service = Arc::new(echo);
    let acceptor = Acceptor::new(service, options, lanes.clone(), metrics.clone(), stop);
    let listener = Acceptor::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(acceptor.run(listener, "TEST".into()));
    Served { address, seen, lanes, metrics, stopping, task }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    fn closed(&self, reason: &'static str) -> u64 {
        self.metrics.closed.get_or_create(&metrics::Closed { reason }).get()
    }

    /// Everything that was taken from the budget is back once the connections are gone.
    async fn settles(&self) {
        eventually(|| self.metrics.open.get() == 0 && self.lanes.free_bytes() == all_bytes()).await;
    }
}

async fn eventually(mut is: impl FnMut() -> bool) {
    let due = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < due, "it never came to be");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn send(stream: &mut TcpStream, frames: &[&[u8]]) {
    let mut bytes = BytesMut::new();
    for frame in frames {
        bytes.put_u32(u32::try_from(frame.len()).expect("small"));
        bytes.put_slice(frame);
    }
    stream.write_all(&bytes).await.expect("sent");
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let answer = async {
        let length = stream.read_u32().await.expect("an answer");
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.expect("the whole answer");
        body
    };
    timeout(SOON, answer).await.expect("in time")
}

/// Reads until the broker closes; what came before.
async fn closes(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    // A reset is a close as well.
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it closes");
    rest.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn o2_answers_leave_in_the_order_of_requests_however_they_come() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    // The slowest first, then a request that must wait for all of them, then more.
    send(
        &mut stream,
        &[b"P\x14a", b"P\x0ab", b"P\x00c", b"A\x00d", b"P\x05e", b"A\x01f", b"P\x00g"],
    )
    .await;
    for expected in [b'a', b'b', b'c', b'd', b'e', b'f', b'g'] {
        assert_eq!(receive(&mut stream).await[2], expected);
    }
    assert_eq!(served.seen.overlapped.load(Ordering::SeqCst), 0, "first stages run one by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn o2_pipelined_requests_are_under_way_together_and_others_alone() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    let begun = || served.seen.begun.load(Ordering::SeqCst);
    let slow: Vec<&[u8]> = vec![b"P\x32"; 200];
    send(&mut stream, &slow).await;
    eventually(|| begun() == limits_in_flight()).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(begun(), limits_in_flight(), "the rest waits");
    for _ in 0..200 {
        receive(&mut stream).await;
    }
    send(&mut stream, &[b"A\x0a", b"A\x00"]).await;
    eventually(|| begun() == 201).await;
    sleep(Duration::from_millis(30)).await;
    assert_eq!(begun(), 201, "one alone");
    receive(&mut stream).await;
    receive(&mut stream).await;
    drop(stream);
    served.settles().await;
}

fn limits_in_flight() -> usize {
    crate::limits::REQUESTS_IN_FLIGHT_MAX
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_whole_however_they_are_cut() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    let large: Vec<u8> = [b"P\x00".as_slice(), &[7; 300_000]].concat();
    let mut bytes = Vec::new();
    for body in [b"P\x00x".as_slice(), &large, b"A\x00y", &large, &large] {
        bytes.extend_from_slice(&u32::try_from(body.len()).expect("small").to_be_bytes());
        bytes.extend_from_slice(body);
    }
    let mut writer = bytes.as_slice();
    let mut size = 1;
    let (mut read, mut write) = stream.split();
    let sending = async {
        while !writer.is_empty() {
            let (now, later) = writer.split_at(size.min(writer.len()));
            write.write_all(now).await.expect("sent");
            writer = later;
            size = (size * 3 + 1).min(50_000);
            tokio::task::yield_now().await;
        }
    };
    let mut answers = vec![0; bytes.len()];
    let receiving = async { read.read_exact(&mut answers).await.expect("all come back") };
    timeout(SOON, async { tokio::join!(sending, receiving) }).await.expect("in time");
    assert_eq!(answers, bytes);
    drop(stream);
    served.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_answer_leaves_no_gap() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"N\x01", b"P\x00a", b"N\x00", b"A\x00b"]).await;
    assert_eq!(receive(&mut stream).await[2], b'a');
    assert_eq!(receive(&mut stream).await[2], b'b');
    // What was sent before the client went is carried out all the same.
    send(&mut stream, &[b"A\x02", b"N\x00", b"N\x00", b"N\x00"]).await;
    drop(stream);
    eventually(|| served.seen.answered.load(Ordering::SeqCst) == 8).await;
    served.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_none_or_too_large_close_after_what_came_before() {
    for (length, reason) in [(0_i32, "frame_size"), (-1, "frame_size"), (i32::MAX, "frame_size")] {
        let served = served(options()).await;
        let mut stream = served.connect().await;
        send(&mut stream, &[b"P\x02a"]).await;
        stream.write_all(&length.to_be_bytes()).await.expect("sent");
        assert_eq!(receive(&mut stream).await, b"P\x02a");
        assert_eq!(closes(&mut stream).await, 0);
        served.settles().await;
        assert_eq!(served.closed(reason), 1, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_closes_after_the_answers_before_it() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"P\x05a", b"X", b"P\x00b"]).await;
    assert_eq!(receive(&mut stream).await[2], b'a');
    assert_eq!(closes(&mut stream).await, 0);

    let mut stream = served.connect().await;
    send(&mut stream, &[b"P\x05a", b"E\x00", b"P\x00b"]).await;
    assert_eq!(receive(&mut stream).await[2], b'a');
    assert_eq!(closes(&mut stream).await, 0);
    served.settles().await;
    assert_eq!((served.closed("not_served"), served.closed("unanswerable")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_behind_a_batch_that_was_not_taken_and_the_answers_that_are_due_leave() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"P\x05a", b"O\x03b", b"P\x00c", b"A\x00d"]).await;
    assert_eq!(receive(&mut stream).await[2], b'a');
    assert_eq!(receive(&mut stream).await[2], b'b');
    assert_eq!(closes(&mut stream).await, 0);
    served.settles().await;
    assert_eq!(served.closed("out_of_order"), 1);
    assert_eq!(served.seen.begun.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_length_alone_takes_no_memory_and_a_slow_frame_is_cut() {
    let served = served(Options { frame_time_max: Duration::from_secs(2), ..options() }).await;
    let mut lorises = Vec::new();
    for _ in 0..50 {
        let mut stream = served.connect().await;
        stream.write_all(&(1_000_000_u32).to_be_bytes()).await.expect("sent");
        stream.write_all(b"P").await.expect("sent");
        lorises.push(stream);
    }
    eventually(|| served.metrics.open.get() == 50).await;
    let taken = all_bytes() - served.lanes.free_bytes();
    assert!(taken <= 50 * crate::limits::FRAME_BYTES_FIRST, "{taken} bytes for 50 bytes received");
    let mut honest = served.connect().await;
    send(&mut honest, &[&[b'P'; 200_000]]).await;
    let began = Instant::now();
    for loris in &mut lorises {
        // A byte now and then does not help.
        let _ = loris.write_all(b"x").await;
        closes(loris).await;
    }
    assert!(began.elapsed() < SOON / 2);
    assert_eq!(receive(&mut honest).await.len(), 200_000);
    drop(honest);
    served.settles().await;
    assert_eq!(served.closed("frame_slow"), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_frames_beyond_the_budget_wait_for_each_other_and_all_finish() {
    let served = served(options()).await;
    // 40 frames of 1 MiB, half sent each, over a budget of 4 MiB.
    let body = [b"P\x01".as_slice(), &vec![1; (1 << 20) - 2]].concat();
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = served.connect().await;
        stream.write_all(&(1_u32 << 20).to_be_bytes()).await.expect("sent");
        streams.push(stream);
    }
    let clients = streams.into_iter().map(|mut stream| {
        let body = body.clone();
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            let (first, second) = body.split_at(1 << 19);
            let sending = async {
                write.write_all(first).await.expect("sent");
                sleep(Duration::from_millis(50)).await;
                write.write_all(second).await.expect("sent");
            };
            let mut answer = vec![0; body.len() + 4];
            let receiving = async { read.read_exact(&mut answer).await.expect("answered") };
            tokio::join!(sending, receiving);
            assert_eq!(&answer[4..], body);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        timeout(SOON, client).await.expect("in time").expect("answered");
    }
    served.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_client_that_never_reads_is_cut_and_holds_up_nobody() {
    let served = served(Options { write_time_max: Duration::from_millis(200), ..options() }).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"B\x00"]).await;
    let mut other = served.connect().await;
    send(&mut other, &[b"P\x00"]).await;
    assert_eq!(receive(&mut other).await, b"P\x00");
    eventually(|| served.closed("answer_not_taken") == 1).await;
    drop((stream, other));
    served.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_request_is_dropped_when_its_client_goes_and_any_other_is_not() {
    let served = served(options()).await;
    let dropped = || served.seen.dropped.load(Ordering::SeqCst);
    let answered = || served.seen.answered.load(Ordering::SeqCst);
    let mut stream = served.connect().await;
    send(&mut stream, &[b"K\xff"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    eventually(|| dropped() == 1).await;

    let mut stream = served.connect().await;
    send(&mut stream, &[b"A\x0a"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 2).await;
    drop(stream);
    eventually(|| answered() == 1).await;

    // Behind other frames that were sent, the end is noticed as well.
    let mut stream = served.connect().await;
    send(&mut stream, &[b"K\xff", b"N\x00", b"K\xff"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 3).await;
    drop(stream);
    eventually(|| dropped() == 2 && answered() == 2).await;
    served.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limits_are_closed_at_once() {
    let refused = |served: &Served, limit| {
        served.metrics.refused.get_or_create(&metrics::Refused { limit }).get()
    };
    let limits = Limits::new(2, 100);
    let all = served(Options { limits: Arc::clone(&limits) as _, ..options() }).await;
    let (first, _second) = (all.connect().await, all.connect().await);
    eventually(|| all.metrics.open.get() == 2).await;
    closes(&mut all.connect().await).await;
    assert_eq!(refused(&all, "max.connections"), 1);
    drop(first);
    eventually(|| all.metrics.open.get() == 1).await;
    let mut third = all.connect().await;
    send(&mut third, &[b"P\x00"]).await;
    receive(&mut third).await;
    // A limit that is changed holds for whoever comes next; who is there stays.
    limits.0.store(1, Ordering::SeqCst);
    closes(&mut all.connect().await).await;
    limits.0.store(3, Ordering::SeqCst);
    let mut fourth = all.connect().await;
    send(&mut fourth, &[b"P\x00"]).await;
    receive(&mut fourth).await;

    let per_ip = served(Options { limits: Limits::new(100, 1), ..options() }).await;
    let first = per_ip.connect().await;
    eventually(|| per_ip.metrics.open.get() == 1).await;
    closes(&mut per_ip.connect().await).await;
    assert_eq!(refused(&per_ip, "max.connections.per.ip"), 1);
    drop(first);
    eventually(|| per_ip.metrics.open.get() == 0).await;
    let mut next = per_ip.connect().await;
    send(&mut next, &[b"P\x00"]).await;
    assert_eq!(receive(&mut next).await, b"P\x00", "the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_one_that_waits_for_us_is_not() {
    let served = served(Options { idle_max: Duration::from_millis(150), ..options() }).await;
    let mut waiting = served.connect().await;
    send(&mut waiting, &[b"A\x32a"]).await;
    let mut idle = served.connect().await;
    closes(&mut idle).await;
    assert_eq!(receive(&mut waiting).await[2], b'a', "after half a second");
    closes(&mut waiting).await;
    served.settles().await;
    assert_eq!(served.closed("idle"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_has_begun_and_drops_what_is_parked() {
    let served = served(options()).await;
    let mut busy = served.connect().await;
    let mut parked = served.connect().await;
    let mut idle = served.connect().await;
    send(&mut busy, &[b"P\x14a", b"P\x0ab"]).await;
    send(&mut parked, &[b"K\xff"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 3).await;
    served.stopping.send(true).expect("it runs");
    assert_eq!(receive(&mut busy).await[2], b'a');
    assert_eq!(receive(&mut busy).await[2], b'b');
    for stream in [&mut busy, &mut parked, &mut idle] {
        closes(stream).await;
    }
    timeout(SOON, served.task).await.expect("in time").expect("it ended");
    TcpStream::connect(served.address).await.expect_err("nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_task_is_aborted_is_no_longer_counted_as_open() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"A\xff"]).await;
    eventually(|| served.metrics.open.get() == 1).await;
    served.task.abort();
    eventually(|| served.metrics.open.get() == 0).await;
    assert_eq!(served.closed("aborted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_small_requests_are_read_and_answered_while_bulk_waits() {
    let served = served(options()).await;
    // The disk stands still: all of the budget for bulk is under way and waits, and so does another
    // request that was let in beyond it.
    let body = [b"P\xff".as_slice(), &vec![1; (1 << 19) - 2]].concat();
    let mut producers = Vec::new();
    for count in 1..=9 {
        let mut producer = served.connect().await;
        send(&mut producer, &[&body]).await;
        producers.push(producer);
        // One after the other: frames that are read at once may hold each other up half-read.
        eventually(|| served.seen.begun.load(Ordering::SeqCst) == count).await;
    }
    assert_eq!(served.lanes.of(Lane::Bulk, 1).free_bytes(), 0);

    for what in [b"A\x00", b"F\x00"] {
        let mut client = served.connect().await;
        client.write_all(&[0, 0, 0x20, 0]).await.expect("sent");
        client.write_all(what).await.expect("sent");
        sleep(Duration::from_millis(20)).await;
        client.write_all(&[0; 0x1ffe]).await.expect("sent");
        assert_eq!(receive(&mut client).await.len(), 0x2000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_small_requests_are_answered_while_half_sent_ones_stand_still() {
    let served = served(options()).await;
    let small = crate::limits::SMALL_FRAME_BYTES_MAX;
    let budget = served.lanes.to_read(small);
    // As many as there is room for stand still, and one is over it.
    let stalled = budget.acquire(budget.free_bytes()).await;
    let over = budget.acquire(small).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"A\x00heartbeat"]).await;
    assert_eq!(receive(&mut stream).await, b"A\x00heartbeat");
    drop((stalled, over));

    // A frame that came in pieces and waits for its turn holds nothing of it.
    let free = budget.free_bytes();
    let parked = [b"F\xff".as_slice(), &vec![0; small - 2]].concat();
    let mut stream = served.connect().await;
    for part in [&b"\0\0\x40\0"[..], &parked[..100], &parked[100..]] {
        stream.write_all(part).await.expect("sent");
        sleep(Duration::from_millis(20)).await;
    }
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 2).await;
    assert_eq!(budget.free_bytes(), free);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_request_that_gave_its_frame_back_may_wait_without_holding_up_others() {
    let served = served(options()).await;
    let join = [b"J\xff".as_slice(), &vec![1; 800_000]].concat();
    let mut parked = Vec::new();
    for _ in 0..12 {
        let mut member = served.connect().await;
        send(&mut member, &[&join]).await;
        parked.push(member);
    }
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 12).await;
    eventually(|| served.lanes.free_bytes() == all_bytes()).await;
    let mut other = served.connect().await;
    send(&mut other, &[&[b"P\x00".as_slice(), &vec![1; 900_000]].concat()]).await;
    assert_eq!(receive(&mut other).await.len(), 900_002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_for_its_api_is_not_read() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    stream.write_all(&(1_000_000_u32).to_be_bytes()).await.expect("sent");
    stream.write_all(b"J").await.expect("sent");
    sleep(Duration::from_millis(20)).await;
    stream.write_all(b"\x00").await.expect("sent");
    assert_eq!(closes(&mut stream).await, 0);
    served.settles().await;
    assert_eq!(served.closed("frame_size"), 1);
}
