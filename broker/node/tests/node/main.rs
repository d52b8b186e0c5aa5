//! Whole nodes: one that is stopped or dropped and restarted, and several that replicate shards.

mod arrivals;
mod backlog;
mod cluster;
mod destroy;
mod replicas;
mod restart;
mod support;
