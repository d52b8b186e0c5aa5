//! Wiring: the one place that picks the real disk and clock, and joins the parts into a broker.
//!
//! # Order of starting
//!
//! The sockets are bound first, so that a port in use fails the start early. The admin server
//! answers (`/ready` with the reason) while the data directory is opened. Clients are accepted once
//! every partition with acknowledged records is open.
//!
//! # Order of stopping
//!
//! `/ready` turns false, other brokers take over the leaderships, clients are informed of that for
//! a moment, and the listeners close. Pending JoinGroup and SyncGroup requests are answered so that
//! clients look up the coordinator; other requests finish, waiting fetches are dropped. What the
//! bucket lacks for a restore is written there, beside records. Then the background tasks end, and
//! the shards with a last checkpoint.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use ropewalk_codec::Str;
use ropewalk_disk::{Disk, RealDisk};
use ropewalk_node::NodeError;
use ropewalk_node::supervision::{OnFatal, StopGuard};
use ropewalk_shard::BrokerId;
use ropewalk_shard::manifest::RestoreState;
use ropewalk_store::{DataDir, Identity, bootstrap, recovery};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::admin::{self, Admin, measured};
use crate::catalog::{Balancer, MembersLoop};
use crate::cluster::metrics::PeerMetrics;
use crate::cluster::{Entrance, KnownBroker};
use crate::handle::{self, Context};
use crate::limits;
use crate::listen::{self, Acceptor, Lanes};
use crate::retention::RetentionTask;
use crate::settings::Settings;
use crate::supervision::{self, Supervisor};

mod apply_listener;
mod bind;
mod connections;
mod round_metrics;
mod disk_speed;
mod own_report;
mod status;
mod raft_runtime;
mod tier_runtime;
mod join;
mod registration;
mod open;
pub mod inside;
pub mod restore;
pub mod surroundings;
mod tier;

use bind::{
    BoundListener, admin_endpoint, bind, bind_all, broker_info, local_address, peer_addresses,
};
use connections::Connections;
use open::{OpenParts, Others, Parts};
use raft_runtime::RaftRuntime;
use registration::Registration;
use round_metrics::RoundMetrics;
use status::Status;
use surroundings::StoreOptions;
use tier::{OpenTier, RunningTier};

/// Shards of a new cluster, without the catalog shard.
const SHARDS: u32 = 24;

/// What a broker is started with.
pub struct Start {
    /// The broker's settings.
    pub settings: Settings,
    /// The data directory.
    pub dir: PathBuf,
    /// The cluster id that an empty data directory is formatted with. With `None` an empty data
    /// directory is refused.
    pub format: Option<String>,
    /// Receives the error that must end the process: the disk failed (D2), or a thread or task
    /// ended that the broker cannot run without.
    pub on_fatal: OnFatal,
}

/// The reason why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot bind any address of its host.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address that cannot be bound.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The data directory belongs to another broker.
    #[error("node.id is {set}, but {} belongs to broker {found}", dir.display())]
    OtherBroker {
        /// The data directory.
        dir: PathBuf,
        /// The id of the broker that the directory belongs to.
        found: i32,
        /// The `node.id` of the settings.
        set: i32,
    },
    /// Opening the data directory panicked: a log entry cannot be read, or the program has a bug.
    /// The log holds the panic's own line.
    #[error("the data directory cannot be opened: {0}")]
    Opening(String),
    /// The cluster of the settings did not let this broker join, and a person has to act first.
    #[error("the broker cannot join the cluster: {0}")]
    Join(String),
    /// The connections to the other brokers cannot be opened.
    #[error("the other brokers cannot be reached: {0}")]
    Peers(#[source] ropewalk_peer::OpenError),
    /// The bucket for older records cannot be used.
    #[error("ropewalk.tier.url: {0}")]
    Tier(#[from] ropewalk_tier::TierError),
    /// A restore into this data directory began and has not finished.
    #[error(
        "{}: a restore into this directory has not finished: repeat the same `restore` command first",
        .0.display()
    )]
    UnfinishedRestore(PathBuf),
    /// A basic call to the operating system failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The catalog shard, which lists all topics, is lost or damaged. Nothing can be served.
    #[error("the catalog is damaged: {0}")]
    CatalogDamaged(String),
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    _ends: StopGuard,
    context: Arc<Context>,
    kafka: Vec<SocketAddr>,
    admin: SocketAddr,
    status: Arc<Status>,
    supervisor: Supervisor,
    stopping: watch::Sender<bool>,
    admin_stopping: watch::Sender<bool>,
    listeners: JoinSet<()>,
    background: JoinSet<()>,
    /// What uploads to the bucket and reads from it.
    tier: Option<RunningTier>,
    /// Dropped last: the drivers and the connections to the other brokers.
    _raft_runtime: Option<RaftRuntime>,
}

