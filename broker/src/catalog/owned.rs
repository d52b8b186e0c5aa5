//! An operator's changes under its fencing epoch: topics are declared and released, groups bound,
//! brokers drained, restarted and removed.
//!
//! The admin server calls these. Each ends in one catalog entry that checks epoch and owner and
//! makes the change, or in none if a read barrier shows that nothing would change.
//! [`super::topics`] has the changes by Kafka clients.

use std::sync::Arc;

use ropewalk_shard::command::{self, CatalogCommand, ConfigResource, Standing, StartPosition};
use ropewalk_shard::state::catalog::{Answer, DeclareOutcome, Fence, Refusal};
use ropewalk_shard::{BrokerId, ProposeError};

use super::topics::{TopicError, check_room, log_deletion, random_topic_id};
use super::{TopicView, Topics, name};
use crate::limits;
use crate::settings;

/// Attempts of a proposal when the topic changes concurrently.
const TRIES: usize = 5;

/// A topic as its owner declares it.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// The name of the topic.
    pub name: String,
    /// The uid of the object that declares it.
    pub owner: String,
    /// Smallest number of partitions; `None` keeps the current number, or uses `num.partitions`.
    pub partitions: Option<i32>,
    /// The full configuration of the topic.
    pub configs: Vec<(String, String)>,
}

impl Topics {
    /// Claims a new fencing epoch, higher than all before. Also returns the claim that it
    /// supersedes, if any.
    ///
    /// # Errors
    /// When the catalog is not available.
    pub async fn claim_fence(
        &self,
        holder: String,
        lease_uid: String,
    ) -> Result<(u64, Option<Fence>), ProposeError> {
        let claim = CatalogCommand::ClaimFence { holder, lease_uid };
        let Answer::Fence { epoch, previous } = self.catalog(claim).await? else {
            unreachable!("the outcome matches the command")
        };
        Ok((epoch, previous))
    }

