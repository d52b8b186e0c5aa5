//! Restores a lost cluster into a data directory: a broker without any listener, whose shards take
//! the commands of the restore.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::registry::Registry;
use ropewalk_disk::{Disk, RealDisk};
use ropewalk_node::supervision::OnFatal;
use ropewalk_shard::BrokerId;
use ropewalk_store::{DataDir, directory::DataDirContents};
use ropewalk_tier::Bucket;
use tokio::task::JoinSet;

use super::StartError;
use super::open::{OpenParts, Parts};
use super::round_metrics::RoundMetrics;
use super::status::Status;
use super::surroundings::StoreOptions;
use crate::catalog::Topics;
use crate::cluster::KnownBroker;
use crate::restore::{
    Directory, Plan, PlanOptions, Recorded, RestoreError, RestoreReport, Stage, carry_out, plan,
};
use crate::settings::Settings;
use crate::supervision::{self, Supervisor};

/// The file in a data directory that says that its restore has finished, so that a restore which is
/// repeated at each start of a pod does not open the directory.
const FINISHED: &str = "restored";

/// What a restore is started with.
pub struct Restore {
    /// Settings of the broker that the directory is for.
    pub settings: Arc<Settings>,
    /// The data directory.
    pub dir: PathBuf,
    /// The bucket of the lost cluster.
    pub bucket: Bucket,
    /// Whether topics are made from the folders of objects if there is no catalog.
    pub without_catalog: bool,
    /// Whether partitions are restored of which parts are missing.
    pub accept_loss: bool,
    /// Whether an empty directory is filled only if the settings have `format.cluster.id`.
    pub if_format_allowed: bool,
    /// Receives the error that must end the process.
    pub on_fatal: OnFatal,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Why a cluster was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The bucket is not enough for a restore, or the restore was refused.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Whether the restore of a data directory has finished.
#[must_use]
pub fn is_restored(dir: &Path) -> bool {
    dir.join(FINISHED).exists()
}

impl Restore {
    /// What a restore would do. Nothing is changed.
    ///
    /// # Errors
    /// When the bucket cannot be read, or is not enough for a restore.
    pub async fn plan(&self, progress: impl Fn(usize, usize)) -> Result<Plan, RestoreFailure> {
        let options = PlanOptions { without_catalog: self.without_catalog };
        Ok(plan(&self.bucket, options, progress).await?)
    }

    /// Restores the cluster, or continues an unfinished restore.
    ///
    /// # Errors
    /// See [`RestoreFailure`].
    pub async fn run(
        self,
        progress: impl Fn(&str, usize, usize),
    ) -> Result<RestoreReport, RestoreFailure> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
        let data = DataDir::new(Arc::clone(&disk), self.dir.clone());
        let contents = data.contents().map_err(ropewalk_node::NodeError::from);
        let is_empty = matches!(
            contents.map_err(StartError::from)?,
            DataDirContents::Empty | DataDirContents::HalfFormatted
        );
        if is_empty && self.if_format_allowed && self.settings.format_cluster_id().is_none() {
            return Err(RestoreError::Empty(self.dir).into());
        }
        let plan = self.plan(|done, all| progress("partitions examined", done, all)).await?;
        let losses = plan.losses();
        if !losses.is_empty() && !self.accept_loss {
            return Err(RestoreError::Losses(losses).into());
        }
        let opened = Opened::open(&self, disk, plan.claim.cluster.as_str()).await?;
        let done = opened.carry_out(&self, &plan, progress).await;
        opened.stop().await;
        let stage = done?;
        let mark = format!("{}\n", self.bucket.url());
        std::fs::write(self.dir.join(FINISHED), mark).map_err(RestoreError::from)?;
        Ok(RestoreReport::new(&plan, self.bucket.url(), stage))
    }
}

/// An open data directory.
struct Opened {
    parts: OpenParts,
    supervisor: Supervisor,
    background: JoinSet<()>,
}

impl Opened {
    async fn open(
        restore: &Restore,
        disk: Arc<dyn Disk>,
        cluster_id: &str,
    ) -> Result<Self, RestoreFailure> {
        let settings = Arc::clone(&restore.settings);
        let supervisor = Supervisor::new(Arc::clone(&restore.on_fatal));
        let id = BrokerId(settings.node_id());
        let parts = Parts {
            own: KnownBroker { id, rack: None, endpoints: Default::default() },
            rounds: RoundMetrics::register(&mut Registry::default()),
            status: Status::new(&settings),
            settings,
            disk,
            dir: restore.dir.clone(),
            supervisor: supervisor.clone(),
            others: None,
            store: StoreOptions::default(),
        };
        let on_fatal = Arc::clone(&restore.on_fatal);
        let parts = parts.open(Some(cluster_id.to_owned()), on_fatal).await?;
        let mut background = JoinSet::new();
        let reconciler = Arc::clone(&parts.reconciler).run();
        background.spawn(supervisor.endless(&supervision::RECONCILER, reconciler));
        let opened = Self { parts, supervisor, background };
        let found = opened.parts.node.identity().cluster_id.clone();
        if found != cluster_id {
            opened.stop().await;
            let why = format!("it belongs to cluster {found}, and the bucket to {cluster_id}");
            return Err(RestoreError::Directory { dir: restore.dir.clone(), why }.into());
        }
        Ok(opened)
    }

    async fn carry_out(
        &self,
        restore: &Restore,
        plan: &Plan,
        progress: impl Fn(&str, usize, usize),
    ) -> Result<Stage, RestoreError> {
        let OpenParts { node, view, cluster, reconciler, .. } = &self.parts;
        let (node, view, cluster) = (Arc::clone(node), Arc::clone(view), Arc::clone(cluster));
        let settings = Arc::clone(&self.parts.parts.settings);
        let topics =
            Topics::new(Arc::clone(&node), Arc::clone(&view), settings, Arc::clone(reconciler));
        let directory = Directory { node, view, cluster, topics };
        let recorded = directory.recorded(&restore.dir)?;
        if recorded == Recorded::Finished {
            return Ok(Stage::AlreadyRestored);
        }
        carry_out(plan, &restore.bucket, &directory, recorded, progress).await?;
        Ok(Stage::Restored)
    }

    /// Stops the shards with a last checkpoint.
    async fn stop(mut self) {
        self.supervisor.stop();
        self.parts.groups.stop();
        self.parts.node.stop().await;
        self.parts.cluster.stop();
        self.background.shutdown().await;
    }
}
