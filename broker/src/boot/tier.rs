//! Opens the bucket for older records, and starts what uses it.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use ropewalk_tier::TierError;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::open::OpenParts;
use super::tier_runtime::TierRuntime;
use super::{StartError, Status};
use crate::handle::Context;
use crate::supervision::{self, Supervisor};
use crate::tier::remote::{RemoteParts, RemoteReader, ShardManifests};
use crate::tier::{Broker, ReadMemory, Tier, Work};

/// The bucket, and the threads of what uses it.
#[derive(Debug)]
pub(super) struct OpenTier {
    tier: Arc<Tier>,
    runtime: TierRuntime,
}

impl OpenTier {
    /// Opens the bucket of the settings, if they have one.
    pub(super) async fn open(opened: &OpenParts) -> Result<Option<Self>, StartError> {
        let tier = Self::try_to_open(opened).await;
        if tier.is_err() {
            opened.node.stop().await;
        }
        tier
    }

    async fn try_to_open(opened: &OpenParts) -> Result<Option<Self>, StartError> {
        let settings = opened.parts.settings.tier().expect("checked when the settings were read");
        let Some(settings) = settings else { return Ok(None) };
        let runtime = TierRuntime::new()?;
        let tier = Arc::new(Tier::open(settings, &opened.node.identity().cluster_id)?);
        let examined = Arc::clone(&tier);
        // The connections to the bucket belong to the runtime on which they are opened.
        let handle = runtime.handle();
        let prepare = move || Handle::current().block_on(examined.prepare());
        let prepared = handle.spawn_blocking(prepare).await;
        prepared.map_err(|ended| TierError::Settings(ended.to_string()))??;
        Ok(Some(Self { tier, runtime }))
    }

    /// Gives the handlers what reads from the bucket, and starts uploads, checkpoints and
    /// retention.
    pub(super) fn start(
        self,
        (opened, context): (&OpenParts, &Context),
        (status, registry): (&Status, &Mutex<Registry>),
        supervisor: &Supervisor,
        background: &mut JoinSet<()>,
    ) -> RunningTier {
        let Self { tier, runtime } = self;
        status.has_tier(tier.health());
        let reader = tier.reader();
        let reads = ReadMemory { reader: reader.clone(), cold: context.cold.clone() };
        tier.register(&mut registry.lock(), reads);
        let reader = RemoteReader::new(RemoteParts {
            reader,
            manifests: ShardManifests::new(Arc::clone(&opened.node), Arc::clone(&opened.view)),
            cluster: tier.cluster().clone(),
            runtime: runtime.handle(),
        });
        let _ = context.remote.set(Arc::new(reader));
        let broker = Broker {
            node: Arc::clone(&opened.node),
            view: Arc::clone(&opened.view),
            cluster: Arc::clone(&opened.cluster),
        };
        let work = tier.work(broker);
        let run = Arc::clone(&work).run(Arc::clone(&opened.parts.settings));
        let run = supervisor.endless(&supervision::TIER, run);
        background.spawn_on(run, &runtime.handle());
        RunningTier { work, runtime }
    }
}

/// What works with the bucket, and its threads.
#[derive(Debug)]
pub(super) struct RunningTier {
    work: Arc<Work>,
    runtime: TierRuntime,
}

impl RunningTier {
    /// Writes the last checkpoints. To be called while the shards still run.
    pub(super) async fn stop(&self) {
        let work = Arc::clone(&self.work);
        let last = move || Handle::current().block_on(work.stop());
        // Fails only if the runtime ends first.
        let _ = self.runtime.handle().spawn_blocking(last).await;
    }
}
