//! What the operator decides, as plain functions of what it saw.
//!
//! # Place in the walk
//!
//! ```text
//! Queue ─▶ watch ─▶ observe ─▶ validate ─▶ plan ─▶ apply ─▶ status ─▶ Queue
//!          (the only reads)    (pure)     (pure)   (the only writes)
//! ```
//!
//! This crate is the pure part. It has no client, no clock and no runtime: whoever calls it brings the
//! objects and the time, and carries out what comes back. Its tests need YAML only.
//!
//! # Invariants
//!
//! - The same input gives the same output, byte for byte: what is built twice is written once (K1).
//! - Nothing of the operator's own release goes into what is built for a broker (K5).

pub mod cluster;
pub mod queue;
pub mod figures;
pub mod intent;
pub mod scaling;
