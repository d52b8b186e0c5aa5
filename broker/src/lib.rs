//! The broker: everything that knows Kafka's protocol, and the wiring of the layers below.
//!
//! The modules stand in the order in which a request walks through them. `main.rs` is thin; what
//! it starts is [`boot`].

pub mod limits;
pub mod clock;
mod log_limit;
pub mod supervision;
pub mod settings;
pub mod listen;
pub mod handle;
pub mod group;
pub mod catalog;
pub mod figures;
pub mod ageing;
pub mod admin;
pub mod boot;
