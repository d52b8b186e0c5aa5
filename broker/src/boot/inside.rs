//! A broker without sockets: what a simulator runs in place of a [`Broker`](super::Broker). All
//! parts behind the sockets are those of a broker, in the same order of starting and stopping;
//! clients call its [`Context`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use ropewalk_disk::Disk;
use ropewalk_node::supervision::{OnFatal, StopGuard};
use ropewalk_shard::state::catalog::BrokerInfo;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::open::{Others, Parts};
use super::raft_runtime::RaftRuntime;
use super::round_metrics::RoundMetrics;
use super::status::Status;
use super::surroundings::{Network, StoreOptions};
use super::{StartError, run_tasks, withdraw};
use crate::admin::client::Answer;
use crate::admin::cluster::join;
use crate::cluster::{Entrance, KnownBroker};
use crate::handle::{self, Context};
use crate::settings::Settings;
use crate::supervision::{self, Supervisor};

/// What a broker without sockets is started with.
pub struct Surroundings {
    /// The broker's settings, which name its peer listener.
    pub settings: Settings,
    /// The disk with the data directory.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// The cluster id that an empty directory is formatted with, if the broker founds a cluster.
    pub format: Option<String>,
    /// This broker, as clients are informed of it.
    pub own: KnownBroker,
    /// The registration of this broker in the catalog.
    pub info: BrokerInfo,
    /// How the other brokers are reached.
    pub network: Arc<dyn Network>,
    /// The bounds of the store, and the clock.
    pub store: StoreOptions,
    /// Receives the error that would end the process.
    pub on_fatal: OnFatal,
}

/// A running broker without sockets. Dropping it is the end of its process.
pub struct Inside {
    _ends: StopGuard,
    context: Arc<Context>,
    serving: watch::Receiver<bool>,
    status: Arc<Status>,
    supervisor: Supervisor,
    background: JoinSet<()>,
    /// Dropped last: the tasks of the connections to the other brokers.
    _raft_runtime: Option<RaftRuntime>,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").field("context", &self.context).finish_non_exhaustive()
    }
}

impl Inside {
    /// Starts a broker, and returns when it would accept clients.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// When the settings name no peer listener.
    pub async fn start(surroundings: Surroundings) -> Result<Self, StartError> {
        let Surroundings { settings, disk, dir, format, own, info, network, store, on_fatal } =
            surroundings;
        let settings = Arc::new(settings);
        let peers = settings.peers().ok().flatten().expect("the settings name a peer listener");
        let mut registry = Registry::default();
        let metrics = handle::metrics::Metrics::register(&mut registry);
        let rounds = RoundMetrics::register(&mut registry);
        let status = Status::new(&settings);
        let supervisor = Supervisor::new(Arc::clone(&on_fatal));
        let ends = supervisor.stop_guard();
        let listen = [([127, 0, 0, 1], 0).into(); 2];
        let others = Others { settings: peers, listen, info, network: Some(network) };
        let parts = Parts {
            own,
            settings,
            disk,
            dir,
            rounds,
            status: Arc::clone(&status),
            supervisor: supervisor.clone(),
            others: Some(others),
            store,
        };
        let mut opened = parts.open(format, on_fatal).await?;
        let context = opened.context(metrics);
        status.opened(opened.to_admin(&context));
        let mut background = JoinSet::new();
        run_tasks(&mut opened, &supervisor, &mut background);
        let _raft_runtime = opened.raft_runtime.take();
        drop(opened);
        let (entrance, serving) = Entrance::new(&context.cluster, &context.node);
        entrance.open().await;
        background.spawn(supervisor.endless(&supervision::ENTRANCE, entrance.watch()));
        Ok(Self { _ends: ends, context, serving, status, supervisor, background, _raft_runtime })
    }

    /// Whether the broker accepts clients and keeps those that it has: see [`Entrance`].
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.clone()
    }

    /// What request handlers work with.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Stops the broker in order.
    pub async fn stop(mut self) {
        withdraw(&self.status, &self.context, &self.supervisor).await;
        self.context.node.stop().await;
        self.context.cluster.stop();
        self.background.shutdown().await;
    }
}

/// Answers [`Network::post`] of another broker as the admin server of this one would.
pub async fn answer_post(context: &Context, path: &str, body: Value) -> Answer {
    match path {
        "/v1/cluster/brokers" => join::answer(context, body).await,
        _ => Answer { status: 404, body: Value::Null },
    }
}