impl Broker {
    /// Starts a broker, and returns when it serves clients.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(start: Start) -> Result<Self, StartError> {
        let settings = Arc::new(start.settings);
        let bound = bind_all(&settings).await?;
        let admin_socket = bind(&admin_endpoint(&settings)).await?;
        let kafka = bound.iter().filter_map(|bound| bound.socket.local_addr().ok()).collect();
        let admin = local_address(&admin_socket)?;
        let others = others(&settings, &bound, admin).await?;

        let mut registry = Registry::with_prefix("ropewalk");
        let metrics = handle::metrics::Metrics::register(&mut registry);
        let rounds = RoundMetrics::register(&mut registry);
        let connection_metrics = listen::metrics::Metrics::register(&mut registry);
        let status = Status::new(&settings);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
        let peer_metrics = register(&mut registry, &status, &disk);

        let supervisor = Supervisor::new(Arc::clone(&start.on_fatal));
        let mut background = JoinSet::new();
        let (stopping, stop) = watch::channel(false);
        let (admin_stopping, admin_stop) = watch::channel(false);
        let ends = supervisor.stop_guard();
        let admin_parts = admin_parts(&settings, &status, registry);
        let admin_server = admin::serve(admin_socket, Arc::clone(&admin_parts), admin_stop);
        background.spawn(supervisor.endless(&supervision::ADMIN_SERVER, admin_server));

        let parts = Parts {
            own: known_broker(&settings, &bound),
            settings: Arc::clone(&settings),
            disk,
            dir: start.dir,
            rounds,
            status: Arc::clone(&status),
            supervisor: supervisor.clone(),
            others,
            store: StoreOptions::default(),
        };
        let mut opened = parts.open(start.format, start.on_fatal).await?;
        refuse_unfinished_restore(&opened).await?;
        peer_metrics.set(&opened.cluster);
        let context = opened.context(metrics);
        status.opened(opened.to_admin(&context));
        let tier = OpenTier::open(&opened).await?;
        let (parts, registry) = ((&opened, &*context), (&*status, &admin_parts.metrics));
        let tier = tier.map(|tier| tier.start(parts, registry, &supervisor, &mut background));
        run_tasks(&mut opened, &supervisor, &mut background);

        let (entrance, serving) = Entrance::new(&context.cluster, &context.node);
        let acceptor = Acceptor::new(
            Arc::new(Arc::clone(&context)),
            listen_options(&settings),
            Lanes::new(settings.request_bytes_max()),
            connection_metrics,
            [stop, serving],
        );
        let listeners = accept_all(&acceptor, bound, &supervisor);
        entrance.open().await;
        background.spawn(supervisor.endless(&supervision::ENTRANCE, entrance.watch()));
        Ok(Self {
            _ends: ends,
            context,
            kafka,
            admin,
            status,
            supervisor,
            stopping,
            admin_stopping,
            listeners,
            background,
            tier,
            _raft_runtime: opened.raft_runtime,
        })
    }

    /// Where Kafka clients connect.
    #[must_use]
    pub fn kafka(&self) -> &[SocketAddr] {
        &self.kafka
    }

    /// The address of the admin server.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The reasons why the broker is not ready, as `/ready` lists them.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        admin::Source::obstacles(&*self.status)
    }

    /// Conditions beside readiness, as `GET /v1/broker` lists them.
    #[must_use]
    pub fn conditions(&self) -> Vec<admin::Condition> {
        admin::Source::conditions(&*self.status)
    }

    /// The context that request handlers work with.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Stops the broker in the order that this module's documentation gives.
    pub async fn stop(mut self) {
        withdraw(&self.status, &self.context, &self.supervisor).await;
        let _ = self.stopping.send(true);
        while self.listeners.join_next().await.is_some() {}
        if let Some(tier) = &self.tier {
            tier.stop().await;
        }
        self.context.node.stop().await;
        self.context.cluster.stop();
        let _ = self.admin_stopping.send(true);
        self.background.shutdown().await;
    }
}

/// Refuses to serve a part of what is to be restored: records of clients would keep the restore
/// from finishing.
async fn refuse_unfinished_restore(opened: &OpenParts) -> Result<(), StartError> {
    let claim = opened
        .node
        .try_catalog()
        .and_then(|catalog| catalog.state().catalog.as_ref().and_then(|catalog| catalog.claim));
    if claim.is_some_and(|claim| claim.restore == RestoreState::Unfinished) {
        opened.node.stop().await;
        return Err(StartError::UnfinishedRestore(opened.parts.dir.clone()));
    }
    Ok(())
}

/// Gives the leaderships to other brokers, has clients look for them, and ends what serves them.
async fn withdraw(status: &Status, context: &Context, supervisor: &Supervisor) {
    status.stop();
    if context.cluster.hand_over().await {
        tokio::time::sleep(limits::NEXT_LEADER_TOLD).await;
    }
    supervisor.stop();
    context.groups.stop();
}

/// Accepts clients on every listener.
fn accept_all(
    acceptor: &Arc<Acceptor>,
    bound: Vec<BoundListener>,
    supervisor: &Supervisor,
) -> JoinSet<()> {
    let mut listeners = JoinSet::new();
    for BoundListener { name, socket, endpoint } in bound {
        let (host, port) = endpoint;
        info!(listener = &*name, advertised = %format!("{host}:{port}"), "serving Kafka clients");
        let listener = Arc::clone(acceptor).run(socket, name);
        listeners.spawn(supervisor.endless(&supervision::LISTENER, listener));
    }
    listeners
}

