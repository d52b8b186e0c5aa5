//! The scaling policy against simulated loads and worlds, side by side with KEDA's rule; and its dead ends, one by one.

mod keda;
mod world;
mod run;
mod loads;
mod dead_ends;
mod quick;
mod unknown;
mod idle;
mod cost;
