//! The broker's write-ahead log: group commit, recovery, recycling.
