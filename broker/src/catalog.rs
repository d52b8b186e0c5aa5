//! What exists: topics and where their partitions live, as handlers see it, and the loop that
//! makes the shards agree with it.
//!
//! The catalog shard holds the intent. [`View`] is a copy of it made for fast look-ups, brought up
//! to date as entries are applied. [`Reconciler`] opens in the shards what the catalog lists and
//! closes what it does not, and repeats that until every shard confirms; a topic is announced as
//! created only after that. It also sees to it that a group that is bound to a topic has a place to
//! begin in each of its partitions.

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
pub use topics::{Created, NewTopic, TopicError, Topics};
pub use view::{TopicView, View};
