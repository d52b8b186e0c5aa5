//! What clients are refused and cannot mend by trying again, as lines in the log.
//!
//! Most answers of Kafka's protocol carry a code and no words, and many clients try again in silence:
//! the value, the bound and the setting are then only here.

use std::fmt::Display;

use tokio::time::Instant;
use tracing::warn;

use super::{Call, Context};
use crate::group::Refusal;

impl Context {
    /// A line about something that a client is refused and that will not pass by itself: at most one
    /// per subject and minute. Kafka's protocol has no words for the reason in most answers.
    pub(crate) fn log_refusal(&self, call: &Call, subject: &str, reason: &dyn Display) {
        if let Some(left_out) = self.refusals.admit(subject, Instant::now()) {
            warn!(
                api = call.api.name(),
                client_id = call.client_id.as_deref(),
                peer = %call.peer.address,
                subject,
                %reason,
                left_out,
                "request refused"
            );
        }
    }

    /// The same for a group, unless the refusal is part of its life.
    pub(crate) fn log_group_refusal(&self, call: &Call, group: &str, refusal: Refusal) {
        if refusal.needs_attention() {
            self.log_refusal(call, &format!("group {group}"), &refusal);
        }
    }
}
