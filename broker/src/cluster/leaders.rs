//! Who leads each shard, from the newest report of each broker and from this broker's own replicas.
//!
//! Of two statements about a shard, the one of the higher term is true or was true later: a term
//! has at most one leader, and a later leader has a higher term. A broker whose own replica has
//! seen a higher term than any report knows that the reported leader has lost, even if it does not
//! know the next one.
//!
//! A broker that is no longer heard of may lead still, and only this broker does not reach it. Who
//! led a shard last is therefore kept until another broker leads it, the broker itself reports that
//! it no longer does, or its process has ended: clients are informed of it.
//!
//! The caller passes in the time and says which brokers are connected.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ropewalk_shard::{BrokerId, ShardId};
use tokio::time::Instant;

use super::report::{LedShard, Report};

/// A broker that is not connected counts as alive until its last report is so old.
pub const ALIVE_MAX: Duration = Duration::from_secs(3);

/// The broker that leads a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Id of the broker.
    pub broker: BrokerId,
    /// The Raft term in which it leads.
    pub term: u64,
}

/// What is known of the leadership of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest term that was seen.
    pub term: u64,
    /// The broker that leads in this term, if it is known.
    pub leader: Option<BrokerId>,
}

/// The newest report of each broker.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    heard: BTreeMap<BrokerId, Heard>,
    /// The newest term in which each shard was reported to be led, and who led in it last.
    last: HashMap<ShardId, Seen>,
}

#[derive(Debug)]
struct Heard {
    report: Arc<Report>,
    at: Instant,
    /// Terms of the shards that the broker leads.
    terms: HashMap<ShardId, u64>,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The broker has sent a later one before.
    Outdated,
    /// The broker leads what it led before.
    Same,
    /// The broker leads other shards, or in other terms.
    Leaders,
}

impl Leaders {
    /// Takes a report, unless a later one of the same broker is here.
    pub(super) fn hear(&mut self, report: Report, now: Instant) -> News {
        let before = self.heard.get(&report.broker);
        if before.is_some_and(|before| report.order() <= before.report.order()) {
            return News::Outdated;
        }
        let terms: HashMap<_, _> = report.led.iter().map(|led| (led.shard, led.term)).collect();
        let is_same = before.is_some_and(|before| before.terms == terms);
        if !is_same {
            self.remember(report.broker, &terms);
        }
        let heard = Heard { at: now, terms, report: Arc::new(report) };
        self.heard.insert(heard.report.broker, heard);
        if is_same { News::Same } else { News::Leaders }
    }

    /// Keeps what a broker leads, and that it no longer leads the rest.
    fn remember(&mut self, broker: BrokerId, terms: &HashMap<ShardId, u64>) {
        for (shard, last) in &mut self.last {
            if last.leader == Some(broker) && terms.get(shard) != Some(&last.term) {
                last.leader = None;
            }
        }
        for (shard, term) in terms {
            let last = self.last.entry(*shard).or_default();
            if *term >= last.term {
                *last = Seen { term: *term, leader: Some(broker) };
            }
        }
    }

    /// Whether a broker that is not connected counts as alive.
    pub(super) fn is_fresh(&self, broker: BrokerId, now: Instant) -> bool {
        let heard = self.heard.get(&broker);
        heard.is_some_and(|heard| now.saturating_duration_since(heard.at) < ALIVE_MAX)
    }

    /// Removes the brokers that are neither connected nor heard of lately. Returns whether there
    /// were any.
    pub(super) fn forget_dead(
        &mut self,
        now: Instant,
        is_connected: impl Fn(BrokerId) -> bool,
    ) -> bool {
        let before = self.heard.len();
        self.heard.retain(|broker, heard| {
            is_connected(*broker) || now.saturating_duration_since(heard.at) < ALIVE_MAX
        });
        self.heard.len() < before
    }

    /// The process of a broker has ended: it leads nothing any more.
    pub(super) fn remove(&mut self, broker: BrokerId) {
        self.heard.remove(&broker);
        self.remember(broker, &HashMap::new());
    }

    /// The leader of a shard, as far as the reports and this broker's own replica know.
    pub(super) fn leader(&self, shard: ShardId, own: Option<Seen>) -> Option<Leader> {
        let reported = self.heard.iter().filter_map(|(broker, heard)| {
            Some(Leader { broker: *broker, term: *heard.terms.get(&shard)? })
        });
        let reported = reported.max_by_key(|leader| leader.term);
        let own = own.unwrap_or_default();
        match reported {
            Some(reported) if reported.term >= own.term => Some(reported),
            Some(_) | None => own.leader.map(|broker| Leader { broker, term: own.term }),
        }
    }

    /// The newest term of a shard, and the broker that leads in it or was the last to be heard of
    /// as its leader.
    pub(super) fn last(&self, shard: ShardId, own: Option<Seen>) -> Seen {
        if let Some(Leader { broker, term }) = self.leader(shard, own) {
            return Seen { term, leader: Some(broker) };
        }
        let (last, own) = (self.last.get(&shard).copied(), own.unwrap_or_default());
        last.filter(|last| last.term >= own.term).unwrap_or(own)
    }

    /// The shards that a broker was the last to lead, as far as reports say.
    pub(super) fn last_led(&self, broker: BrokerId) -> impl Iterator<Item = ShardId> {
        let led = self.last.iter().filter(move |(_, last)| last.leader == Some(broker));
        led.map(|(shard, _)| *shard)
    }

    /// The newest report of a broker.
    pub(super) fn report(&self, broker: BrokerId) -> Option<&Arc<Report>> {
        self.heard.get(&broker).map(|heard| &heard.report)
    }

    /// What the leader of a shard has reported of it last.
    pub(super) fn led(&self, shard: ShardId) -> Option<&LedShard> {
        let leader = self.leader(shard, None)?;
        self.report(leader.broker)?.led.iter().find(|led| led.shard == shard)
    }

    /// The newest report of each broker, in the order of ids.
    pub(super) fn reports(&self) -> Vec<Arc<Report>> {
        self.heard.values().map(|heard| Arc::clone(&heard.report)).collect()
    }
}

#[cfg(test)]
mod tests;
