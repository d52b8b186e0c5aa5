//! Whole nodes: one that is stopped or dropped and restarted, and several that replicate shards.

mod cluster;
mod replicas;
mod restart;
mod support;
