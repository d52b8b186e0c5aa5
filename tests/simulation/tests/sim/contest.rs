//! Elections that a second candidate contests in the same term.

use std::collections::BTreeSet;

use ropewalk_shard::message::{Body, Message};

use crate::world::{Happening, World};

/// A candidate whose requests reach as many voters as it needs and no more. Each of them crashes
/// after it has voted. Nothing else of the candidate arrives, so that another replica, which does
/// not know of the term, campaigns in it too and asks the same voters.
#[derive(Debug)]
pub(crate) struct Contest {
    candidate: u64,
    term: u64,
    voters: BTreeSet<u64>,
}

impl World {
    /// Whether a message is lost because its sender is the first candidate of a contest. The
    /// request of a candidate may begin one.
    pub(crate) fn is_lost_in_contest(&mut self, message: &Message) -> bool {
        let Message { from, to, term, body } = message;
        let is_request = matches!(body, Body::RequestVote { is_pre_vote: false, .. });
        if is_request && self.contest.is_none() && !self.is_quiet && self.dice.one_in(4) {
            self.begin_contest(*from, *term);
        }
        let Some(contest) = &self.contest else { return false };
        if *from == contest.candidate {
            let is_of_contest = is_request && *term == contest.term;
            return !(is_of_contest && contest.voters.contains(to));
        }
        let is_vote = matches!(body, Body::Vote { granted: true, is_pre_vote: false, .. });
        if is_vote && (*to, *term) == (contest.candidate, contest.term) {
            let (node, delay) = (*from, self.dice.below(2_000));
            self.after(delay, Happening::Restart { node });
        }
        false
    }

    fn begin_contest(&mut self, candidate: u64, term: u64) {
        let Some(replica) = self.nodes.get(&candidate).and_then(|node| node.replica()) else {
            return;
        };
        let mut others = replica.members().voters.clone();
        let needed = others.len() / 2;
        others.retain(|id| *id != candidate);
        let mut voters = BTreeSet::new();
        while voters.len() < needed {
            let at = usize::try_from(self.dice.below(others.len() as u64)).expect("few");
            voters.insert(others.swap_remove(at));
        }
        self.note(format!("only {voters:?} hear of candidate {candidate} in term {term}"));
        self.counts.contests += 1;
        self.contest = Some(Contest { candidate, term, voters });
        self.after(3_000_000, Happening::ContestEnds);
    }
}
