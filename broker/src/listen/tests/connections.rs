//! Connection limits, and what closes a connection.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limits_are_closed_at_once() {
    let refused = |served: &TestServer, limit| {
        served.metrics.refused.get_or_create(&metrics::RefusedLabels { limit }).get()
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
    // A changed limit applies to new connections; open ones stay open.
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
async fn r1_a_client_that_never_reads_is_disconnected_without_delaying_others() {
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
    TcpStream::connect(served.address).await.expect_err("the listener is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_cut_off_closes_connections_until_it_is_not() {
    let served = served(options()).await;
    let (mut busy, mut parked) = (served.connect().await, served.connect().await);
    send(&mut busy, &[b"P\x0aa"]).await;
    send(&mut parked, &[b"K\xff"]).await;
    eventually(|| served.seen.begun.load(Ordering::SeqCst) == 2).await;
    served.serving.send_replace(false);
    assert_eq!(receive(&mut busy).await[2], b'a', "what has begun is answered");
    for stream in [&mut busy, &mut parked] {
        closes(stream).await;
    }
    let refused = async {
        let mut new = TcpStream::connect(served.address).await?;
        new.read(&mut [0]).await
    };
    let refused = timeout(SOON, refused).await.expect("it closes");
    let kind = refused.expect_err("its end is no end in order").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    served.settles().await;
    let refused = metrics::RefusedLabels { limit: "cut_off" };
    let refused = served.metrics.refused.get_or_create(&refused).get();
    assert_eq!((served.closed("cut_off"), refused), (2, 1));
    served.serving.send_replace(true);
    let mut again = served.connect().await;
    send(&mut again, &[b"P\x00"]).await;
    assert_eq!(receive(&mut again).await, b"P\x00");
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
