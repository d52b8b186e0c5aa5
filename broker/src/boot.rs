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
//! `/ready` turns false and the listeners close. Pending JoinGroup and SyncGroup requests are
//! answered so that clients look up the coordinator; other requests finish, waiting fetches are
//! dropped. Then the background tasks end, and the shards with a last checkpoint.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use ropewalk_codec::Str;
use ropewalk_disk::{Disk, RealDisk};
use ropewalk_node::supervision::{OnFatal, StopGuard};
use ropewalk_node::{NoPeers, Node, NodeError, NodeOptions};
use ropewalk_shard::BrokerId;
use ropewalk_store::{DataDir, Identity, bootstrap, checkpoint, recovery, transfer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::admin::{self, Admin, WakeUps, measured};
use crate::catalog::{Reconciler, Topics, View, orphans};
use crate::clock;
use crate::cluster::{Cluster, KnownBroker};
use crate::group::{self, Coordinator};
use crate::handle::{self, Context};
use crate::limits;
use crate::listen::{self, Acceptor, Budget, Lanes};
use crate::log_limit::LogLimit;
use crate::queue_metrics::QueueMetrics;
use crate::retention::RetentionTask;
use crate::settings::{Endpoint, Settings};
use crate::supervision::{self, Supervisor};

mod apply_listener;
mod connections;
mod round_metrics;
mod status;

use apply_listener::{ApplyListener, Policy};
use connections::Connections;
use round_metrics::RoundMetrics;
use status::Status;

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
}

/// A bound socket, and the host and port that its clients are given.
struct BoundListener {
    name: Arc<str>,
    socket: TcpListener,
    endpoint: (Str, i32),
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

        let mut registry = Registry::with_prefix("ropewalk");
        let metrics = handle::metrics::Metrics::register(&mut registry);
        let rounds = RoundMetrics::register(&mut registry);
        let connection_metrics = listen::metrics::Metrics::register(&mut registry);
        let status = Status::new(&settings);
        let source: Arc<dyn admin::Source> = Arc::clone(&status) as _;
        registry.register_collector(Box::new(measured::Queues(Arc::clone(&source))));
        registry.register_collector(Box::new(measured::Conditions(Arc::clone(&source))));
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
        registry.register_collector(Box::new(status.storage(Arc::clone(&disk))));
        registry.register_collector(Box::new(supervision::Panics));

        let supervisor = Supervisor::new(Arc::clone(&start.on_fatal));
        let mut background = JoinSet::new();
        let (stopping, stop) = watch::channel(false);
        let (admin_stopping, admin_stop) = watch::channel(false);
        let ends = supervisor.stop_guard();
        let token_file = settings.admin_token_file();
        let admin_parts = Arc::new(Admin { source, metrics: Mutex::new(registry), token_file });
        let admin_server = admin::serve(admin_socket, admin_parts, admin_stop);
        background.spawn(supervisor.endless(&supervision::ADMIN_SERVER, admin_server));

        let endpoints = bound.iter().map(|bound| (Arc::clone(&bound.name), bound.endpoint.clone()));
        let endpoints = endpoints.collect();
        let parts =
            Parts { settings: Arc::clone(&settings), disk, dir: start.dir, rounds, endpoints };
        let opened = parts.open(start.format, start.on_fatal).await?;
        let context = opened.context(metrics);
        status.opened(opened.to_admin(&context));
        let reconciler = Arc::clone(&opened.reconciler).run();
        background.spawn(supervisor.endless(&supervision::RECONCILER, reconciler));
        let groups = Arc::clone(&opened.groups).run();
        background.spawn(supervisor.endless(&supervision::GROUPS, groups));
        let (node, view) = (Arc::clone(&opened.node), Arc::clone(&opened.view));
        let queue_metrics = Arc::clone(&opened.queue_metrics);
        let retention = RetentionTask::new(node, view, Arc::clone(&settings), queue_metrics).run();
        background.spawn(supervisor.endless(&supervision::RETENTION, retention));