/// What the admin server answers from.
fn admin_parts(settings: &Settings, status: &Arc<Status>, registry: Registry) -> Arc<Admin> {
    let source: Arc<dyn admin::Source> = Arc::clone(status) as _;
    let token_file = settings.admin_token_file();
    Arc::new(Admin { source, metrics: Mutex::new(registry), token_file })
}

/// Registers the metrics that are read on demand. Those of the other brokers need the cluster,
/// which the caller sets later.
fn register(registry: &mut Registry, status: &Arc<Status>, disk: &Arc<dyn Disk>) -> PeerMetrics {
    let source: Arc<dyn admin::Source> = Arc::clone(status) as _;
    registry.register_collector(Box::new(measured::Queues(Arc::clone(&source))));
    registry.register_collector(Box::new(measured::Conditions(source)));
    registry.register_collector(Box::new(status.storage(Arc::clone(disk))));
    registry.register_collector(Box::new(supervision::Panics));
    let peers = PeerMetrics::default();
    registry.register_collector(Box::new(peers.clone()));
    peers
}

/// How the other brokers are reached, if the settings name any.
async fn others(
    settings: &Settings,
    bound: &[BoundListener],
    admin: SocketAddr,
) -> Result<Option<Others>, StartError> {
    let Some(peers) = settings.peers().expect("checked when the settings were read") else {
        return Ok(None);
    };
    let listen = peer_addresses(&peers).await?;
    let info = broker_info(settings, bound, admin, (&peers, listen));
    Ok(Some(Others { settings: peers, listen, info, network: None }))
}

fn known_broker(settings: &Settings, bound: &[BoundListener]) -> KnownBroker {
    let endpoints = bound.iter().map(|bound| (Arc::clone(&bound.name), bound.endpoint.clone()));
    KnownBroker {
        id: BrokerId(settings.node_id()),
        rack: settings.rack().map(Str::from),
        endpoints: endpoints.collect(),
    }
}

/// Starts the tasks that run as long as the broker.
fn run_tasks(opened: &mut OpenParts, supervisor: &Supervisor, background: &mut JoinSet<()>) {
    let settings = Arc::clone(&opened.parts.settings);
    let reconciler = Arc::clone(&opened.reconciler).run();
    background.spawn(supervisor.endless(&supervision::RECONCILER, reconciler));
    let groups = Arc::clone(&opened.groups).run();
    background.spawn(supervisor.endless(&supervision::GROUPS, groups));
    let (node, view) = (Arc::clone(&opened.node), Arc::clone(&opened.view));
    let queue_metrics = Arc::clone(&opened.queue_metrics);
    let retention = RetentionTask::new(node, view, Arc::clone(&settings), queue_metrics).run();
    background.spawn(supervisor.endless(&supervision::RETENTION, retention));
    if let Some(others) = opened.parts.others.take() {
        let parts =
            || (Arc::clone(&opened.cluster), Arc::clone(&opened.node), Arc::clone(&opened.view));
        let (cluster, node, view) = parts();
        let balancer = Arc::new(Balancer::new(cluster, node, view)).run();
        background.spawn(supervisor.endless(&supervision::BALANCER, balancer));
        let (cluster, node, view) = parts();
        let members = Arc::new(MembersLoop::new(cluster, node, view)).run();
        background.spawn(supervisor.endless(&supervision::MEMBERS, members));
        let registration = Registration {
            cluster: Arc::clone(&opened.cluster),
            view: Arc::clone(&opened.view),
            id: opened.cluster.own().id,
            others,
            token_file: settings.admin_token_file(),
        };
        background.spawn(supervisor.endless(&supervision::REGISTRATION, registration.run()));
    }
}

/// Formats an empty data directory for a broker and a cluster.
///
/// # Errors
/// When the directory is not empty, is in use, or the disk refuses.
pub fn format(settings: &Settings, dir: &Path, cluster_id: &str) -> Result<(), NodeError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
    let data = DataDir::new(disk, dir.to_owned());
    let _lock = data.lock()?;
    let identity = identity(settings, cluster_id.to_owned());
    bootstrap::format(&data, &identity, &recovery::Options::default())?;
    Ok(())
}

fn identity(settings: &Settings, cluster_id: String) -> Identity {
    Identity::first(cluster_id, BrokerId(settings.node_id()), SHARDS)
}

/// The listeners' options, taken from the settings.
fn listen_options(settings: &Arc<Settings>) -> listen::Options {
    listen::Options {
        frame_bytes_max: settings.frame_bytes_max(),
        idle_max: settings.idle_max(),
        frame_time_max: limits::FRAME_TIME_MAX,
        write_time_max: limits::WRITE_TIME_MAX,
        limits: Arc::new(Connections::new(Arc::clone(settings))),
    }
}
