//! Opens the data directory of a broker, and joins the cluster that it belongs to.
//!
//! # A broker of several
//!
//! An empty directory asks to join ([`super::join`]), is formatted for the cluster that answers,
//! and is opened. Then the connections to the other brokers open. The broker registers under the
//! number of this start before it takes the files of its replica of the catalog: from then on the
//! cluster refuses an empty directory under its id, because that has lost the votes of this one. It
//! serves when it has the catalog and knows a leader of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ropewalk_codec::Str;
use ropewalk_disk::Disk;
use ropewalk_node::supervision::{Failure, OnFatal};
use ropewalk_node::{NoPeers, Node, NodeOptions, Peers, StartedAs, blocking};
use ropewalk_peer::{CertificateFiles, PeerAddress, Started};
use ropewalk_shard::command::FORMAT_MAX;
use ropewalk_shard::state::catalog::BrokerInfo;
use ropewalk_shard::{BrokerId, ShardId};
use ropewalk_store::directory::DataDirContents;
use ropewalk_store::{DataDir, Identity};
use tokio::time::Instant;
use tracing::info;

use super::StartError;
use super::apply_listener::{ApplyListener, Policy};
use super::join::{Join, Joined};
use super::own_report::OwnReport;
use super::raft_runtime::RaftRuntime;
use super::round_metrics::RoundMetrics;
use super::status::Status;
use super::surroundings::{Network, StoreOptions};
use crate::admin::{self, WakeUps};
use crate::catalog::{Reconciler, Topics, View, orphans};
use crate::cluster::{self, Cluster, KnownBroker, Link};
use crate::group::{self, Coordinator};
use crate::handle::{self, Context};
use crate::limits;
use crate::listen::Budget;
use crate::log_limit::LogLimit;
use crate::queue_metrics::{QueueMetrics, ShardLoad};
use crate::settings::{PeerSettings, Settings};
use crate::supervision::{self, Supervisor};

/// What is needed to open a data directory.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) rounds: RoundMetrics,
    pub(super) status: Arc<Status>,
    pub(super) supervisor: Supervisor,
    /// This broker, as clients see it.
    pub(super) own: KnownBroker,
    /// How the other brokers are reached; `None` for a broker that is alone.
    pub(super) others: Option<Others>,
    /// The bounds of the store, and its clock.
    pub(super) store: StoreOptions,
}

/// How the other brokers are reached, and reach this one.
pub(super) struct Others {
    pub(super) settings: PeerSettings,
    pub(super) listen: [SocketAddr; 2],
    /// The registration of this broker in the catalog.
    pub(super) info: BrokerInfo,
    /// The network of a simulation; `None` for QUIC and HTTP.
    pub(super) network: Option<Arc<dyn Network>>,
}

/// An open data directory with the parts that are built on it.
pub(super) struct OpenParts {
    pub(super) parts: Parts,
    pub(super) node: Arc<Node>,
    pub(super) view: Arc<View>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) queue_metrics: Arc<QueueMetrics>,
    pub(super) load: Arc<ShardLoad>,
    pub(super) wake_ups: Arc<WakeUps>,
    pub(super) reconciler: Arc<Reconciler>,
    pub(super) groups: Arc<Coordinator>,
    /// The runtime of the drivers and of the connections to the other brokers.
    pub(super) raft_runtime: Option<RaftRuntime>,
}