        let acceptor = Acceptor::new(
            Arc::new(Arc::clone(&context)),
            listen_options(&settings),
            Lanes::new(settings.request_bytes_max()),
            connection_metrics,
            stop,
        );
        let mut listeners = JoinSet::new();
        for BoundListener { name, socket, endpoint } in bound {
            let (host, port) = endpoint;
            info!(listener = &*name, advertised = %format!("{host}:{port}"), "serving Kafka clients");
            let listener = Arc::clone(&acceptor).run(socket, name);
            listeners.spawn(supervisor.endless(&supervision::LISTENER, listener));
        }
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
        self.status.stop();
        self.supervisor.stop();
        self.context.groups.stop();
        let _ = self.stopping.send(true);
        while self.listeners.join_next().await.is_some() {}
        self.context.node.stop().await;
        let _ = self.admin_stopping.send(true);
        self.background.shutdown().await;
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

/// What is needed to open a data directory.
struct Parts {
    settings: Arc<Settings>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    rounds: RoundMetrics,
    /// Host and port that clients of each listener are given.
    endpoints: HashMap<Arc<str>, (Str, i32)>,
}

/// An open data directory with the parts that are built on it.
struct OpenParts {
    parts: Parts,
    node: Arc<Node>,
    view: Arc<View>,
    cluster: Arc<Cluster>,
    queue_metrics: Arc<QueueMetrics>,
    wake_ups: Arc<WakeUps>,
    reconciler: Arc<Reconciler>,
    groups: Arc<Coordinator>,
}

impl Parts {
    async fn open(
        self,
        format: Option<String>,
        on_fatal: OnFatal,
    ) -> Result<OpenParts, StartError> {
        let view = Arc::new(View::new(Arc::clone(&self.settings)));
        let queue_metrics = Arc::new(QueueMetrics::default());
        let wake_ups = Arc::new(WakeUps::default());
        let listener = ApplyListener::new(
            Arc::clone(&view),
            Arc::clone(&queue_metrics),
            Arc::clone(&wake_ups),
        );
        let listener = Arc::new(listener);
        let node_id = self.settings.node_id();
        let rounds = self.rounds.clone();
        let options = NodeOptions {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            format: format.map(|cluster_id| identity(&self.settings, cluster_id)),
            observer: Arc::clone(&listener) as _,
            peers: Arc::new(NoPeers),
            policy: Arc::new(Policy(Arc::clone(&view))),
            on_fatal,
            on_round: Arc::new(move |round| rounds.observe(round)),
            clock_ms: clock::now_ms,
            recovery: recovery::Options::default(),
            checkpoint: checkpoint::Options::default(),
            transfer: transfer::Options::default(),
        };
        // Recovery reads files for as long as it takes, so it runs on a blocking thread.
        let opened = tokio::task::spawn_blocking(move || Node::open(options)).await;
        let node = match opened {
            Ok(opened) => Arc::new(opened?),
            Err(ended) => return Err(StartError::Opening(ended.to_string())),
        };
        let found = node.identity().broker_id.0;
        if found != node_id {
            node.stop().await;
            return Err(StartError::OtherBroker { dir: self.dir, found, set: node_id });
        }
        if let Some((_, damage)) = node.damaged().iter().find(|(shard, _)| is_catalog(*shard)) {
            let damage = damage.clone();
            node.stop().await;
            return Err(StartError::CatalogDamaged(damage));
        }
        let own = KnownBroker {
            id: BrokerId(node_id),
            rack: self.settings.rack().map(Str::from),
            endpoints: self.endpoints.clone(),
        };
        let cluster = Cluster::alone(Arc::clone(&node), own);
        let reconciler =
            Reconciler::new(Arc::clone(&node), Arc::clone(&view), Arc::clone(&cluster));
        let reconciler = reconciler
            .with_repaired_catalog(orphans::are_kept(&self.dir))
            .abandoning_orphans(orphans::are_abandoned(&self.dir).then(|| self.dir.clone()));
        let reconciler = Arc::new(reconciler);
        let options = group::Options::new(&self.settings);
        let groups = Coordinator::new(Arc::clone(&node), Arc::clone(&view), options);
        listener.follow(&node, &groups);
        lead(&node).await;
        Ok(OpenParts {
            parts: self,
            node,
            view,
            cluster,
            queue_metrics,
            wake_ups,
            reconciler,
            groups,
        })
    }
}

/// Waits until every shard has a leader, at most [`limits::LEAD_TIME_MAX`]. `/ready` reports a
/// shard that has none by then.
async fn lead(node: &Node) {
    let all_lead = async {
        while !node.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(limits::LEAD_TIME_MAX, all_lead).await;
}

fn is_catalog(shard: ropewalk_shard::ShardId) -> bool {
    shard == ropewalk_shard::ShardId::CATALOG
}

impl OpenParts {
    fn to_admin(&self, context: &Arc<Context>) -> admin::Open {
        admin::Open {
            context: Arc::clone(context),
            queue_metrics: Arc::clone(&self.queue_metrics),
            wake_ups: Arc::clone(&self.wake_ups),
        }
    }

    fn context(&self, metrics: handle::metrics::Metrics) -> Arc<Context> {
        let settings = &self.parts.settings;
        let (node, view) = (Arc::clone(&self.node), Arc::clone(&self.view));
        let topics = Topics::new(node, view, Arc::clone(settings), Arc::clone(&self.reconciler));
        Arc::new(Context {
            broker_id: settings.node_id(),
            cluster_id: Str::from(self.node.identity().cluster_id.as_str()),
            cluster: Arc::clone(&self.cluster),
            log_dir: Str::from(self.parts.dir.display().to_string()),
            settings: Arc::clone(settings),
            node: Arc::clone(&self.node),
            view: Arc::clone(&self.view),
            topics,
            groups: Arc::clone(&self.groups),
            answers: Budget::new(limits::ANSWER_BYTES_MAX),
            fetch_sessions: handle::fetch::Sessions::new(
                settings.fetch_sessions_max(),
                metrics.fetch_sessions.clone(),
            ),
            buffers: handle::Buffers::default(),
            producer_ids: handle::init_producer_id::ProducerIds::default(),
            metrics,
            refusals: LogLimit::default(),
        })
    }
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

/// Binds every Kafka listener.
async fn bind_all(settings: &Settings) -> Result<Vec<BoundListener>, StartError> {
    let listeners = settings.listeners().expect("checked when the settings were read");
    let advertised = settings.advertised().expect("checked when the settings were read");
    let mut bound = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let socket = bind(&listener.endpoint).await?;
        let advertised = advertised.iter().find(|advertised| advertised.name == listener.name);
        let endpoint = match advertised {
            Some(advertised) => {
                (Str::from(advertised.endpoint.host.as_str()), i32::from(advertised.endpoint.port))
            }
            None => {
                let port = local_address(&socket)?.port();
                (reachable_host(&listener.endpoint), i32::from(port))
            }
        };
        bound.push(BoundListener { name: listener.name.into(), socket, endpoint });
    }
    Ok(bound)
}

/// The advertised host if no setting names one: the host of the listener, or this machine's name.
fn reachable_host(endpoint: &Endpoint) -> Str {
    if endpoint.is_wildcard() {
        let name = rustix::system::uname();
        return Str::from(name.nodename().to_string_lossy().into_owned());
    }
    Str::from(endpoint.host.as_str())
}

/// Binds the first address of an endpoint that is available.
async fn bind(endpoint: &Endpoint) -> Result<TcpListener, StartError> {
    let refuse = |source| StartError::Bind {
        address: format!("{}:{}", endpoint.host, endpoint.port),
        source,
    };
    let host = if endpoint.host.is_empty() { "::" } else { &endpoint.host };
    let found = tokio::net::lookup_host((host, endpoint.port)).await.map_err(refuse)?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if endpoint.host.is_empty() {
        // A machine without IPv6 still has an IPv4 wildcard address.
        addresses.push(SocketAddr::from(([0, 0, 0, 0], endpoint.port)));
    }
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match Acceptor::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(refuse(failed))
}

fn admin_endpoint(settings: &Settings) -> Endpoint {
    Endpoint::parse(&settings.admin()).expect("checked when the settings were read")
}

fn local_address(socket: &TcpListener) -> Result<SocketAddr, StartError> {
    let refuse = |source| StartError::Bind { address: "a bound socket".into(), source };
    socket.local_addr().map_err(refuse)
}