    /// The newest claimed epoch that this broker has applied; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.node.catalog().state().catalog.as_ref().map_or(0, |catalog| catalog.epoch())
    }

    /// Checks the epoch of a change that the catalog does not make.
    ///
    /// # Errors
    /// When a newer epoch was claimed, or the catalog is not available.
    pub async fn check_epoch(&self, epoch: u64) -> Result<(), TopicError> {
        self.catalog_barrier().await?;
        let newest = self.epoch();
        if epoch < newest { Err(Refusal::StaleEpoch { newest }.into()) } else { Ok(()) }
    }

    /// Creates a topic, adopts one without an owner, or reconciles an owned one. When this returns
    /// its partitions accept records and its bound groups have committed offsets.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn declare(
        &self,
        epoch: u64,
        wanted: &Declaration,
    ) -> Result<DeclareOutcome, TopicError> {
        name::check(&wanted.name).map_err(TopicError::InvalidName)?;
        for (key, value) in &wanted.configs {
            settings::topic::validate(key, value).map_err(TopicError::InvalidConfig)?;
        }
        self.check_tier(&wanted.name, &wanted.configs)?;
        self.check_new_configs(wanted)?;
        for _ in 0..TRIES {
            let (topic, exists) = self.draw_declared(wanted)?;
            let command = CatalogCommand::DeclareTopic { topic, exists };
            match self.fenced(epoch, command).await {
                Ok(Answer::Declared(declared)) => {
                    self.reconciler.converge(&[declared.id]).await?;
                    return Ok(declared);
                }
                Ok(_) => unreachable!("the outcome matches the command"),
                Err(TopicError::Refused(Refusal::Replaced)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Refusal::Replaced.into())
    }

    /// Checks the values that this declaration changes against the cluster. One that is set already
    /// stays: the cluster may have become smaller since.
    fn check_new_configs(&self, wanted: &Declaration) -> Result<(), TopicError> {
        let known = self.view.by_name(&wanted.name).map(|topic| ConfigResource::Topic(topic.id));
        let set: Vec<(String, String)> = {
            let state = self.node.catalog().state();
            let catalog = state.catalog.as_ref().zip(known.as_ref());
            let set = catalog.into_iter().flat_map(|(catalog, topic)| catalog.configs(topic));
            set.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let mut new = wanted.configs.iter().filter(|pair| !set.contains(pair));
        new.try_for_each(|(key, value)| self.check_in_sync(key, value))
    }

    /// The full topic, and whether it exists under this id.
    fn draw_declared(&self, wanted: &Declaration) -> Result<(command::NewTopic, bool), TopicError> {
        let known = self.view.by_name(&wanted.name);
        let current = known.as_ref().map_or(0, |topic| topic.partitions.len());
        let default = || {
            if current > 0 {
                current
            } else {
                usize::try_from(self.settings.num_partitions()).unwrap_or(1)
            }
        };
        let count = match wanted.partitions {
            None => default(),
            Some(count) => {
                usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                    let why = format!("the number of partitions is {count}, must be at least 1");
                    TopicError::InvalidPartitions(why)
                })?
            }
        };
        let room = limits::PARTITIONS_MAX.saturating_sub(self.view.partition_count());
        check_room(count, room + current)?;
        let id = known.as_ref().map_or_else(random_topic_id, |topic| topic.id);
        let topic = command::NewTopic {
            id,
            name: wanted.name.clone(),
            partitions: self.place(id, 0, count),
            configs: wanted.configs.clone(),
            owner: Some(wanted.owner.clone()),
        };
        Ok((topic, known.is_some()))
    }

    /// Releases the owner's topic, and deletes it with its records if `delete` is true. Returns
    /// whether this call deleted it.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn release(
        &self,
        epoch: u64,
        name: &str,
        owner: String,
        delete: bool,
    ) -> Result<bool, TopicError> {
        let Some(topic) = self.view.by_name(name) else {
            return self.check_epoch(epoch).await.map(|()| false);
        };
        let command = CatalogCommand::ReleaseTopic { topic: topic.id, owner, delete };
        let Answer::Released { deleted } = self.fenced(epoch, command).await? else {
            unreachable!("the outcome matches the command")
        };
        if deleted {
            log_deletion(&topic);
            self.reconciler.close_deleted(&[topic.id]).await?;
        }
        Ok(deleted)
    }

    /// Binds a group to a topic of `owner`. Returns the partitions that got their first committed
    /// offset.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn bind(
        &self,
        epoch: u64,
        name: &str,
        owner: String,
        (group, start): (String, StartPosition),
    ) -> Result<Vec<i32>, TopicError> {
        let Some(topic) = self.view.by_name(name) else {
            self.check_epoch(epoch).await?;
            return Err(Refusal::NoSuchTopic.into());
        };
        let id = topic.id;
        check_bindings(&topic, &group)?;
        let command = CatalogCommand::BindGroup { topic: id, owner, group: group.clone(), start };
        self.fenced(epoch, command).await?;
        let Some(topic) = self.view.by_id(id) else { return Err(Refusal::NoSuchTopic.into()) };
        match topic.bindings.get(&group) {
            Some(binding) => Ok(self.reconciler.start_group(&topic, &group, *binding).await?),
            None => Err(Refusal::Replaced.into()),
        }
    }

    /// Unbinds a group. A missing binding is not an error.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn unbind(
        &self,
        epoch: u64,
        name: &str,
        owner: String,
        group: String,
    ) -> Result<(), TopicError> {
        let Some(topic) = self.view.by_name(name) else { return self.check_epoch(epoch).await };
        let command = CatalogCommand::UnbindGroup { topic: topic.id, owner, group };
        self.fenced(epoch, command).await.map(|_| ())
    }

    /// Changes the standing of a broker from `from` to `to`. When this returns, this broker's view
    /// shows it.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn change_standing(
        &self,
        epoch: u64,
        broker: BrokerId,
        (from, to): (Standing, Standing),
    ) -> Result<(), TopicError> {
        let command = CatalogCommand::ChangeStanding { broker, from, to };
        self.fenced(epoch, command).await.map(|_| ())
    }

    /// Removes a broker for good.
    ///
    /// # Errors
    /// See [`TopicError`]. Refused while it holds replicas.
    pub async fn forget_broker(&self, epoch: u64, broker: BrokerId) -> Result<(), TopicError> {
        self.fenced(epoch, CatalogCommand::ForgetBroker { broker }).await.map(|_| ())
    }

    /// The topics of an owner, with their bound groups.
    ///
    /// # Errors
    /// When the catalog is not available.
    pub async fn owned_by(&self, owner: &str) -> Result<Vec<Arc<TopicView>>, ProposeError> {
        self.catalog_barrier().await?;
        let is_owned = |topic: &Arc<TopicView>| topic.owner.as_deref() == Some(owner);
        Ok(self.view.all().into_iter().filter(is_owned).collect())
    }

    /// Answers from the catalog's state behind a read barrier if the command would change nothing,
    /// and proposes it otherwise. A broker that does not lead the catalog proposes it in any case.
    async fn fenced(&self, epoch: u64, command: CatalogCommand) -> Result<Answer, TopicError> {
        let command = CatalogCommand::Fenced { epoch, command: Box::new(command) };
        let foreseen = if self.leads_catalog() {
            self.node.catalog().read_barrier().await?;
            let state = self.node.catalog().state();
            state.catalog.as_ref().and_then(|catalog| catalog.answer_if_unchanged(&command))
        } else {
            None
        };
        let answer = match foreseen {
            Some(answer) => answer,
            None => {
                check_leap(epoch, self.epoch())?;
                self.catalog(command).await?
            }
        };
        if let Answer::Refused(refusal) = answer { Err(refusal.into()) } else { Ok(answer) }
    }
}

/// Bounds the epoch. An epoch that this catalog never issued is accepted, because the data may have
/// been recreated since; one far above would exhaust the numbers that can be claimed.
fn check_leap(epoch: u64, newest: u64) -> Result<(), TopicError> {
    let max = newest.saturating_add(limits::EPOCH_LEAP_MAX);
    if epoch <= max {
        return Ok(());
    }
    Err(TopicError::InvalidEpoch(format!(
        "epoch {epoch} is more than {} above {newest}, the newest that was claimed here: claim one with POST \
         /v1/fence",
        limits::EPOCH_LEAP_MAX
    )))
}

fn check_bindings(topic: &TopicView, group: &str) -> Result<(), TopicError> {
    let max = limits::BINDINGS_PER_TOPIC_MAX;
    if topic.bindings.len() < max || topic.bindings.contains_key(group) {
        return Ok(());
    }
    Err(TopicError::TooManyGroups(format!(
        "{} groups are bound to queue '{}', at most {max} are allowed: unbind one that is not used",
        topic.bindings.len(),
        topic.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_may_be_a_bounded_leap_above_the_newest() {
        let max = limits::EPOCH_LEAP_MAX;
        assert_eq!(check_leap(7 + max, 7), Ok(()));
        assert!(matches!(check_leap(8 + max, 7), Err(TopicError::InvalidEpoch(_))));
        assert_eq!(check_leap(u64::MAX, u64::MAX), Ok(()));
    }
}
