//! The scaling policy under simulated loads, compared with KEDA's rule, and its known failure
//! modes.

mod keda;
mod world;
mod run;
mod loads;
mod dead_ends;
mod quick;
mod unknown;
mod idle;
mod cost;
