//! The latest signals of the brokers about bound consumer groups.
//!
//! One stream per cluster ([`crate::signal_streams`]) delivers lines ([`mod@line`]) into one
//! in-memory [`Table`]. The scaling of consumers reads it and never calls a broker itself.
//!
//! # Reading
//!
//! [`Table::read`] returns a [`GroupSignal`]: the state of a group in the last second, or why it is
//! unknown. A broker sends a line for a group when something changed, and a tick every second; the
//! last line holds until the next one, and [`GroupSnapshot::line`] shows whether a new one came.
//! Without a tick for [`SILENCE_MAX`] everything of that cluster is unknown. [`Table::wakes`]
//! delivers a wake-up when a group without members has work: at once, and again every second for as
//! long as that is so, so that a lost wake-up costs a second.
//!
//! # Invariants
//!
//! - **K3** an unknown signal is never a number: [`GroupSignal::Unknown`] carries none.
//! - A new stream starts without the state of an earlier one.

pub mod line;
pub mod table;

pub use line::{GroupState, Hello, Member, Partition};
pub use table::{GroupSignal, GroupSnapshot, SILENCE_MAX, Table, UnknownReason, WakeUp};
