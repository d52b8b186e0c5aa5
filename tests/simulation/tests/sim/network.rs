//! The network between the replicas: delay, loss, duplication, reordering, cuts in one direction.

use std::collections::BTreeSet;

use crate::dice::Dice;

#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Pairs of sender and receiver between which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    /// One message in so many is lost; 0 for none.
    pub lost_one_in: u64,
    /// One message in so many arrives twice; 0 for none.
    pub doubled_one_in: u64,
    /// One message in so many is late; 0 for none.
    pub late_one_in: u64,
    /// Bytes of payloads in messages that have not arrived, and the most at any time.
    flying_bytes: u64,
    pub flying_bytes_max: u64,
}

impl Network {
    /// The delays after which copies of a message arrive, microseconds.
    pub(crate) fn deliveries(&self, from: u64, to: u64, dice: &mut Dice) -> Vec<u64> {
        let happens = |one_in: u64, dice: &mut Dice| one_in > 0 && dice.one_in(one_in);
        if self.cut.contains(&(from, to)) || happens(self.lost_one_in, dice) {
            return Vec::new();
        }
        let mut copies = vec![delay(dice)];
        if happens(self.doubled_one_in, dice) {
            copies.push(delay(dice) + dice.below(200_000));
        }
        if happens(self.late_one_in, dice) {
            copies[0] += dice.below(3_000_000);
        }
        copies
    }

    /// Whether the message arrives at the moment at which it would be delivered.
    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Nothing arrives from one node at another one.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    /// A message of so many bytes of payload is on its way.
    pub(crate) fn departs(&mut self, bytes: u64) {
        self.flying_bytes += bytes;
        self.flying_bytes_max = self.flying_bytes_max.max(self.flying_bytes);
    }

    /// A message of so many bytes of payload arrives, or would.
    pub(crate) fn arrives(&mut self, bytes: u64) {
        self.flying_bytes -= bytes;
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Cuts `side` off from the other nodes in both directions.
    pub(crate) fn isolate(&mut self, side: &[u64], others: &[u64]) {
        for a in side {
            self.cut.extend(others.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
        }
    }

    /// Separates `side` from the other nodes, in one direction or in both.
    pub(crate) fn separate(&mut self, side: &[u64], others: &[u64], dice: &mut Dice) {
        let direction = dice.below(3);
        for a in side {
            for b in others {
                if direction != 1 {
                    self.cut.insert((*a, *b));
                }
                if direction != 2 {
                    self.cut.insert((*b, *a));
                }
            }
        }
    }
}

fn delay(dice: &mut Dice) -> u64 {
    dice.between(100, 2_000)
}
