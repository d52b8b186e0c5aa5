//! When requests begin, and the order of their responses (O2).

use super::*;

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
async fn o2_nothing_is_under_way_beside_a_request_that_is_to_be_alone() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    // All of them have arrived while the first one waits.
    let frames = [b"A\x03a", b"P\x03b", b"A\x03c", b"A\x03d", b"K\x03e", b"P\x03f"];
    send(&mut stream, &frames.map(<[u8; 3]>::as_slice)).await;
    for frame in frames {
        assert_eq!(receive(&mut stream).await, frame);
    }
    assert_eq!(served.seen.beside.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_answer_leaves_no_gap() {
    let served = served(options()).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"N\x01", b"P\x00a", b"N\x00", b"A\x00b"]).await;
    assert_eq!(receive(&mut stream).await[2], b'a');
    assert_eq!(receive(&mut stream).await[2], b'b');
    // Requests sent before the client disconnected are still carried out.
    send(&mut stream, &[b"A\x02", b"N\x00", b"N\x00", b"N\x00"]).await;
    drop(stream);
    eventually(|| served.seen.answered.load(Ordering::SeqCst) == 8).await;
    served.settles().await;
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

    // The disconnect is detected also behind other frames.
    let mut stream = served.connect().await;
    send(&mut stream, &[b"K\xff", b"N\x00", b"K\xff"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 3).await;
    drop(stream);
    eventually(|| dropped() == 2 && answered() == 2).await;
    served.settles().await;
}

#[tokio::test]
async fn o2_a_response_in_pieces_leaves_whole_before_the_next_one() {
    let server = served(options()).await;
    let mut stream = server.connect().await;
    send(&mut stream, &[b"P\0first", b"R\0", b"P\0last"]).await;
    assert_eq!(receive(&mut stream).await, b"P\0first");
    let whole = receive(&mut stream).await;
    for (number, piece) in (0_u8..).zip(whole.chunks(PIECE_BYTES)) {
        assert!(piece.iter().all(|byte| *byte == number), "piece {number}");
    }
    assert_eq!(whole.len(), PIECES * PIECE_BYTES);
    assert_eq!(receive(&mut stream).await, b"P\0last");
    drop(stream);
    server.settles().await;
}

#[tokio::test]
async fn a_piece_that_cannot_be_read_ends_the_connection_behind_those_before_it() {
    let server = served(options()).await;
    let mut stream = server.connect().await;
    send(&mut stream, &[b"D\0"]).await;
    assert_eq!(closes(&mut stream).await, 4 + 2 * PIECE_BYTES);
    assert_eq!(server.closed("answer_broken"), 1);
    server.settles().await;
}

/// A client that takes its time, and one that takes nothing.
#[tokio::test]
async fn a_response_in_pieces_waits_for_its_client_and_not_for_ever() {
    let write_time_max = Duration::from_secs(2);
    let server = served(Options { write_time_max, ..options() }).await;
    let mut slow = server.connect().await;
    let mut stalled = server.connect().await;
    send(&mut stalled, &[b"R\0"]).await;
    send(&mut slow, &[b"R\0"]).await;
    let mut whole = vec![0; 4 + PIECES * PIECE_BYTES];
    for piece in whole.chunks_mut(PIECE_BYTES / 2) {
        sleep(Duration::from_millis(5)).await;
        timeout(SOON, slow.read_exact(piece)).await.expect("in time").expect("it is sent");
    }
    assert_eq!(whole[4 + (PIECES - 1) * PIECE_BYTES], 23);
    eventually(|| server.closed("answer_not_taken") == 1).await;
    drop((slow, stalled));
    server.settles().await;
}
