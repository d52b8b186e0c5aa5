//! The decisions of the operator as pure functions of the observed objects and signals.
//!
//! ```text
//! Queue ─▶ watch ─▶ observe ─▶ validate ─▶ plan ─▶ apply ─▶ status ─▶ Queue
//!          (the only reads)    (pure)     (pure)   (the only writes)
//! ```
//!
//! This crate holds the pure part. It has no client, no clock and no runtime: the caller passes
//! objects and time, and carries out the result. The tests need YAML only.
//!
//! # Invariants
//!
//! - The same input gives the same output, byte for byte: an object that is built twice is written
//!   once (K1).
//! - No object for a broker depends on the release of the operator (K5).

pub mod cluster;
pub mod queue;
pub mod metrics;
pub mod intent;
pub mod scaling;
