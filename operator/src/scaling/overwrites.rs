//! Detects clients that revert replicas, such as a GitOps controller with `replicas` in its
//! manifest.
//!
//! A count that is changed again soon after it was written counts as overwritten. After
//! [`TIMES_MAX`] overwrites within [`WITHIN`] scaling of the target pauses for [`BACK_OFF`] and
//! names the field manager.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::consumer::TargetKey;

/// Number of overwrites after which scaling backs off.
const TIMES_MAX: usize = 3;
/// Window in which overwrites are counted.
const WITHIN: Duration = Duration::from_secs(1800);
/// A change later than this after the write is not an overwrite: users may change counts.
const SOON: Duration = Duration::from_secs(600);
/// Duration of the back-off.
pub(super) const BACK_OFF: Duration = Duration::from_secs(600);

/// Recent writes of each target, and their overwrites.
#[derive(Debug, Default)]
pub(super) struct Overwrites(Mutex<HashMap<TargetKey, History>>);

#[derive(Debug, Default)]
struct History {
    wrote: Option<(u32, Instant)>,
    undone: Vec<Instant>,
    until: Option<(Instant, String)>,
}

impl Overwrites {
    /// Records a written count.
    pub(super) fn wrote(&self, target: &TargetKey, replicas: u32, now: Instant) {
        let mut all = self.0.lock();
        all.retain(|_, history| history.is_recent(now));
        all.entry(target.clone()).or_default().wrote = Some((replicas, now));
    }

    /// Records a read count. Returns whether the target was overwritten so often that scaling must
    /// back off.
    pub(super) fn saw(&self, target: &TargetKey, replicas: u32, now: Instant) -> bool {
        let mut all = self.0.lock();
        let Some(history) = all.get_mut(target) else { return false };
        let Some((_, at)) = history.wrote.take_if(|(wrote, _)| *wrote != replicas) else {
            return false;
        };
        if now.saturating_duration_since(at) > SOON {
            return false;
        }
        history.undone.retain(|undone| now.saturating_duration_since(*undone) < WITHIN);
        history.undone.push(now);
        history.undone.len() >= TIMES_MAX
    }

    /// Begins the back-off of a target.
    pub(super) fn begin_back_off(&self, target: &TargetKey, message: String, now: Instant) {
        let mut all = self.0.lock();
        all.entry(target.clone()).or_default().until = Some((now + BACK_OFF, message));
    }

    /// The message of the current back-off of a target, if there is one.
    pub(super) fn back_off_reason(&self, target: &TargetKey, now: Instant) -> Option<String> {
        let all = self.0.lock();
        let (until, message) = all.get(target)?.until.as_ref()?;
        (now < *until).then(|| message.clone())
    }
}

impl History {
    fn is_recent(&self, now: Instant) -> bool {
        let last = self.wrote.map(|(_, at)| at).max(self.undone.last().copied());
        last.is_some_and(|at| now.saturating_duration_since(at) < WITHIN)
    }
}

/// The message for the user.
pub(super) fn message(kind: &str, name: &str, manager: Option<&str>) -> String {
    let who = manager.map_or_else(
        || "a field manager that the operator may not see".to_owned(),
        |manager| format!("the field manager `{manager}`"),
    );
    format!(
        "{who} reverts `replicas` of {kind} {name}, {TIMES_MAX} times within {} min: scaling pauses for {} min and tries again. Remove `replicas` from the manifest, or configure the tool to ignore it (Argo CD: `ignoreDifferences` with the JSON pointer /spec/replicas)",
        WITHIN.as_secs() / 60,
        BACK_OFF.as_secs() / 60,
    )
}
