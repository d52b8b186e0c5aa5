//! Commands, the state machine, the Raft engine behind one seam, checkpoints and recovery.
