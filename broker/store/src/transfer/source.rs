//! The sending side of a broker: carries out what [`Sender`] decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use ropewalk_shard::ShardId;

use super::Options;
use super::message::{Body, Fetch, Message, SetId};
use super::pin::PinnedSet;
use super::send::{Pinning, Route, Sender, Task};
use crate::store::Store;

/// Sends the files of this broker's shards to others. It reads files, so it has a thread of its
/// own; [`Source::tick`] is called often enough for the rate that is wanted.
#[derive(Debug)]
pub struct Source {
    store: Arc<Store>,
    sender: Sender,
    sets: BTreeMap<Route, SetState>,
}

#[derive(Debug)]
struct SetState {
    id: SetId,
    pinned: Option<PinnedSet>,
}

impl Source {
    /// The sender of a store without transfers.
    #[must_use]
    pub fn new(store: Arc<Store>, options: Options) -> Self {
        Self { store, sender: Sender::new(options.bytes_per_second), sets: BTreeMap::new() }
    }

    /// Offers a set to a replica: the leader's log no longer has the entries that it lacks. Returns
    /// the messages to send.
    pub fn offer(&mut self, shard: ShardId, from: u64, to: u64, now_ms: i64) -> Vec<Message> {
        let tasks = self.sender.want(Route { shard, from, to }, now_ms);
        self.run(tasks, now_ms)
    }

    /// Handles a message of a receiver. Returns the messages to send.
    pub fn handle(&mut self, message: &Message, now_ms: i64) -> Vec<Message> {
        let tasks = self.sender.handle(message, now_ms);
        self.run(tasks, now_ms)
    }

    /// Does what has become due. Returns the messages to send.
    pub fn tick(&mut self, now_ms: i64) -> Vec<Message> {
        let mut tasks = Vec::new();
        for (route, set) in &self.sets {
            if set.pinned.as_ref().is_some_and(|pinned| !pinned.is_pinned(&self.store)) {
                tasks.extend(self.sender.expired(*route, set.id));
            }
        }
        tasks.extend(self.sender.tick(now_ms));
        self.run(tasks, now_ms)
    }

    /// Ends all transfers from a replica that no longer exists. Returns the messages to send.
    pub fn end(&mut self, shard: ShardId, from: u64, now_ms: i64) -> Vec<Message> {
        let tasks = self.sender.end(shard, from);
        self.run(tasks, now_ms)
    }

    /// Number of transfers.
    #[must_use]
    pub fn transfers(&self) -> usize {
        self.sender.transfers()
    }

    fn run(&mut self, tasks: Vec<Task>, now_ms: i64) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut left: std::collections::VecDeque<Task> = tasks.into();
        while let Some(task) = left.pop_front() {
            match task {
                Task::Send(message) => messages.push(message),
                Task::Pin(route) => {
                    let pinning = self.pin(route);
                    left.extend(self.sender.pinned(route, pinning, now_ms));
                }
                Task::Read(route, of) => match self.read(route, &of) {
                    Some(message) => messages.push(message),
                    None => left.extend(self.sender.expired(route, of.set)),
                },
                Task::Unpin(route) => {
                    if let Some(set) = self.sets.remove(&route) {
                        self.store.pins().unpin(set.id.pin());
                    }
                }
            }
        }
        messages
    }

    fn pin(&mut self, route: Route) -> Pinning {
        let number = self.store.data().disk().draw();
        let fresh = SetState { id: SetId { replica: route.from, number }, pinned: None };
        let set = self.sets.entry(route).or_insert(fresh);
        match PinnedSet::pin(&self.store, route.shard, set.id) {
            Ok(Some(pinned)) => {
                let offer = pinned.offer();
                tracing::info!(
                    shard = %route.shard, to = route.to, index = offer.last.index,
                    bytes = offer.files_bytes, "files are sent to a replica that is far behind",
                );
                set.pinned = Some(pinned);
                Pinning::Done(offer)
            }
            Ok(None) => Pinning::Later,
            Err(error) => {
                tracing::error!(shard = %route.shard, %error, "files cannot be sent to a replica");
                self.sets.remove(&route);
                Pinning::Failed
            }
        }
    }

    /// Reads a range that a receiver asked for; `None` if the set is no longer kept.
    fn read(&self, route: Route, of: &Fetch) -> Option<Message> {
        let set = self.sets.get(&route)?.pinned.as_ref()?;
        let read = set.read(&**self.store.data().disk(), of);
        // The files may have been removed before they were read.
        if !set.is_pinned(&self.store) {
            return None;
        }
        match read {
            Ok(bytes) => {
                let Route { shard, from, to } = route;
                Some(Message { shard, from, to, body: Body::Piece { of: *of, bytes } })
            }
            Err(error) => {
                tracing::error!(shard = %route.shard, %error, "a file cannot be sent to a replica");
                None
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for set in self.sets.values() {
            self.store.pins().unpin(set.id.pin());
        }
    }
}

#[cfg(test)]
impl Source {
    /// Empties the token bucket.
    pub(super) fn drain(&mut self) {
        self.sender.drain();
    }
}
