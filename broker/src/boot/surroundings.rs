//! What a simulator replaces of a broker: the network, and the bounds and the clock of the store.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ropewalk_peer::Inbox;
use ropewalk_store::{checkpoint, recovery, transfer};
use serde_json::Value;

use super::SHARDS;
use crate::admin::client::Answer;
use crate::clock;
use crate::cluster::Connected;
use crate::settings::Endpoint;

/// How a simulated broker reaches the others.
pub trait Network: Send + Sync + 'static {
    /// Posts a JSON body to the admin server of another broker.
    fn post<'a>(
        &'a self,
        to: &'a Endpoint,
        path: &'static str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Answer, String>>;

    /// Opens the connections of this broker. What arrives is given to `inbox`.
    fn connect(&self, options: &ropewalk_peer::Options, inbox: Arc<dyn Inbox>) -> Connected;
}

/// The bounds of a broker's store, and its clock.
#[derive(Clone)]
pub struct StoreOptions {
    /// Shards of a new cluster, without the catalog.
    pub shards: u32,
    /// Bounds of the store.
    pub recovery: recovery::Options,
    /// Limits of the checkpoint thread.
    pub checkpoint: checkpoint::Options,
    /// Bounds of the transfers of files.
    pub transfer: transfer::Options,
    /// The wall clock, Unix milliseconds.
    pub clock_ms: fn() -> i64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            shards: SHARDS,
            recovery: recovery::Options::default(),
            checkpoint: checkpoint::Options::default(),
            transfer: transfer::Options::default(),
            clock_ms: clock::now_ms,
        }
    }
}