impl Parts {
    pub(super) async fn open(
        mut self,
        format: Option<String>,
        on_fatal: OnFatal,
    ) -> Result<OpenParts, StartError> {
        let view = Arc::new(View::new(Arc::clone(&self.settings)));
        let queue_metrics = Arc::new(QueueMetrics::default());
        let load = Arc::new(ShardLoad::default());
        let wake_ups = Arc::new(WakeUps::default());
        let raft_runtime = match &self.others {
            Some(Others { network: Some(_), .. }) => Some(RaftRuntime::shared()),
            Some(_) => Some(RaftRuntime::new()?),
            None => None,
        };
        let link = raft_runtime.as_ref().map(|runtime| {
            let _entered = runtime.enter();
            Link::new(self.own.id, Arc::clone(&view) as _)
        });
        let listener = Arc::new(ApplyListener::new(
            Arc::clone(&view),
            (Arc::clone(&queue_metrics), Arc::clone(&load)),
            Arc::clone(&wake_ups),
            link.clone(),
        ));
        let (identity, joined) = self.identity(format).await?;
        let link_and_runtime = (link.as_ref(), raft_runtime.as_ref());
        let node = self.open_node(identity, (&view, &listener), link_and_runtime, on_fatal).await?;
        let own = self.own.clone();
        let cluster = match (&mut self.others, link, &raft_runtime) {
            (Some(others), Some(link), Some(runtime)) => {
                others.info.incarnation = node.incarnation();
                self.connect(&node, link, runtime, joined).await?
            }
            _ => Cluster::alone(Arc::clone(&node), own),
        };
        let reconciler =
            Reconciler::new(Arc::clone(&node), Arc::clone(&view), Arc::clone(&cluster));
        let reconciler = reconciler
            .with_repaired_catalog(orphans::are_kept(&self.dir))
            .abandoning_orphans(orphans::are_abandoned(&self.dir).then(|| self.dir.clone()));
        let reconciler = Arc::new(reconciler);
        let options = group::Options::new(&self.settings);
        let groups = Coordinator::new(Arc::clone(&node), Arc::clone(&view), options);
        listener.follow(&node, &groups);
        if self.others.is_none() {
            lead(&node).await;
        }
        let opened = OpenParts {
            parts: self,
            node,
            view,
            cluster,
            queue_metrics,
            load,
            wake_ups,
            reconciler,
            groups,
            raft_runtime,
        };
        opened.cluster.set_report(Arc::new(opened.own_report()));
        Ok(opened)
    }

    /// The identity for which an empty directory is formatted. The broker joins a cluster if the
    /// settings name one.
    async fn identity(
        &self,
        format: Option<String>,
    ) -> Result<(Option<Identity>, Option<Joined>), StartError> {
        let id = BrokerId(self.settings.node_id());
        let join = self.others.as_ref().filter(|others| !others.settings.join.is_empty());
        let Some(others) = join else {
            let of = |cluster_id| Identity::first(cluster_id, id, self.store.shards);
            return Ok((format.map(of), None));
        };
        let data = DataDir::new(Arc::clone(&self.disk), self.dir.clone());
        let contents = data.contents().map_err(ropewalk_node::NodeError::from)?;
        if !matches!(contents, DataDirContents::Empty | DataDirContents::HalfFormatted) {
            return Ok((None, None));
        }
        let joined = self.join(others).await?;
        if let Some(expected) = format.filter(|expected| *expected != joined.cluster_id) {
            return Err(StartError::Join(format!(
                "format.cluster.id is {expected}, but ropewalk.cluster.join names brokers of cluster {}",
                joined.cluster_id
            )));
        }
        let identity = Identity::joining(joined.cluster_id.clone(), id, joined.shards);
        Ok((Some(identity), Some(joined)))
    }

    /// Asks the brokers of the settings until one answers.
    async fn join(&self, others: &Others) -> Result<Joined, StartError> {
        let join = Join {
            brokers: &others.settings.join,
            id: BrokerId(self.settings.node_id()),
            info: &others.info,
            token_file: self.settings.admin_token_file(),
            network: others.network.clone(),
        };
        join.until_joined(|why| self.status.waits(why)).await
    }

    async fn open_node(
        &self,
        format: Option<Identity>,
        (view, listener): (&Arc<View>, &Arc<ApplyListener>),
        (link, runtime): (Option<&Arc<Link>>, Option<&RaftRuntime>),
        on_fatal: OnFatal,
    ) -> Result<Arc<Node>, StartError> {
        let rounds = self.rounds.clone();
        let peers: Arc<dyn Peers> = match link {
            Some(link) => Arc::clone(link) as _,
            None => Arc::new(NoPeers),
        };
        let StoreOptions { recovery, checkpoint, transfer, clock_ms, shards: _ } =
            self.store.clone();
        let options = NodeOptions {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            format,
            observer: Arc::clone(listener) as _,
            peers,
            policy: Arc::new(Policy(Arc::clone(view))),
            on_fatal,
            on_round: Arc::new(move |round| rounds.observe(round)),
            clock_ms,
            recovery,
            checkpoint,
            transfer,
        };
        // Recovery reads files for as long as it takes, so it runs on a blocking thread. The
        // drivers run on the runtime to which that belongs.
        let opened = {
            let _entered = runtime.and_then(RaftRuntime::enter);
            blocking::start(move || Node::open(options))
        };
        let node = match opened.await {
            Ok(opened) => Arc::new(opened?),
            Err(ended) => return Err(StartError::Opening(ended)),
        };
        let (found, set) = (node.identity().broker_id.0, self.settings.node_id());
        if found != set {
            node.stop().await;
            return Err(StartError::OtherBroker { dir: self.dir.clone(), found, set });
        }
        if let Some((_, damage)) = node.damaged().iter().find(|(shard, _)| is_catalog(*shard)) {
            let damage = damage.clone();
            node.stop().await;
            return Err(StartError::CatalogDamaged(damage));
        }
        Ok(node)
    }

