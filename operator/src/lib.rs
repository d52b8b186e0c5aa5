//! The operator: reconciles `BrokerCluster` into brokers and `Queue` into declared topics and
//! scaled consumers.
//!
//! # Control flow
//!
//! ```text
//! Queue ─▶ watch ─▶ observe ─▶ validate ─▶ plan ─▶ apply ─▶ status ─▶ Queue
//!          (the only reads)    (pure)     (pure)   (the only writes)
//! ```
//!
//! The operator reaches the brokers through the admin HTTP API only. Pure decisions are in
//! `operator/plan`, the custom resources in `operator/api`; this crate does the reading, writing
//! and waiting.
//!
//! # Invariants
//!
//! Comments and test names in this crate refer to these by number.
//!
//! - **K1** a converged reconcile writes nothing (except for the metrics in `status`, whose writes
//!   are limited by [`budget`]).
//! - **K2** nothing disruptive happens without a live read and the epoch that the brokers issued to
//!   this leader.
//! - **K3** an unknown signal keeps replicas as they are; it never scales.
//! - **K4** data is kept unless the user sets `Delete`; a deletion always completes.
//! - **K5** an operator upgrade by itself restarts no broker.

pub mod flags;
pub mod run;
pub mod supervision;
pub mod health;
pub mod metrics;
pub mod installed;
pub mod lease;
pub mod cluster_key;
pub mod admin;
pub mod signals;
pub mod attempts;
pub mod budget;
pub mod hibernation;
pub mod outages;
pub mod settings_log;
pub mod contested;
pub mod context;
pub mod watch;
pub mod apply;
pub mod finalizer;
pub mod cluster;
pub mod queue;
pub mod status_metrics;
pub mod signal_streams;
pub mod scaling;

#[cfg(test)]
mod fake_api_server;
