//! Which budget a request uses, and which requests it delays (R1).

use super::*;

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
async fn r1_small_requests_are_read_and_answered_while_bulk_waits() {
    let served = served(options()).await;
    // The disk is stalled: requests in progress use the whole bulk budget, and one more exceeds it.
    let body = [b"P\xff".as_slice(), &vec![1; (1 << 19) - 2]].concat();
    let mut producers = Vec::new();
    for count in 1..=9 {
        let mut producer = served.connect().await;
        send(&mut producer, &[&body]).await;
        producers.push(producer);
        // In sequence, because frames that are read at the same time may block each other
        // half-read.
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
async fn r1_a_large_request_takes_nothing_of_what_small_ones_have() {
    let served = served(options()).await;
    let free = || [Lane::Fetch, Lane::Small].map(|lane| served.lanes.of(lane, 1).free_bytes());
    let whole = free();
    let large_bytes = crate::limits::SMALL_FRAME_BYTES_MAX + 1;
    let mut clients = Vec::new();
    for (begun, what) in [(1, b"A\xff"), (2, b"F\xff")] {
        let mut client = served.connect().await;
        send(&mut client, &[&[what.as_slice(), &vec![1; large_bytes - 2]].concat()]).await;
        clients.push(client);
        eventually(|| served.seen.begun.load(Ordering::SeqCst) == begun).await;
        assert_eq!(free(), whole, "{what:?}");
        let bulk_bytes = served.lanes.of(Lane::Bulk, 1).free_bytes();
        assert_eq!(bulk_bytes, BULK_BYTES - begun * large_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_small_requests_are_answered_while_half_sent_ones_stand_still() {
    let served = served(options()).await;
    let small = crate::limits::SMALL_FRAME_BYTES_MAX;
    let budget = served.lanes.to_read(small);
    // Stalled connections use the whole budget, and one exceeds it.
    let stalled = budget.acquire(budget.free_bytes()).await;
    let over = budget.acquire(small).await;
    let mut stream = served.connect().await;
    send(&mut stream, &[b"A\x00heartbeat"]).await;
    assert_eq!(receive(&mut stream).await, b"A\x00heartbeat");
    drop((stalled, over));

    // A frame that arrived in pieces and waits for its turn holds none of it.
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
