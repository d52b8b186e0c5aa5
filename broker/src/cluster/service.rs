//! The tasks between a broker and the others: connections, heartbeats, reports, and the list of
//! brokers to connect to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_peer::ServiceError;
use ropewalk_shard::{BrokerId, Payload};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Remote;

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
    pub(super) connections: ropewalk_peer::Service,
}

impl Service {
    /// Serves until [`super::Cluster::stop`] is called.
    ///
    /// # Errors
    /// When the connections can no longer be served.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { remote, connections } = self;
        tokio::select! {
            ended = connections.run() => ended,
            () = send_heartbeats(&remote) => Ok(()),
            () = send_reports(&remote) => Ok(()),
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

/// Sends a report to every connected broker, periodically and when a leadership has changed. It
/// never ends.
async fn send_reports(remote: &Arc<Remote>) {
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

/// The reports to each broker: at most one is under way, so that a broker that is slow to read costs
/// one request.
#[derive(Default)]
struct Reports {
    tasks: JoinSet<BrokerId>,
    under_way: BTreeSet<BrokerId>,
    due: BTreeSet<BrokerId>,
}

impl Reports {
    fn are_due(&mut self, remote: &Remote) {
        self.due.extend(remote.link.connected_brokers());
    }

    fn send(&mut self, remote: &Arc<Remote>) {
        let ready: Vec<_> = self.due.difference(&self.under_way).copied().collect();
        if ready.is_empty() {
            return;
        }
        let report: Payload = remote.report_payload();
        for broker in ready {
            self.due.remove(&broker);
            self.under_way.insert(broker);
            let (link, report) = (Arc::clone(&remote.link), report.clone());
            self.tasks.spawn(async move {
                link.report(broker, report).await;
                broker
            });
        }
    }

    /// Waits until a report has arrived or is lost.
    async fn arrived(&mut self) -> BrokerId {
        match self.tasks.join_next().await {
            Some(Ok(broker)) => broker,
            Some(Err(error)) => panic!("a report was not sent: {error}"),
            None => std::future::pending().await,
        }
    }
}
