//! The partitions of one fetch session (KIP-227): what the client asks of each, and what it was
//! answered last. No I/O and no clock.
//!
//! A partition is *active* when its next answer may differ from the last one: the client named it
//! in the request, its log changed, it has an error, or the last response had no room for it. Other
//! partitions are *settled*: their logs report the next change, and until then a fetch costs
//! nothing for them.
//!
//! # Invariants
//!
//! - A client that applies each response to its own copy has the same view of every partition as
//!   with full fetches.
//! - A partition with records to return, or an error, is never settled.
//! - Active partitions are read in the order of their turns. One that returned records gets the
//!   last turn, so that every partition is served however small the responses are.

use std::collections::btree_map::{self, BTreeMap};
use std::collections::hash_map::{Entry as Slot, HashMap};

use ropewalk_codec::Str;
use ropewalk_codec::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use ropewalk_codec::fetch_response::PartitionData;
use slab::Slab;
use uuid::Uuid;

use crate::catalog::name::NAME_LEN_MAX;
use crate::limits;

/// Which partition. A session names its topics by name or by id, never both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The name of the topic; empty if it is named by id.
    pub(super) topic: Str,
    /// The id of the topic; nil if it is named by name.
    pub(super) topic_id: Uuid,
    /// The index of the partition.
    pub(super) partition: i32,
}

/// One partition of a session.
#[derive(Debug)]
struct Entry {
    key: Key,
    asked: FetchPartition,
    answered: Option<Answered>,
    /// The place in the order in which partitions are read.
    turn: u64,
    /// Whether its log reports the next change.
    watched: bool,
}

/// The fields of the last answer that the client keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answered {
    high_watermark: i64,
    log_start: i64,
}

/// A partition that the next response may include.
#[derive(Debug, Clone)]
pub(super) struct Active {
    /// Identifies the partition within its session, until the client removes the partition.
    pub(super) token: u32,
    /// Topic and partition.
    pub(super) key: Key,
    /// What the client asks.
    pub(super) asked: FetchPartition,
    /// Whether its log reports the next change.
    pub(super) watched: bool,
}

/// The reason why a session cannot hold the partitions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// More partitions or longer names than a session may have.
    TooLarge,
    /// A partition is named twice, which a session cannot express.
    Repeated,
}

/// The partitions of one session.
#[derive(Debug, Default)]
pub(super) struct Session {
    entries: Slab<Entry>,
    tokens: HashMap<Key, usize>,
    /// The tokens of active partitions by their turns.
    active: BTreeMap<u64, usize>,
    next_turn: u64,
}

