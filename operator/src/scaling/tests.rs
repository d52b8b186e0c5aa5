//! The autoscaler with a fake API server that counts every request, and signals from lines.

mod cost;
mod others;
mod server;
mod shared;
mod signals;
mod status;
mod zero;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use ropewalk_operator_api::Queue;
use ropewalk_operator_plan::cluster::validate::Settings;
use serde_json::json;

use super::{Autoscaler, Clock, Queues, ScalingMetrics};
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::hibernation::Hibernations;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::signals::line::{self, Line};
use crate::signals::{Table, WakeUp};
use server::Server;

/// A Queue with one consumer, its Deployment, and a broker with scripted signals.
struct Stage {
    server: Arc<Server>,
    table: Arc<Table>,
    autoscaler: Arc<Autoscaler>,
    metrics: ScalingMetrics,
    hibernations: Arc<Hibernations>,
    queues: Arc<RwLock<Vec<Arc<Queue>>>>,
    origin: Instant,
    second: u64,
    end: i64,
    committed: i64,
    members: u32,
    /// State of a second queue, if there is one: its end offset, and the committed offset of the
    /// group.
    bills: Option<(i64, i64)>,
    clock: Arc<Mutex<Instant>>,
}

fn queue(consumers: serde_json::Value) -> Arc<Queue> {
    let queue = json!({
        "apiVersion": "ropewalk.dev/v1alpha1",
        "kind": "Queue",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u1", "generation": 1},
        "spec": {"consumers": consumers},
    });
    Arc::new(serde_json::from_value(queue).expect("a Queue"))
}

fn worker(scaling: serde_json::Value) -> serde_json::Value {
    json!([{
        "name": "worker",
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "order-worker"},
        "scaling": scaling,
    }])
}

fn cluster() -> ClusterKey {
    ClusterKey::new("shop", "default")
}

/// A wake-up: messages wait for the consumer, which has no member.
fn wake_up(length: u64) -> WakeUp {
    WakeUp {
        cluster: cluster(),
        topic: "orders".into(),
        topic_id: "t".into(),
        group: "shop.orders.worker".into(),
        length,
    }
}

impl Stage {
    fn new(replicas: u32, scaling: serde_json::Value) -> Self {
        Self::led(replicas, scaling, Some(Duration::from_secs(100_000)))
    }

    fn led(replicas: u32, scaling: serde_json::Value, leads: Option<Duration>) -> Self {
        let server = Server::new(replicas);
        let table = Arc::new(Table::default());
        let queues = Arc::new(RwLock::new(vec![queue(worker(scaling))]));
        let origin = Instant::now();
        let visited = queues.clone();
        let visit: Queues = Arc::new(move |see| visited.read().iter().for_each(|queue| see(queue)));
        let leadership = match leads {
            Some(leads) => Leadership::assumed("me", origin + leads),
            None => Leadership::none("me"),
        };
        let hibernations = Arc::new(Hibernations::default());
        let clock = Arc::new(Mutex::new(origin));
        let ticking = clock.clone();
        let settings = Settings { broker_image: "i".into() };
        let (client, metrics) = (server.client(), Metrics::default());
        let mut context = Context::new(client, leadership, metrics, settings, "none".into());
        (context.signals, context.hibernations) = (table.clone(), hibernations.clone());
        let tick: Clock = Arc::new(move || *ticking.lock());
        let autoscaler = Arc::new(Autoscaler::new(Arc::new(context), visit, tick));
        let metrics = autoscaler.metrics.clone();
        let (second, end, committed, members) = (0, 0, 0, 0);
        Self {
            server,
            table,
            autoscaler,
            metrics,
            hibernations,
            queues,
            origin,
            second,
            end,
            committed,
            members,
            bills: None,
            clock,
        }
    }

    fn now(&self) -> Instant {
        self.origin + Duration::from_secs(self.second)
    }

    fn say(&self, line: &serde_json::Value) {
        let line: Line = line::parse(line.to_string().as_bytes()).expect("a line");
        self.table.take(&cluster(), line, self.now());
    }

    fn connect(&self) {
        self.say(&json!({"kind": "hello", "brokerId": 0, "clusterId": "c", "version": "1", "startedAtMs": 1}));
    }

    /// The lines that the broker sends in one second.
    fn state(&self) {
        let length = self.end - self.committed;
        let members: Vec<_> = (0..self.members)
            .map(|n| json!({"memberId": format!("m{n}"), "partitions": if n == 0 { vec![0] } else { vec![] }}))
            .collect();
        self.say(&json!({
            "kind": "state", "topic": "orders", "topicId": "t", "group": "shop.orders.worker",
            "length": length, "members": members,
            "partitions": [{"partition": 0, "length": length, "end": self.end, "committed": self.committed}],
        }));
        if let Some((end, committed)) = self.bills {
            let (length, count) = (end - committed, self.members);
            let members: Vec<_> = (0..count)
                .map(|n| json!({"memberId": format!("b{n}"), "partitions": if n == 0 { vec![0] } else { vec![] }}))
                .collect();
            self.say(&json!({
                "kind": "state", "topic": "bills", "topicId": "b", "group": "shop.bills.worker",
                "length": length, "members": members,
                "partitions": [{"partition": 0, "length": length, "end": end, "committed": committed}],
            }));
        }
        self.say(&json!({"kind": "tick", "timeMs": 1}));
    }

    /// One second of the loop.
    async fn second(&mut self) {
        self.second += 1;
        *self.clock.lock() = self.now();
        for (key, entry) in self.autoscaler.tick(self.now()) {
            self.autoscaler.act(&key, &entry).await;
        }
        for pending in self.autoscaler.to_publish(self.now()) {
            self.autoscaler.publish(pending).await;
        }
        self.server.copy_status(&self.queues);
    }

    /// Handles the broker's wake-up and carries out what is due.
    async fn wake(&self, length: u64) {
        for (key, entry) in self.autoscaler.on_wake_up(&wake_up(length), self.now()) {
            self.autoscaler.act(&key, &entry).await;
        }
    }

    async fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.state();
            self.second().await;
        }
    }

    /// Carries out what a tick of the test itself found due.
    async fn release(&self) {
        let consumers = self.autoscaler.consumers.lock().clone();
        for (key, entry) in consumers {
            self.autoscaler.act(&key, &entry).await;
        }
    }

    /// Seconds in which the broker sends nothing.
    async fn seconds_unconnected(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second().await;
        }
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let status = self.server.status().expect("a status was written");
        let conditions = status["conditions"].as_array().expect("conditions").clone();
        let found = conditions.iter().find(|condition| condition["type"] == kind).expect(kind);
        let text = |key: &str| found[key].as_str().expect(key).to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("ropewalk");
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
        text
    }
}
