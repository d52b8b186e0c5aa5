//! A `BrokerCluster`: from what was asked and seen to what should exist, what restarts next, and
//! what its status says.
//!
//! The walk: [`validate`] makes a [`Valid`] of spec and [`Observed`]; [`children`] builds every object
//! from it; [`rollout`] says which pod may be restarted now; [`verdict`] says how it all stands.

pub mod labels;
pub mod observed;
pub mod volume;
pub mod image;
pub mod validate;
pub mod properties;
pub mod pod;
pub mod children;
pub mod rollout;
pub mod verdict;

pub use observed::{Answer, Observed};
pub use validate::{Broker, Valid};

#[cfg(test)]
mod fixture;