impl Session {
    /// A session of the partitions that a full fetch names, all of them active.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub(super) fn of(topics: &[FetchTopic]) -> Result<Self, Unfit> {
        let named: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
        if named > limits::FETCH_SESSION_PARTITIONS_MAX {
            return Err(Unfit::TooLarge);
        }
        let mut session = Self::default();
        session.add(topics)?;
        if session.len() < named { Err(Unfit::Repeated) } else { Ok(session) }
    }

    /// Applies an incremental request: adds and changes the partitions that it names, then removes
    /// those that it no longer wants.
    ///
    /// # Errors
    /// When the session becomes too large. It must not be used any more.
    pub(super) fn update(
        &mut self,
        topics: &[FetchTopic],
        forgotten: &[ForgottenTopic],
    ) -> Result<(), Unfit> {
        self.add(topics)?;
        for topic in forgotten {
            for partition in &topic.partitions {
                let (topic, topic_id) = (topic.topic.clone(), topic.topic_id);
                self.remove(&Key { topic, topic_id, partition: *partition });
            }
        }
        Ok(())
    }

    fn add(&mut self, topics: &[FetchTopic]) -> Result<(), Unfit> {
        for topic in topics {
            if topic.topic.len() > NAME_LEN_MAX {
                return Err(Unfit::TooLarge);
            }
            // The session outlives the frame that the name is a slice of.
            let name = topic.topic.detached();
            for asked in &topic.partitions {
                let (topic, topic_id) = (name.clone(), topic.topic_id);
                self.ask(Key { topic, topic_id, partition: asked.partition }, asked.clone());
                if self.len() > limits::FETCH_SESSION_PARTITIONS_MAX {
                    return Err(Unfit::TooLarge);
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, key: Key, asked: FetchPartition) {
        match self.tokens.entry(key) {
            Slot::Occupied(known) => {
                let token = *known.get();
                let entry = &mut self.entries[token];
                entry.asked = asked;
                self.active.insert(entry.turn, token);
            }
            Slot::Vacant(free) => {
                let turn = self.next_turn;
                self.next_turn += 1;
                let key = free.key().clone();
                let entry = Entry { key, asked, answered: None, turn, watched: false };
                let token = *free.insert(self.entries.insert(entry));
                self.active.insert(turn, token);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(token) = self.tokens.remove(key) {
            let entry = self.entries.remove(token);
            self.active.remove(&entry.turn);
        }
    }

    /// The number of partitions.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes a partition active because its log reported a change, and will not report another one.
    /// Returns it, unless it was removed meanwhile or was active already.
    pub(super) fn wake(&mut self, token: u32) -> Option<Active> {
        let entry = self.entries.get_mut(token as usize)?;
        entry.watched = false;
        match self.active.entry(entry.turn) {
            btree_map::Entry::Occupied(_) => None,
            btree_map::Entry::Vacant(settled) => {
                settled.insert(token as usize);
                Some(active(token as usize, entry))
            }
        }
    }

    /// Makes all partitions active. Returns those that were settled, in the order of their turns.
    pub(super) fn wake_settled(&mut self) -> Vec<Active> {
        let all = self.entries.iter().map(|(token, entry)| (entry.turn, token));
        let before = std::mem::replace(&mut self.active, all.collect());
        let settled = self.active.iter().filter(|(turn, _)| !before.contains_key(turn));
        settled.map(|(_, token)| active(*token, &self.entries[*token])).collect()
    }

    /// The active partitions in the order of their turns.
    pub(super) fn active(&self) -> impl Iterator<Item = Active> + '_ {
        self.active.values().map(|token| active(*token, &self.entries[*token]))
    }

    /// Records that the partition's log reports the next change.
    pub(super) fn watched(&mut self, token: u32) {
        if let Some(entry) = self.entries.get_mut(token as usize) {
            entry.watched = true;
        }
    }

    /// Takes note of the answer for an active partition. Returns whether the response must include
    /// it: it has records or an error, or differs from the last answer.
    pub(super) fn answer(&mut self, token: u32, data: &PartitionData) -> bool {
        let Some(entry) = self.entries.get_mut(token as usize) else { return false };
        let is_failed = data.error_code != 0
            || data.diverging_epoch.epoch >= 0
            || data.preferred_read_replica >= 0;
        let answered = (!is_failed).then_some(Answered {
            high_watermark: data.high_watermark,
            log_start: data.log_start_offset,
        });
        let is_new = answered != entry.answered;
        entry.answered = answered;
        if !data.records.is_empty() {
            self.active.remove(&entry.turn);
            entry.turn = self.next_turn;
            self.next_turn += 1;
            self.active.insert(entry.turn, token as usize);
            return true;
        }
        if entry.watched && !is_failed && entry.asked.fetch_offset == data.high_watermark {
            self.active.remove(&entry.turn);
        }
        is_failed || is_new
    }
}

fn active(token: usize, entry: &Entry) -> Active {
    let token = u32::try_from(token).expect("a session has fewer partitions");
    let Entry { key, asked, watched, .. } = entry;
    Active { token, key: key.clone(), asked: asked.clone(), watched: *watched }
}

#[cfg(test)]
mod tests;
