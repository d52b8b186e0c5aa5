//! What an operator asks of topics, under its fencing epoch: that they are as declared, that groups are
//! bound to them, that they are given up.
//!
//! Place in the walk: the admin server calls these; each ends in one catalog entry in which epoch, owner
//! and change are decided together, or in none where a read barrier shows that nothing would change. What
//! a handler of Kafka's protocol does to topics is in [`super::topics`].

use std::sync::Arc;

use ropewalk_shard::ProposeError;
use ropewalk_shard::command::{self, CatalogCommand, StartPosition};
use ropewalk_shard::state::catalog::{Answer, DeclareOutcome, Fence, Refusal};

use super::topics::{TopicError, check_room, log_deletion, random_topic_id};
use super::{TopicView, Topics, name};
use crate::limits;
use crate::settings;

/// How often a proposal is made again when the topic changed in between.
const TRIES: usize = 5;

/// A topic as its owner wants it.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// Its name.
    pub name: String,
    /// The uid of the object that declares it.
    pub owner: String,
    /// How many partitions, at least; `None` for as many as there are, or `num.partitions`.
    pub partitions: Option<i32>,
    /// All of its configuration.
    pub configs: Vec<(String, String)>,
}

impl Topics {
    /// A new fencing epoch, higher than every one before; and the claim that it supersedes, if there was
    /// one.
    ///
    /// # Errors
    /// When the catalog cannot be asked.
    pub async fn claim_fence(
        &self,
        holder: String,
        lease_uid: String,
    ) -> Result<(u64, Option<Fence>), ProposeError> {
        let claim = CatalogCommand::ClaimFence { holder, lease_uid };
        let Answer::Fence { epoch, previous } = self.catalog(claim).await? else {
            unreachable!("the catalog answers what it was asked")
        };
        Ok((epoch, previous))
    }

    /// The newest epoch that was claimed, as far as this broker knows; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.node.catalog().state().catalog.as_ref().map_or(0, |catalog| catalog.epoch())
    }

    /// Checks an epoch for a change that is none of the catalog's.
    ///
    /// # Errors
    /// When a newer one was claimed, or the catalog cannot be asked.
    pub async fn check_epoch(&self, epoch: u64) -> Result<(), TopicError> {
        self.node.catalog().read_barrier().await?;
        let newest = self.epoch();
        if epoch < newest { Err(Refusal::StaleEpoch { newest }.into()) } else { Ok(()) }
    }

    /// Makes a topic, adopts one that nobody owns, or puts one right; its partitions take records and
    /// its bound groups have begun when this returns.
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
        for _ in 0..TRIES {
            let (topic, exists) = self.draw_declared(wanted)?;
            let command = CatalogCommand::DeclareTopic { topic, exists };
            match self.fenced(epoch, command).await {
                Ok(Answer::Declared(declared)) => {
                    self.reconciler.converge(&[declared.id]).await?;
                    return Ok(declared);
                }
                Ok(_) => unreachable!("the catalog answers what it was asked"),
                Err(TopicError::Refused(Refusal::Replaced)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Refusal::Replaced.into())
    }

    /// The topic in full, and whether it is known under the id that it is given.
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
                    let why = format!("a topic has at least one partition, {count} were asked");
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

    /// The owner gives a topic up, with its records or (`delete` is false) without. Whether it was
    /// deleted by this.
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
            unreachable!("the catalog answers what it was asked")
        };
        if deleted {
            log_deletion(&topic);
            self.reconciler.forget(&[topic.id]).await?;
        }
        Ok(deleted)
    }

    /// Binds a group to a topic of `owner`. The partitions in which it begins now, because it had
    /// committed nothing there.
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

    /// Ends the binding of a group. That there is none is no error.
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

    /// What an owner has: its topics, each with the groups that are bound to it.
    ///
    /// # Errors
    /// When the catalog cannot be asked.
    pub async fn owned_by(&self, owner: &str) -> Result<Vec<Arc<TopicView>>, ProposeError> {
        self.node.catalog().read_barrier().await?;
        let is_owned = |topic: &Arc<TopicView>| topic.owner.as_deref() == Some(owner);
        Ok(self.view.all().into_iter().filter(is_owned).collect())
    }

    /// Answers from the catalog's state behind a read barrier where the command would change nothing, and
    /// proposes it otherwise.
    async fn fenced(&self, epoch: u64, command: CatalogCommand) -> Result<Answer, TopicError> {
        let command = CatalogCommand::Fenced { epoch, command: Box::new(command) };
        self.node.catalog().read_barrier().await?;
        let foreseen = {
            let state = self.node.catalog().state();
            state.catalog.as_ref().and_then(|catalog| catalog.answer_if_unchanged(&command))
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

/// An epoch that this catalog never gave out is taken, because the data may have been recreated since. One
/// far above would leave no numbers to claim.
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
        "{} groups are bound to queue '{}', at most {max} may be: end the binding of one that is not used",
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
