//! Several consumers that share one target: one Deployment that reads several queues.
//!
//! Every consumer has a scaler of its own and a vote: the count that its scaler requests for the
//! current count of the target. The target gets the maximum of all votes, so it is scaled to zero
//! only when every consumer is idle, and any of them scales it up again. A consumer with scaling
//! switched off requests nothing, but keeps the target above zero while messages wait for it: no
//! scaler would wake the target for them.
//!
//! # Invariants
//!
//! - **K3** a scaled consumer without a known signal votes for the current count: this prevents a
//!   step down and nothing else. One with scaling switched off votes for one replica at most.
//! - Before a step down every vote is computed again.

use std::collections::HashMap;
use std::time::Instant;

use ropewalk_operator_plan::scaling::{Action, Decision, Target};

use super::act::Change;
use super::consumer::{Consumer, Key, ScalingState, TargetKey};
use super::vote::Vote;
use super::{Autoscaler, Entry};
use crate::cluster_key::ClusterKey;

/// Consumers by group and by target.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_group: HashMap<(ClusterKey, String, String), Vec<Key>>,
    by_target: HashMap<TargetKey, Vec<Key>>,
}

impl Index {
    /// Builds the index and updates in each consumer what it shares with others.
    pub(super) fn of(consumers: &mut [(Key, parking_lot::MutexGuard<'_, Consumer>)]) -> Self {
        let mut index = Self::default();
        let mut targets: HashMap<(ClusterKey, String), Vec<TargetKey>> = HashMap::new();
        for (key, consumer) in consumers.iter() {
            let Consumer { cluster, topic, group, .. } = &**consumer;
            let place = (cluster.clone(), topic.clone(), group.clone());
            index.by_group.entry(place).or_default().push(key.clone());
            let target = consumer.target_key();
            index.by_target.entry(target.clone()).or_default().push(key.clone());
            let of_group = targets.entry((cluster.clone(), group.clone())).or_default();
            if !of_group.contains(&target) {
                of_group.push(target);
            }
        }
        for (_, consumer) in consumers {
            let group = (consumer.cluster.clone(), consumer.group.clone());
            consumer.is_group_shared = targets.get(&group).is_some_and(|of| of.len() > 1);
            consumer.has_peers =
                index.by_target.get(&consumer.target_key()).is_some_and(|keys| keys.len() > 1);
        }
        index
    }

    /// The consumers of a group and topic.
    pub(super) fn of_group(&self, cluster: &ClusterKey, topic: &str, group: &str) -> Vec<Key> {
        let place = (cluster.clone(), topic.to_owned(), group.to_owned());
        self.by_group.get(&place).cloned().unwrap_or_default()
    }

    /// The consumers that share a target.
    fn of_target(&self, target: &TargetKey) -> Vec<Key> {
        self.by_target.get(target).cloned().unwrap_or_default()
    }
}

impl Consumer {
    /// Sets the vote from a decision. A decision that was not weighed keeps an existing vote,
    /// unless that is for another count or for zero: a vote for zero must hold at every moment.
    pub(super) fn cast(&mut self, decision: &Decision) {
        let (at, to, reason) = match &decision.action {
            Action::Set { from, to, reason } => (*from, *to, reason),
            Action::Keep { replicas, why } | Action::Frozen { replicas, why } => {
                (*replicas, *replicas, why)
            }
        };
        let still_holds = |vote: &Vote| vote.at == at && vote.to > 0;
        if !decision.is_weighed && self.vote.as_ref().is_some_and(still_holds) {
            return;
        }
        self.vote = Some(Vote { at, to, reason: reason.clone() });
    }

    fn is_off(&self) -> bool {
        matches!(self.state, ScalingState::Off(_))
    }

    /// Its vote for a target with `replicas`; `None` if it abstains.
    fn vote_at(&self, replicas: u32) -> Option<Vote> {
        if !self.is_off() {
            let vote = self.vote.clone().filter(|vote| vote.at == replicas);
            return Some(vote.unwrap_or_else(|| stays(replicas)));
        }
        let is_idle = self.is_known && self.length == 0;
        if self.is_deleted || self.policy.is_hibernating || is_idle {
            return None;
        }
        let reason = format!("messages may wait for the group {}, which is not scaled", self.group);
        Some(Vote { at: replicas, to: replicas.min(1), reason })
    }
}

impl Autoscaler {
    /// The consumers of the same target, including this one.
    pub(super) fn peers(&self, entry: &Entry) -> Vec<(Key, Entry)> {
        let target = entry.lock().target_key();
        let keys = self.index.lock().of_target(&target);
        let consumers = self.consumers.lock();
        keys.into_iter()
            .filter_map(|key| consumers.get(&key).map(|entry| (key.clone(), entry.clone())))
            .collect()
    }

    /// The change of a target that the votes of all its consumers result in.
    pub(super) fn agree(&self, entry: &Entry, target: Target) -> Option<Change> {
        let peers = self.peers(entry);
        let mut change = tally(&peers, target);
        let is_down = change.as_ref().is_some_and(|change| change.to < change.from);
        if peers.len() > 1 && (is_down || target.replicas == 0) {
            let now = self.now();
            for (_, peer) in peers.iter().filter(|(_, peer)| !std::sync::Arc::ptr_eq(peer, entry)) {
                let mut peer = peer.lock();
                self.observe(&mut peer, now);
                if !peer.is_off() {
                    self.take_decision(&mut peer, target, now);
                }
            }
            change = tally(&peers, target);
        }
        change
    }

    /// Informs every consumer of the target about the count that was read.
    pub(super) fn saw_target(&self, entry: &Entry, target: Target, now: Instant) {
        for (_, peer) in self.peers(entry) {
            peer.lock().saw(target, now);
        }
    }
}

/// The vote of a consumer without a known signal.
fn stays(replicas: u32) -> Vote {
    Vote { at: replicas, to: replicas, reason: String::new() }
}

/// The maximum of all votes as a change, `None` if it is the current count. Stores the maximum in
/// every consumer.
fn tally(peers: &[(Key, Entry)], target: Target) -> Option<Change> {
    let mut most: Option<Vote> = None;
    for (_, peer) in peers {
        let Some(vote) = peer.lock().vote_at(target.replicas) else { continue };
        if most.as_ref().is_none_or(|most| vote.to > most.to) {
            most = Some(vote);
        }
    }
    let most = most.unwrap_or_else(|| stays(target.replicas));
    for (_, peer) in peers {
        peer.lock().together = Some(most.to);
    }
    (most.to != target.replicas).then_some(Change {
        from: target.replicas,
        to: most.to,
        reason: most.reason,
    })
}
