//! Raw sockets to the listener, with a service that each frame controls.
//!
//! A frame is `[what][milliseconds / 10][anything]`; its response repeats it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;

mod budgets;
mod connections;
mod frames;
mod turns;

/// More than the kernel buffers for a client that does not read.
const ANSWER_BYTES: usize = 24 << 20;

/// The largest frame of kind `J`.
const JOIN_BYTES_MAX: usize = 900_000;

/// The budget for bulk, bytes.
const BULK_BYTES: usize = 4 << 20;

const SOON: Duration = Duration::from_secs(10);

/// The observations of [`Echo`].
#[derive(Debug, Default)]
struct Observations {
    begun: AtomicUsize,
    /// First stages that ran at the same time as another first stage of the connection.
    beginning: AtomicUsize,
    overlapped: AtomicUsize,
    under_way: AtomicUsize,
    /// First stages in progress that must be alone.
    alone: AtomicUsize,
    /// Requests that were in progress beside one that must be alone.
    beside: AtomicUsize,
    answered: AtomicUsize,
    dropped: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
struct Echo(Arc<Observations>);

/// Counts requests in progress, and requests that were dropped.
struct Waiting {
    seen: Arc<Observations>,
    is_alone: bool,
    is_ended: bool,
}

impl Waiting {
    fn begin(seen: &Arc<Observations>, turn: Turn) -> Self {
        let is_alone = turn != Turn::Pipelined;
        let alone = seen.alone.fetch_add(usize::from(is_alone), Ordering::SeqCst);
        let others = seen.under_way.fetch_add(1, Ordering::SeqCst);
        seen.beside.fetch_add(if is_alone { others } else { alone }, Ordering::SeqCst);
        Self { seen: Arc::clone(seen), is_alone, is_ended: false }
    }

    fn end(mut self) {
        self.is_ended = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.seen.under_way.fetch_sub(1, Ordering::SeqCst);
        self.seen.alone.fetch_sub(usize::from(self.is_alone), Ordering::SeqCst);
        let counter = if self.is_ended { &self.seen.answered } else { &self.seen.dropped };
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
            let waiting = Waiting::begin(&seen, turn);
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
                        let chunks = vec![Bytes::from(vec![0; ANSWER_BYTES])];
                        Ok(Reply { chunks, ..Reply::default() })
                    }
                    b'R' => Ok(in_pieces(None)),
                    b'D' => Ok(in_pieces(Some(2))),
                    _ => Ok(Reply { chunks: framed(&frame), ..Reply::default() }),
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

/// Size of each of the pieces that are read while a response is sent.
const PIECE_BYTES: usize = 1 << 20;
const PIECES: usize = 24;

/// A response in pieces, of which one cannot be read.
fn in_pieces(damaged: Option<usize>) -> Reply {
    let size_bytes = PIECE_BYTES * PIECES;
    let length = u32::try_from(size_bytes).expect("small").to_be_bytes();
    let pieces = (0..PIECES).map(move |number| match damaged {
        Some(damaged) if damaged == number => Err(Close::AnswerBroken("damage".to_owned())),
        _ => Ok(vec![Bytes::from(vec![u8::try_from(number).expect("few"); PIECE_BYTES])]),
    });
    let pieces = futures_util::stream::iter(pieces).boxed();
    let rest = Some(Rest { size_bytes, pieces });
    Reply { chunks: vec![Bytes::copy_from_slice(&length)], rest, held: vec![] }
}

/// Length and body as separate chunks, as in real responses.
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

/// The size of all budgets together.
fn all_bytes() -> usize {
    Lanes::new(BULK_BYTES).free_bytes()
}

/// A running listener and its service.
struct TestServer {
    address: SocketAddr,
    seen: Arc<Observations>,
    lanes: Lanes,
    metrics: metrics::Metrics,
    stopping: watch::Sender<bool>,
    serving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn served(options: Options) -> TestServer {
    let echo = Echo::default();
    let seen = Arc::clone(&echo.0);
    let lanes = Lanes::new(BULK_BYTES);
    let metrics = metrics::Metrics::default();
    let (stopping, stop) = watch::channel(false);
    let (serving, is_serving) = watch::channel(true);
    let service = Arc::new(echo);
    let acceptor =
        Acceptor::new(service, options, lanes.clone(), metrics.clone(), [stop, is_serving]);
    let listener = Acceptor::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(acceptor.run(listener, "TEST".into()));
    TestServer { address, seen, lanes, metrics, stopping, serving, task }
}

impl TestServer {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    fn closed(&self, reason: &'static str) -> u64 {
        self.metrics.closed.get_or_create(&metrics::ClosedLabels { reason }).get()
    }

    /// All budgets are free again once the connections are closed.
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

/// Reads until the broker closes the connection; returns what was read.
async fn closes(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    // A reset counts as closed.
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it closes");
    rest.len()
}