    /// Opens the connections to the other brokers, and waits for the catalog.
    async fn connect(
        &self,
        node: &Arc<Node>,
        link: Arc<Link>,
        runtime: &RaftRuntime,
        joined: Option<Joined>,
    ) -> Result<Arc<Cluster>, StartError> {
        let others = self.others.as_ref().expect("called with other brokers only");
        let PeerSettings { certificate, key, ca, .. } = others.settings.clone();
        let peers = ropewalk_peer::Options {
            broker: self.own.id,
            cluster_id: node.identity().cluster_id.clone(),
            incarnation: node.incarnation(),
            started: Some(started(node.start())),
            features: u32::from(FORMAT_MAX),
            listen: others.listen,
            certificates: CertificateFiles { chain: certificate, key, ca },
        };
        let (node_kept, own) = (Arc::clone(node), self.own.clone());
        let opened = {
            let _entered = runtime.enter();
            match &others.network {
                Some(network) => {
                    let connected = network.connect(&peers, Arc::clone(&link) as _);
                    Ok(Cluster::over(node_kept, link, own, connected))
                }
                None => Cluster::open(cluster::Options { node: node_kept, link, own, peers }),
            }
        };
        let (cluster, service) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                node.stop().await;
                return Err(StartError::Peers(error));
            }
        };
        let run = async { service.run().await.map_err(|error| Failure::Fault(error.to_string())) };
        runtime.spawn(self.supervisor.watch(&supervision::CLUSTER, String::new(), run));
        info!(listen = %others.listen[0], "connecting to the other brokers");
        cluster.seed(joined.map(|joined| joined.brokers).unwrap_or_default());
        if node.try_catalog().is_none() {
            self.receive_catalog(node, &cluster).await?;
        }
        Ok(cluster)
    }

    /// Registers the broker under the number of this start, and receives its replica of the
    /// catalog.
    async fn receive_catalog(&self, node: &Node, cluster: &Cluster) -> Result<(), StartError> {
        let others = self.others.as_ref().expect("called with other brokers only");
        if others.settings.join.is_empty() {
            return Err(StartError::Join(
                "this broker has not received the catalog yet: set ropewalk.cluster.join to the admin addresses \
                 of the other brokers"
                    .into(),
            ));
        }
        let joined = self.join(others).await?;
        let Some(replica) = joined.replica else {
            return Err(StartError::Join("the answer names no replica of the catalog".into()));
        };
        let seeds: BTreeMap<BrokerId, PeerAddress> = joined.brokers;
        cluster.seed(seeds);
        node.expect(ShardId::CATALOG, replica);
        info!(replica, "receiving the catalog");
        self.status.waits("the catalog is being received from another broker".into());
        node.catalog_arrived().await;
        Ok(())
    }
}

/// The starts of this broker, as the others are informed of them.
fn started(node: &StartedAs) -> Started {
    let start = |start: &ropewalk_store::directory::Start| ropewalk_peer::Start {
        incarnation: start.incarnation,
        process: start.process,
    };
    Started { process: node.own.process, earlier: node.earlier.iter().map(start).collect() }
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

fn is_catalog(shard: ShardId) -> bool {
    shard == ShardId::CATALOG
}

impl OpenParts {
    pub(super) fn to_admin(&self, context: &Arc<Context>) -> admin::Open {
        admin::Open {
            context: Arc::clone(context),
            queue_metrics: Arc::clone(&self.queue_metrics),
            wake_ups: Arc::clone(&self.wake_ups),
        }
    }

    /// What this broker reports to the others.
    fn own_report(&self) -> OwnReport {
        let node = Arc::clone(&self.node);
        OwnReport {
            id: self.cluster.own().id,
            incarnation: self.node.incarnation(),
            started: Instant::now(),
            view: Arc::clone(&self.view),
            load: Arc::clone(&self.load),
            disk: self.parts.rounds.speed(),
            is_disk_full: Box::new(move || node.is_disk_full()),
        }
    }

    pub(super) fn context(&self, metrics: handle::metrics::Metrics) -> Arc<Context> {
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
            load: Arc::clone(&self.load),
            answers: Budget::new(limits::ANSWER_BYTES_MAX),
            remote: OnceLock::new(),
            cold: Budget::new(limits::COLD_BYTES_MAX),
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
