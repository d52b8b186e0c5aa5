//! Somebody who sets replicas back: a GitOps controller with `replicas` in its manifest.
//!
//! A count that is changed again soon after it was written was overwritten. After [`TIMES_MAX`] times within
//! [`WITHIN`] scaling stands back from the target for [`BACK_OFF`] and names the field manager.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::consumer::TargetKey;

/// So often a count may be overwritten before scaling stands back.
const TIMES_MAX: usize = 3;
/// The times that are counted.
const WITHIN: Duration = Duration::from_secs(1800);
/// A count that was changed later than this was not overwritten: a person may do that.
const SOON: Duration = Duration::from_secs(600);
/// How long scaling stands back.
pub(super) const BACK_OFF: Duration = Duration::from_secs(600);

/// What became of the counts that were written.
#[derive(Debug, Default)]
pub(super) struct Overwrites(Mutex<HashMap<TargetKey, History>>);

#[derive(Debug, Default)]
struct History {
    wrote: Option<(u32, Instant)>,
    undone: Vec<Instant>,
    until: Option<(Instant, String)>,
}

impl Overwrites {
    /// A count was written.
    pub(super) fn wrote(&self, target: &TargetKey, replicas: u32, now: Instant) {
        let mut all = self.0.lock();
        all.retain(|_, history| history.is_recent(now));
        all.entry(target.clone()).or_default().wrote = Some((replicas, now));
    }

    /// A count was read. Whether counts have been overwritten so often that scaling stands back.
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

    /// Scaling stands back from now on, and says why.
    pub(super) fn stand_back(&self, target: &TargetKey, message: String, now: Instant) {
        let mut all = self.0.lock();
        all.entry(target.clone()).or_default().until = Some((now + BACK_OFF, message));
    }

    /// Why scaling stands back from a target, if it does.
    pub(super) fn stands_back(&self, target: &TargetKey, now: Instant) -> Option<String> {
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

/// What is said of it.
pub(super) fn message(kind: &str, name: &str, manager: Option<&str>) -> String {
    let who = manager.map_or_else(
        || "something that the operator may not see".to_owned(),
        |manager| format!("the field manager `{manager}`"),
    );
    format!(
        "{who} sets `replicas` of {kind} {name} back, {TIMES_MAX} times within {} min: scaling pauses for {} min and tries again. Take `replicas` out of the manifest, or have the tool ignore it (Argo CD: `ignoreDifferences` with the JSON pointer /spec/replicas)",
        WITHIN.as_secs() / 60,
        BACK_OFF.as_secs() / 60,
    )
}
