//! Brokers that connect over the loopback interface: real sockets, TLS with generated certificates,
//! real files.
//!
//! Each broker has a runtime of its own, so that a test can end it without a goodbye, as a killed
//! process ends. No test measures time; waiting has a limit only so that a test that hangs fails.

mod authority;
mod broker;
mod certificates;
mod connecting;
mod lanes;
mod load;
mod raw;
mod refusals;
mod violations;
