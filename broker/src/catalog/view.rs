//! Look-up of topics by name or id, with each topic's configuration resolved.
//!
//! The catalog shard's own loop updates it right after an entry is applied, so that a change is
//! visible before its proposer is notified.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use ropewalk_shard::command::{ConfigResource, PartitionPlacement};
use ropewalk_shard::state::Catalog;
use ropewalk_shard::state::catalog::{Binding, Change};
use ropewalk_shard::{PartitionId, TopicId};

use crate::settings::Settings;
use crate::settings::topic::TopicConfig;

/// A topic of the catalog.
#[derive(Debug)]
pub struct TopicView {
    /// The topic id.
    pub id: TopicId,
    /// The topic's name.
    pub name: Arc<str>,
    /// The shard of each partition, by index.
    pub partitions: Vec<PartitionPlacement>,
    /// The resolved configuration: the topic's own, the brokers', the defaults.
    pub config: TopicConfig,
    /// The uid of the Kubernetes object that declared it.
    pub owner: Option<String>,
    /// The groups bound to the topic.
    pub bindings: BTreeMap<String, Binding>,
}

impl TopicView {
    /// A partition's identity and shard; `None` when the topic has no such partition.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<(PartitionId, PartitionPlacement)> {
        let home = self.partitions.get(usize::try_from(index).ok()?)?;
        Some((PartitionId { topic: self.id, index }, *home))
    }
}

/// Every topic, by name and by id.
#[derive(Debug)]
pub struct View {
    settings: Arc<Settings>,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: HashMap<TopicId, Arc<TopicView>>,
    names: HashMap<Arc<str>, TopicId>,
}

impl View {
    /// An empty view; fill it with [`Self::reload`].
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, inner: RwLock::default() }
    }

    /// The topic of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<TopicView>> {
        let inner = self.inner.read();
        inner.topics.get(inner.names.get(name)?).cloned()
    }

    /// The topic with this id.
    #[must_use]
    pub fn by_id(&self, id: TopicId) -> Option<Arc<TopicView>> {
        self.inner.read().topics.get(&id).cloned()
    }

    /// Every topic, ordered by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<TopicView>> {
        let mut all: Vec<_> = self.inner.read().topics.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every topic with bound groups, ordered by name.
    #[must_use]
    pub fn bound(&self) -> Vec<Arc<TopicView>> {
        let inner = self.inner.read();
        let bound = inner.topics.values().filter(|topic| !topic.bindings.is_empty());
        let mut bound: Vec<_> = bound.cloned().collect();
        bound.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        bound
    }

    /// The number of all partitions.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.inner.read().topics.values().map(|topic| topic.partitions.len()).sum()
    }

    /// Replaces the content by the whole catalog.
    pub fn reload(&self, catalog: &Catalog) {
        self.settings.set_dynamic(catalog);
        let mut inner = Inner::default();
        for id in catalog.topics.keys() {
            self.refresh_topic(&mut inner, catalog, *id);
        }
        *self.inner.write() = inner;
    }

    /// Updates what `change` affects.
    pub fn follow(&self, catalog: &Catalog, change: &Change) {
        match change {
            Change::Topics(ids) => {
                let mut inner = self.inner.write();
                ids.iter().for_each(|id| self.refresh_topic(&mut inner, catalog, *id));
            }
            Change::Configs(ConfigResource::Topic(id)) => {
                self.refresh_topic(&mut self.inner.write(), catalog, *id);
            }
            // A broker's setting may be the default of any topic.
            Change::Configs(ConfigResource::Broker(_)) => self.reload(catalog),
            Change::Configs(ConfigResource::Group(_)) => self.settings.set_dynamic(catalog),
            Change::Placement | Change::Other => {}
        }
    }

    fn refresh_topic(&self, inner: &mut Inner, catalog: &Catalog, id: TopicId) {
        let Some(topic) = catalog.topics.get(&id) else {
            if let Some(gone) = inner.topics.remove(&id)
                && inner.names.get(&gone.name) == Some(&id)
            {
                inner.names.remove(&gone.name);
            }
            return;
        };
        let name: Arc<str> = match inner.topics.get(&id) {
            Some(known) => Arc::clone(&known.name),
            None => topic.name.as_str().into(),
        };
        let resource = ConfigResource::Topic(id);
        let overrides = catalog.configs(&resource);
        let view = TopicView {
            id,
            name: Arc::clone(&name),
            partitions: topic.partitions.clone(),
            config: TopicConfig::resolve(&self.settings, overrides),
            owner: topic.owner.clone(),
            bindings: catalog.bindings.get(&id).cloned().unwrap_or_default(),
        };
        inner.names.insert(name, id);
        inner.topics.insert(id, Arc::new(view));
    }
}
