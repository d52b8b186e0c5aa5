//! The tasks between a broker and the others: connections, heartbeats, reports, and the list of
//! brokers to connect to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ropewalk_peer::ServiceError;
use ropewalk_shard::BrokerId;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Remote;
use super::connections::Run;
use super::link::OutgoingFiles;

/// Interval of the reports to every other broker.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// How long the first change of leadership waits for others, which then share a report: after a
/// broker is lost, dozens of shards elect within milliseconds.
const REPORT_GATHER: Duration = Duration::from_millis(5);

/// How long the first heartbeat waits for those of other shards, which then share a frame. The
/// shards of a broker tick at nearly the same time.
const HEARTBEAT_GATHER: Duration = Duration::from_millis(10);

/// Serves the connections to the other brokers while it runs. The caller supervises it.
#[must_use = "messages are sent and received only while it runs"]
pub struct Service {
    pub(super) remote: Arc<Remote>,
    pub(super) connections: Run,
    pub(super) files: mpsc::UnboundedReceiver<OutgoingFiles>,
}

impl Service {
    /// Serves until [`super::Cluster::stop`] is called.
    ///
    /// # Errors
    /// When the connections can no longer be served.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { remote, connections, files } = self;
        tokio::select! {
            ended = connections => ended,
            () = send_heartbeats(&remote) => Ok(()),
            () = send_reports(&remote) => Ok(()),
            () = send_files(&remote, files) => Ok(()),
            () = follow_catalog(&remote) => Ok(()),
        }
    }
}

/// Sends the heartbeats of all shards soon after the first one waits. It never ends.
async fn send_heartbeats(remote: &Remote) {
    loop {
        remote.link.heartbeats.notified().await;
        sleep(HEARTBEAT_GATHER).await;
        remote.peers.flush_heartbeats();
    }
}

/// Connects to the brokers of the catalog. It ends when the catalog's directory does.
async fn follow_catalog(remote: &Remote) {
    let mut changed = remote.link.directory().changed();
    loop {
        changed.borrow_and_update();
        remote.refresh();
        tokio::select! {
            ended = changed.changed() => if ended.is_err() { return },
            () = remote.seeded.notified() => {}
        }
    }
}

/// Sends messages of files, each when its turn has come. It ends when the link does.
async fn send_files(remote: &Remote, mut queue: mpsc::UnboundedReceiver<OutgoingFiles>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = queue.recv() => match message {
                Some(message) => under_way.push(remote.link.send_files_in_turn(message)),
                None => return,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}

/// Sends a report to every connected broker, periodically and when a leadership has changed. It
/// never ends.
async fn send_reports(remote: &Remote) {
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reports = Reports::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                remote.link.forget_dead(Instant::now());
                reports.are_due(remote);
            }
            () = remote.link.report_due.notified() => {
                sleep(REPORT_GATHER).await;
                reports.are_due(remote);
            }
            broker = reports.arrived() => {
                reports.under_way.remove(&broker);
            }
        }
        reports.send(remote);
    }
}

/// The reports to each broker: at most one is under way, so that a broker that is slow to read
/// costs one request.
#[derive(Default)]
struct Reports<'a> {
    sending: FuturesUnordered<BoxFuture<'a, BrokerId>>,
    under_way: BTreeSet<BrokerId>,
    due: BTreeSet<BrokerId>,
}

impl<'a> Reports<'a> {
    fn are_due(&mut self, remote: &Remote) {
        self.due.extend(remote.link.connected_brokers());
    }

    fn send(&mut self, remote: &'a Remote) {
        let ready: Vec<_> = self.due.difference(&self.under_way).copied().collect();
        if ready.is_empty() {
            return;
        }
        let report = remote.report_payload();
        for broker in ready {
            self.due.remove(&broker);
            self.under_way.insert(broker);
            let report = report.clone();
            self.sending.push(Box::pin(async move {
                remote.link.report(broker, report).await;
                broker
            }));
        }
    }

    /// Waits until a report has arrived or is lost.
    async fn arrived(&mut self) -> BrokerId {
        match self.sending.next().await {
            Some(broker) => broker,
            None => std::future::pending().await,
        }
    }
}
