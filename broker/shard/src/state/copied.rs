//! A part of the state that a capture shares with it: cloned by counting, copied when it changes while shared.
//!
//! A checkpoint captures the whole state on the shard's own task, and a state may hold a million producers and
//! offsets: copying them all at once would hold up every request of the shard. So the capture shares all parts, and
//! each part is copied by the first change to it that comes while the checkpoint is under way.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is copied on write. On disk it is the value itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopiedOnWrite<T>(Arc<T>);

impl<T> CopiedOnWrite<T> {
    /// Whether both are still the same allocation.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> From<T> for CopiedOnWrite<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for CopiedOnWrite<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for CopiedOnWrite<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: Serialize> Serialize for CopiedOnWrite<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for CopiedOnWrite<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}
