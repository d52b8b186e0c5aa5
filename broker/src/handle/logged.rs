//! Log lines about requests that are refused for a reason that a retry cannot fix.
//!
//! Most responses of Kafka's protocol carry a code and no message, and many clients retry silently.
//! Only the log has the value, the bound and the setting.

use std::fmt::Display;

use tokio::time::Instant;
use tracing::warn;

use super::{Call, Context};
use crate::group::Refusal;

impl Context {
    /// Logs a refusal that a retry cannot fix, at most once per subject and minute.
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

    /// Logs a refusal of a group request, unless it is part of normal group operation.
    pub(crate) fn log_group_refusal(&self, call: &Call, group: &str, refusal: Refusal) {
        if refusal.needs_attention() {
            self.log_refusal(call, &format!("group {group}"), &refusal);
        }
    }
}
