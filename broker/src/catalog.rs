//! The catalog: the topics and the shards of their partitions, as handlers see them, and the loop
//! that reconciles the shards with it.
//!
//! The catalog shard holds the desired state: the topics, and where the replicas of each shard are.
//! [`Balancer`] decides that placement, and [`MembersLoop`] makes the members of the shards follow.
//! [`View`] is a copy for fast look-ups, updated as entries are applied. [`Reconciler`] opens
//! the partitions that the catalog lists and closes all others, and repeats that until every shard
//! confirms; a topic is reported as created only after that. It also gives every group that is
//! bound to a topic a committed offset in each partition.

pub mod name;
pub mod placement;
pub mod replicas;
pub mod orphans;
mod view;
mod members;
mod balance;
mod reconcile;
mod topics;
mod owned;

pub use balance::Balancer;
pub use members::MembersLoop;
pub use owned::Declaration;
pub use reconcile::Reconciler;
#[cfg(test)]
pub(crate) use topics::random_topic_id;
pub use topics::{CreatedTopic, NewTopic, TopicError, Topics};
pub use view::{Placement, TopicView, View};

use ropewalk_shard::state::catalog::Answer;
use ropewalk_shard::{Outcome, ProposeError};

/// Whether a command of brokers or replicas was carried out, or else why not.
fn placed(proposed: Result<Outcome, ProposeError>) -> Result<(), String> {
    match proposed {
        Ok(Outcome::Catalog { answer: Answer::Refused(refusal), .. }) => Err(refusal.to_string()),
        Ok(Outcome::TermChanged) => Err(ProposeError::NotLeader.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
