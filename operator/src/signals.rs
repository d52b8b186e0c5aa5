//! What the brokers say about bound consumer groups, second by second.
//!
//! # Place in the walk
//!
//! One stream per cluster ([`crate::signal_streams`]) brings lines ([`line`]) into one [`Table`] in memory. The status
//! figures and the scaling of consumers read it; neither ever asks a broker itself.
//!
//! # Reading
//!
//! [`Table::read`] gives a [`Reading`]: what a group did in the last second, or why nobody knows. A
//! broker sends a line per group when something changed and a tick every second; what was said last holds
//! until then, and [`Known::line`] tells whether anything was said since. Without a tick for
//! [`SILENCE_MAX`] everything of that cluster is unknown, whatever was said before.
//! [`Table::wakes`] brings the moment when a group without members has something to do: at once when
//! that begins, and again every second for as long as it lasts, so that a lost one costs a second.
//!
//! # Invariants
//!
//! - **K3** an unknown signal is never a number: [`Reading::Unknown`] carries none.
//! - A new stream knows nothing of what an older one said.

pub mod line;
pub mod table;

pub use line::{GroupState, Hello, Member, Partition};
pub use table::{Known, Reading, SILENCE_MAX, Table, Unknown, WakeUp};
