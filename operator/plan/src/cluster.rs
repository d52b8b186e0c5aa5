//! A `BrokerCluster`: from spec and observation to the objects that should exist, the next restart
//! and the status.
//!
//! In the order of use: [`observed`] holds what was read; [`validate`] builds a [`ValidCluster`]
//! from the object and [`Observed`]; [`children`] builds every object from it; [`rollout`] decides
//! which pod may be restarted; [`verdict`] builds conditions and status.

pub mod observed;
pub mod applied;
pub mod volume;
pub mod image;
pub mod object_storage;
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
