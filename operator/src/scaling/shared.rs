//! Several consumers that one target serves: one Deployment that reads several queues.
//!
//! Every consumer keeps a scaler of its own and has a vote: the count that it wants, for the count that
//! there is. The target gets the most of all votes, so it goes to zero only when every consumer is idle, and
//! any of them brings it back. One that is switched off asks for nothing, and keeps the target from zero while
//! messages wait for it: nobody would wake the target for them.
//!
//! # Invariants
//!
//! - **K3** who knows nothing votes for the count that there is: it keeps the others from going down and
//!   from nothing else.
//! - Before a step down every vote is taken anew.

use std::collections::HashMap;
use std::time::Instant;

use ropewalk_operator_plan::scaling::{Action, Decision, Target};

use super::act::Change;
use super::consumer::{Consumer, Key, Standing, TargetKey};
use super::vote::Vote;
use super::{Autoscaler, Entry};
use crate::cluster_key::ClusterKey;

/// Who is asked when something happens to a group or a target.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_group: HashMap<(ClusterKey, String, String), Vec<Key>>,
    by_target: HashMap<TargetKey, Vec<Key>>,
}

impl Index {
    /// Sorts all consumers in, and tells each what it shares with others.
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

    /// The consumers of a group of a topic.
    pub(super) fn of_group(&self, cluster: &ClusterKey, topic: &str, group: &str) -> Vec<Key> {
        let place = (cluster.clone(), topic.to_owned(), group.to_owned());
        self.by_group.get(&place).cloned().unwrap_or_default()
    }

    /// The consumers of a target.
    fn of_target(&self, target: &TargetKey) -> Vec<Key> {
        self.by_target.get(target).cloned().unwrap_or_default()
    }
}

impl Consumer {
    /// Takes its vote from what was just decided. What was not weighed changes no vote, unless that was
    /// cast for another count, or for zero: that has to be true at every moment.
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
        matches!(self.standing, Standing::Off(_))
    }

    /// Its vote on a target with so many replicas; `None` if it does not mind.
    fn vote_at(&self, replicas: u32) -> Option<Vote> {
        if !self.is_off() {
            let vote = self.vote.clone().filter(|vote| vote.at == replicas);
            return Some(vote.unwrap_or_else(|| stays(replicas)));
        }
        let needs_nobody = self.is_known && self.length == 0;
        if self.is_going || self.policy.is_hibernating || needs_nobody {
            return None;
        }
        let reason = format!("messages may wait for the group {}, which is not scaled", self.group);
        Some(Vote { at: replicas, to: replicas.min(1), reason })
    }
}

impl Autoscaler {
    /// The consumers of the same target, this one included.
    pub(super) fn peers(&self, entry: &Entry) -> Vec<(Key, Entry)> {
        let target = entry.lock().target_key();
        let keys = self.index.lock().of_target(&target);
        let consumers = self.consumers.lock();
        keys.into_iter()
            .filter_map(|key| consumers.get(&key).map(|entry| (key.clone(), entry.clone())))
            .collect()
    }

    /// What all consumers of a target together want to change about it.
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

    /// Every consumer of the target learns what was read of it.
    pub(super) fn saw_target(&self, entry: &Entry, target: Target, now: Instant) {
        for (_, peer) in self.peers(entry) {
            peer.lock().saw(target, now);
        }
    }
}

/// The vote of one who knows nothing.
fn stays(replicas: u32) -> Vote {
    Vote { at: replicas, to: replicas, reason: String::new() }
}

/// The most of all votes; `None` if that is what there is. Says so to everybody.
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
