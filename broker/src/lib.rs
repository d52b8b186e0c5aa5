//! The broker: everything that implements Kafka's protocol, and the wiring of the crates below.
//!
//! The modules are listed in the order in which a request passes through them. `main.rs` only
//! parses flags and starts [`boot`].

pub mod limits;
pub mod clock;
mod log_limit;
pub mod supervision;
pub mod settings;
pub mod listen;
pub mod handle;
pub mod group;
pub mod catalog;
pub mod cluster;
pub mod queue_metrics;
pub mod retention;
pub(crate) mod tier;
pub mod restore;
pub mod admin;
pub mod boot;
