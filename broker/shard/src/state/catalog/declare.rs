//! The commands of a topic's owner: declare and release the topic, bind groups to it.
//!
//! Each command checks the ownership in the same entry that changes the topic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Catalog, DeclareOutcome, Refusal, Topic};
use crate::command::{ConfigResource, NewTopic, StartPosition};
use crate::id::TopicId;

/// A group that is to read every record of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Where the group begins in the partitions that existed when it was bound.
    pub start: StartPosition,
    /// Number of those partitions; in every later one the group begins at the log start.
    pub partitions: u32,
}

impl Catalog {
    pub(super) fn declare(
        &mut self,
        time_ms: i64,
        new: NewTopic,
        exists: bool,
    ) -> Result<DeclareOutcome, Refusal> {
        match self.names.get(&new.name) {
            Some(id) if exists && *id == new.id => self.reconcile(new),
            None if !exists => {
                let partitions = new.partitions.len();
                let id = self.create(time_ms, new)?;
                Ok(DeclareOutcome {
                    id,
                    partitions,
                    created: true,
                    adopted: false,
                    changed: Vec::new(),
                })
            }
            Some(_) | None => Err(Refusal::Replaced),
        }
    }

    fn reconcile(&mut self, new: NewTopic) -> Result<DeclareOutcome, Refusal> {
        let NewTopic { id, name: _, partitions, configs, owner } = new;
        let topic = self.topics.get_mut(&id).ok_or(Refusal::NoSuchTopic)?;
        let adopted = match (&topic.owner, &owner) {
            (Some(current), Some(new)) if current == new => false,
            (Some(current), _) => {
                return Err(Refusal::OwnedByAnother { owner: current.clone() });
            }
            (None, _) => true,
        };
        topic.owner = owner;
        let mut changed = Vec::new();
        if let Some(more) = partitions.get(topic.partitions.len()..).filter(|more| !more.is_empty())
        {
            topic.partitions.extend(more);
            changed.push("partitions".to_owned());
        }
        let count = topic.partitions.len();
        changed.extend(self.replace_configs(id, configs.into_iter().collect()));
        Ok(DeclareOutcome { id, partitions: count, created: false, adopted, changed })
    }

    /// Replaces the configuration; returns the keys whose value changed.
    fn replace_configs(&mut self, id: TopicId, wanted: BTreeMap<String, String>) -> Vec<String> {
        let resource = ConfigResource::Topic(id);
        let before = self.configs.remove(&resource).unwrap_or_default();
        let gone = before.keys().filter(|key| !wanted.contains_key(*key));
        let set = wanted.iter().filter(|(key, value)| before.get(*key) != Some(*value));
        let mut changed: Vec<_> = gone.chain(set.map(|(key, _)| key)).collect();
        changed.sort_unstable();
        let changed = changed.into_iter().map(|key| format!("config.{key}")).collect();
        if !wanted.is_empty() {
            self.configs.insert(resource, wanted);
        }
        changed
    }

    /// Releases a topic; returns whether it was deleted. A topic without an owner is never deleted,
    /// because it may have been released in order to keep it.
    pub(super) fn release(
        &mut self,
        id: TopicId,
        owner: &str,
        delete: bool,
    ) -> Result<bool, Refusal> {
        let topic = match self.owned(id, owner) {
            Ok(topic) => topic,
            Err(Refusal::NoSuchTopic | Refusal::NotOwned) => return Ok(false),
            Err(refusal) => return Err(refusal),
        };
        if delete {
            return self.delete(id).map(|_| true);
        }
        topic.owner = None;
        self.bindings.remove(&id);
        Ok(false)
    }

    pub(super) fn bind(
        &mut self,
        id: TopicId,
        owner: &str,
        group: String,
        start: StartPosition,
    ) -> Result<(), Refusal> {
        let partitions = u32::try_from(self.owned(id, owner)?.partitions.len()).unwrap_or(u32::MAX);
        let groups = self.bindings.entry(id).or_default();
        groups.entry(group).or_insert(Binding { start, partitions }).start = start;
        Ok(())
    }

    pub(super) fn unbind(&mut self, id: TopicId, owner: &str, group: &str) -> Result<(), Refusal> {
        match self.owned(id, owner) {
            // The bindings were removed with the topic or its owner.
            Err(Refusal::NoSuchTopic | Refusal::NotOwned) => return Ok(()),
            owned => owned.map(|_| ())?,
        }
        if let Some(groups) = self.bindings.get_mut(&id) {
            groups.remove(group);
            if groups.is_empty() {
                self.bindings.remove(&id);
            }
        }
        Ok(())
    }

    fn owned(&mut self, id: TopicId, owner: &str) -> Result<&mut Topic, Refusal> {
        let topic = self.topics.get_mut(&id).ok_or(Refusal::NoSuchTopic)?;
        match &topic.owner {
            Some(current) if current == owner => Ok(topic),
            Some(current) => Err(Refusal::OwnedByAnother { owner: current.clone() }),
            None => Err(Refusal::NotOwned),
        }
    }
}

#[cfg(test)]
mod tests;
