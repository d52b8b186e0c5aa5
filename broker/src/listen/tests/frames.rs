//! Bytes that arrive in pieces, with invalid lengths, or too slowly.

use super::*;

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
