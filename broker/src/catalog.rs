//! The catalog: the topics and the shards of their partitions, as handlers see them, and the loop
//! that reconciles the shards with it.
//!
//! The catalog shard holds the desired state. [`View`] is a copy of it for fast look-ups, updated
//! as entries are applied. [`Reconciler`] opens the partitions that the catalog lists and closes
//! all others, and repeats that until every shard confirms; a topic is reported as created only
//! after that. It also gives every group that is bound to a topic a committed offset in each
//! partition.

pub mod name;
pub mod placement;
pub mod orphans;
mod view;
mod reconcile;
mod topics;
mod owned;

pub use owned::Declaration;
pub use reconcile::Reconciler;
#[cfg(test)]
pub(crate) use topics::random_topic_id;
pub use topics::{CreatedTopic, NewTopic, TopicError, Topics};
pub use view::{TopicView, View};
