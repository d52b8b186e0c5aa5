//! The operator: turns `Queue` and `BrokerCluster` into brokers, declared topics and scaled consumers.
//!
//! # The walk
//!
//! ```text
//! Queue ─▶ watch ─▶ observe ─▶ validate ─▶ plan ─▶ apply ─▶ status ─▶ Queue
//!          (the only reads)    (pure)     (pure)   (the only writes)
//! ```
//!
//! Operator and brokers meet in the admin HTTP API and nowhere else. What is pure lives in
//! `operator/plan`, the kinds in `operator/api`; here is what reads, writes and waits.
//!
//! # Invariants
//!
//! - **K1** a converged reconcile writes nothing (the figures in `status` apart; they have a budget).
//! - **K2** no disruptive act without a live read and the epoch that the brokers gave this leader.
//! - **K3** an unknown signal freezes replicas; it never scales.
//! - **K4** data is kept unless the user says `Delete`; deletion always ends.
//! - **K5** an operator upgrade restarts no broker by itself.

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
pub mod figures;
pub mod signal_streams;
pub mod scaling;

#[cfg(test)]
mod fake_api_server;
