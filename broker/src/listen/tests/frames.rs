//! Bytes that arrive in pieces, with invalid lengths, or too slowly.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};

use super::*;
use crate::listen::frame::{Frames, ReadOutcome};

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
        // Single bytes from time to time do not extend the deadline.
        let _ = loris.write_all(b"x").await;
        closes(loris).await;
    }
    assert!(began.elapsed() < SOON / 2);
    assert_eq!(receive(&mut honest).await.len(), 200_000);
    drop(honest);
    served.settles().await;
    assert_eq!(served.closed("frame_slow"), 50);
}

/// A client whose bytes arrive in these pieces, one after the other. Notes where each call has put
/// its bytes.
struct Pieces {
    pieces: VecDeque<Bytes>,
    reads: Vec<Range<usize>>,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Some(piece) = self.pieces.front_mut() else { return Poll::Ready(Ok(())) };
        let now = piece.split_to(piece.len().min(target.remaining()));
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        target.put_slice(&now);
        let end = target.filled().as_ptr_range().end.addr();
        self.reads.push(end - now.len()..end);
        Poll::Ready(Ok(()))
    }
}

/// The frames that come from these pieces, and the calls that read them.
fn frames_of(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<Bytes>, Vec<Range<usize>>) {
    let mut client = Pieces { pieces: pieces.into_iter().collect(), reads: Vec::new() };
    let mut frames = Frames::new(Lanes::new(BULK_BYTES), Arc::new(Echo::default()), &options());
    let mut whole = Vec::new();
    loop {
        let read = frames.read(&mut client).now_or_never().expect("nothing to wait for");
        if read.expect("valid frames") == ReadOutcome::End {
            return (whole, client.reads);
        }
        whole.extend(std::iter::from_fn(|| frames.pop()).map(|frame| frame.bytes));
    }
}

/// A frame with its length in front.
fn sent(size_bytes: usize, fill: u8) -> Bytes {
    let length = u32::try_from(size_bytes).expect("small").to_be_bytes();
    [length.as_slice(), &vec![fill; size_bytes]].concat().into()
}

/// How many bytes of a frame were copied after they were read.
fn copied(frame: &Bytes, reads: &[Range<usize>]) -> usize {
    let own = frame.as_ptr().addr()..frame.as_ptr().addr() + frame.len();
    let in_place = reads.iter().filter(|read| own.contains(&read.start));
    frame.len() - in_place.map(|read| read.end.min(own.end) - read.start).sum::<usize>()
}

const LARGE: usize = 64 * 1024 + 200;

#[test]
fn pipelined_large_frames_take_one_call_each_and_are_not_copied() {
    let stream: Vec<u8> = (0..50).flat_map(|fill| sent(LARGE, fill)).collect();
    let (frames, reads) = frames_of([stream.into()]);
    assert_eq!(frames.len(), 50);
    let copied: usize = frames.iter().skip(3).map(|frame| copied(frame, &reads)).sum();
    assert!(copied <= 47 * crate::limits::READ_BYTES_BEYOND, "{copied} bytes of 47 frames copied");
    assert!(reads.len() <= frames.len() + 5, "{} calls", reads.len());
}

#[test]
fn large_frames_that_come_one_by_one_take_two_calls_and_are_not_copied() {
    let (frames, reads) = frames_of((0..50).map(|fill| sent(LARGE, fill)));
    assert_eq!(frames.len(), 50);
    let copied: usize = frames.iter().skip(3).map(|frame| copied(frame, &reads)).sum();
    let most = 47 * crate::limits::READ_BYTES_BEFORE_LARGE;
    assert!(copied <= most, "{copied} bytes of 47 frames copied");
    assert!(reads.len() <= 2 * frames.len() + 5, "{} calls", reads.len());
}

#[test]
fn small_frames_share_a_call_also_behind_a_large_one() {
    let small = || (0..1_000).flat_map(|fill| sent(1_500, (fill % 50) as u8));
    let calls = (1_000 * 1_504_usize).div_ceil(crate::limits::READ_BYTES);
    let (frames, reads) = frames_of([small().collect::<Bytes>()]);
    assert_eq!((frames.len(), reads.len()), (1_000, calls));

    let stream = sent(LARGE, 1).into_iter().chain(sent(LARGE, 2)).chain(small()).collect();
    let (frames, reads) = frames_of([stream]);
    assert_eq!(frames.len(), 1_002);
    assert!(reads.len() <= calls + 8, "{} calls", reads.len());
}

proptest! {
    /// However a stream is cut into pieces, the same frames come out.
    #[test]
    fn any_pieces_give_the_same_frames(
        sizes in prop::collection::vec(
            prop_oneof![1..40_usize, 900..1_100_usize, 15_000..18_000_usize, 1..90_000_usize],
            1..12,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        near in prop::collection::vec((any::<prop::sample::Index>(), -70..70_isize), 0..10),
    ) {
        let frames: Vec<Bytes> =
            (0..).zip(&sizes).map(|(number, size)| Bytes::from(vec![number; *size])).collect();
        let stream: Bytes =
            (0..).zip(&sizes).flat_map(|(number, size)| sent(*size, number)).collect();
        // Cuts anywhere, and near the ends of frames.
        let mut ends: Vec<usize> = vec![0];
        for size in &sizes {
            ends.push(ends[ends.len() - 1] + 4 + size);
        }
        let near = near.iter().map(|(end, by)| ends[end.index(ends.len())].saturating_add_signed(*by));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).chain(near).collect();
        cuts.extend([0, stream.len()]);
        cuts.retain(|cut| *cut <= stream.len());
        cuts.sort_unstable();
        cuts.dedup();
        let pieces = cuts.windows(2).map(|pair| stream.slice(pair[0]..pair[1]));
        prop_assert_eq!(frames_of(pieces).0, frames);
    }
}
