//! Randomness of simulations: how much of what was not synced survives a power loss.

/// Pseudorandom numbers from a seed, the same on every machine: splitmix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014). For simulations only.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the sequence.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True with a probability of one in `bound`; `bound` is not zero.
    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }
}

/// How much of what was not synced reaches the disk. Chosen once per file: with an even chance per
/// sector, "nothing" and "all" would almost never occur, although they are common in practice.
#[derive(Debug, Clone, Copy)]
pub(super) enum Survival {
    Nothing,
    All,
    /// Only the first so many.
    Prefix(u64),
    /// All except the first so many.
    Suffix(u64),
    Each,
}

impl Survival {
    pub(super) fn choose(random: &mut Dice, of: u64) -> Self {
        match random.below(5) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::Prefix(random.below(of + 1)),
            3 => Self::Suffix(random.below(of + 1)),
            _ => Self::Each,
        }
    }

    pub(super) fn keeps(self, number: u64, random: &mut Dice) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Prefix(count) => number < count,
            Self::Suffix(count) => number >= count,
            Self::Each => random.coin(),
        }
    }
}
