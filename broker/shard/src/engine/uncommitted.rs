//! The bound on what a leader has proposed and not committed.
//!
//! The `raft` crate has such a bound, but it does not see the payloads.
//!
//! Batches that full disks cannot take stay uncommitted until a command behind them frees space. So
//! the commands that free space, and changes of the members, have a share of their own: they are
//! proposed also while everything else is refused as busy.

use std::collections::VecDeque;

use crate::command;
use crate::limits;
use crate::payload::Payload;

/// The part of the bound that an entry counts towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// [`limits::UNCOMMITTED_BYTES_MAX`] without the reserve.
    Common,
    /// The reserve for what frees space, [`limits::UNCOMMITTED_RESERVE_BYTES`].
    Reserve,
}

impl Share {
    /// The share of a command with this payload.
    pub(super) fn of_command(payload: &Payload) -> Self {
        if command::leads_to_space(payload) { Self::Reserve } else { Self::Common }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Self::Common => limits::UNCOMMITTED_BYTES_MAX - limits::UNCOMMITTED_RESERVE_BYTES,
            Self::Reserve => limits::UNCOMMITTED_RESERVE_BYTES,
        }
    }
}

/// The sizes of the leader's own entries that are not committed.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    /// The term in which they were proposed.
    term: u64,
    common: Used,
    reserve: Used,
}

/// What is used of one share.
#[derive(Debug, Default)]
struct Used {
    /// Index and size of each entry, oldest first.
    entries: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Used {
    fn release(&mut self, committed: u64) {
        while let Some((_, len_bytes)) = self.entries.pop_front_if(|(index, _)| *index <= committed)
        {
            self.bytes -= len_bytes;
        }
    }
}

impl Uncommitted {
    /// Whether an entry of `len_bytes` may be proposed in `term`, with all through `committed`
    /// committed. One entry of a share always may, whatever its size.
    pub(super) fn admits(
        &mut self,
        term: u64,
        committed: u64,
        share: Share,
        len_bytes: usize,
    ) -> bool {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        let used = self.used(share);
        used.release(committed);
        used.bytes == 0 || (used.bytes + len_bytes) as u64 <= share.bytes_max()
    }

    /// Counts an entry that was proposed.
    pub(super) fn add(&mut self, index: u64, share: Share, len_bytes: usize) {
        let used = self.used(share);
        used.entries.push_back((index, len_bytes));
        used.bytes += len_bytes;
    }

    fn used(&mut self, share: Share) -> &mut Used {
        match share {
            Share::Common => &mut self.common,
            Share::Reserve => &mut self.reserve,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ShardCommand};
    use crate::id::{PartitionId, TopicId};

    const MAX: usize = (limits::UNCOMMITTED_BYTES_MAX - limits::UNCOMMITTED_RESERVE_BYTES) as usize;

    #[test]
    fn entries_count_until_they_are_committed_or_the_term_ends() {
        let common = Share::Common;
        let mut uncommitted = Uncommitted::default();
        assert!(uncommitted.admits(1, 0, common, 2 * MAX), "the first may have any size");
        uncommitted.add(5, common, MAX - 1);
        assert!(uncommitted.admits(1, 4, common, 1) && !uncommitted.admits(1, 4, common, 2));
        uncommitted.add(6, common, 1);
        assert!(!uncommitted.admits(1, 4, common, 1));
        assert!(
            uncommitted.admits(1, 5, common, MAX - 1) && !uncommitted.admits(1, 5, common, MAX)
        );
        assert!(uncommitted.admits(2, 5, common, MAX), "another leader's entries do not count");
    }

    #[test]
    fn what_frees_space_has_a_share_of_its_own() {
        let reserve = usize::try_from(limits::UNCOMMITTED_RESERVE_BYTES).expect("small");
        let mut uncommitted = Uncommitted::default();
        assert!(uncommitted.admits(1, 0, Share::Common, 2 * MAX));
        uncommitted.add(5, Share::Common, 2 * MAX);
        assert!(!uncommitted.admits(1, 4, Share::Common, 1));
        assert!(uncommitted.admits(1, 4, Share::Reserve, reserve));
        uncommitted.add(6, Share::Reserve, reserve);
        assert!(!uncommitted.admits(1, 4, Share::Reserve, 1), "the reserve has a bound too");
        assert!(uncommitted.admits(1, 5, Share::Common, MAX));
        assert!(!uncommitted.admits(1, 5, Share::Reserve, 1), "it is not committed");
        assert!(uncommitted.admits(1, 6, Share::Reserve, reserve));
    }

    #[test]
    fn only_commands_that_free_space_take_the_reserve() {
        let partition = PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index: 0 };
        let share = |command| Share::of_command(&command::encode(1, 0, &command));
        let close = ShardCommand::ClosePartitions(vec![partition]);
        assert_eq!(share(Command::Shard(close)), Share::Reserve);
        let delete = ShardCommand::DeleteGroup { group: "g".to_owned() };
        assert_eq!(share(Command::Shard(delete)), Share::Common);
        assert_eq!(share(Command::Append(Vec::new())), Share::Common);
        assert_eq!(Share::of_command(&Payload::default()), Share::Common);
    }
}
