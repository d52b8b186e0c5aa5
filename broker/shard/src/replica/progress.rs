//! How far the members of a leader's shard are.

use super::Replica;
use crate::engine::Progress;

impl Replica {
    /// How far each member is, by replica; empty unless this replica leads. See
    /// [`Engine::progress`](crate::engine::Engine::progress).
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.engine.progress()
    }
}
