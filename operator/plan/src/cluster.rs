//! A `BrokerCluster`: from what was asked and observed to what should exist, what restarts next, and
//! what its status says.
//!
//! The walk, in the order of the modules: [`observed`] holds what was read; [`validate`] makes a
//! [`ValidCluster`] of object and [`Observed`]; [`children`] builds every object from it; [`rollout`] says
//! which pod may be restarted now; [`verdict`] makes the conditions and the status.

pub mod observed;
pub mod applied;
pub mod volume;
pub mod image;
pub mod validate;
pub mod labels;
pub mod properties;
pub mod pod;
pub mod children;
pub mod rollout;
pub mod verdict;

pub use observed::{Answer, Observed};
pub use validate::{Broker, ValidCluster};

#[cfg(test)]
mod fixture;
