//! What this broker reports of itself to the others beside its leaderships: the load of its shards,
//! and whether it should take more leaderships.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_shard::{BrokerId, ShardId};
use tokio::time::Instant;

use super::disk_speed::DiskSpeed;
use crate::catalog::View;
use crate::clock;
use crate::cluster::ReportSource;
use crate::cluster::report::Flags;
use crate::queue_metrics::ShardLoad;

/// A broker that is back takes no leaderships for balance for so long: one that fails soon after
/// each start would interrupt its shards each time.
const JUST_STARTED: Duration = Duration::from_secs(60);

/// The source of this broker's reports.
pub(super) struct OwnReport {
    pub(super) id: BrokerId,
    /// Number of this start; the first one of a broker is not a restart.
    pub(super) incarnation: u64,
    pub(super) started: Instant,
    pub(super) view: Arc<View>,
    pub(super) load: Arc<ShardLoad>,
    pub(super) disk: DiskSpeed,
    /// Whether the disk is full.
    pub(super) is_disk_full: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for OwnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnReport").field("id", &self.id).finish_non_exhaustive()
    }
}

impl OwnReport {
    fn flags_at(&self, now: Instant) -> Flags {
        let brokers = self.view.brokers();
        let standing = brokers.get(&self.id).map(|info| info.standing);
        Flags {
            is_just_started: self.incarnation > 1
                && now.saturating_duration_since(self.started) < JUST_STARTED,
            has_slow_disk: self.disk.is_slow(now) || (self.is_disk_full)(),
            is_draining: standing.is_some_and(|s| s.is_draining() || s.is_restarting()),
        }
    }
}

impl ReportSource for OwnReport {
    fn flags(&self) -> Flags {
        self.flags_at(Instant::now())
    }

    fn bytes_per_second(&self, shard: ShardId) -> u64 {
        self.load.bytes_per_second(shard, clock::now_ms())
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::command::Standing;
    use ropewalk_shard::state::Catalog;

    use super::*;
    use crate::settings::Settings;

    fn report(incarnation: u64, standing: Standing) -> OwnReport {
        let settings = Settings::new(Vec::new()).expect("valid");
        let view = Arc::new(View::new(Arc::new(settings)));
        let mut catalog = Catalog::first("c".to_owned(), BrokerId(1), 1);
        catalog.brokers.get_mut(&BrokerId(1)).expect("listed").standing = standing;
        view.reload(&catalog);
        let started = Instant::now();
        let (load, disk) = (Arc::default(), DiskSpeed::default());
        let is_disk_full = Box::new(|| false);
        OwnReport { id: BrokerId(1), incarnation, started, view, load, disk, is_disk_full }
    }

    #[test]
    fn a_restart_counts_for_a_minute_and_the_first_start_does_not() {
        let back = report(2, Standing::Serving);
        let is_just_started = |after| back.flags_at(back.started + after).is_just_started;
        assert!(is_just_started(JUST_STARTED - Duration::from_millis(1)));
        assert!(!is_just_started(JUST_STARTED));
        assert_eq!(report(1, Standing::Serving).flags(), Flags::default());
    }

    #[test]
    fn a_full_disk_counts_as_slow() {
        let full = OwnReport { is_disk_full: Box::new(|| true), ..report(1, Standing::Serving) };
        assert!(full.flags().has_slow_disk && !report(1, Standing::Serving).flags().has_slow_disk);
    }

    #[test]
    fn a_broker_that_is_to_be_left_or_restarted_says_so() {
        let restarting = Standing::Restarting { incarnation: 1, deadline_ms: 1 };
        for standing in [Standing::Draining, Standing::DrainingToFewer, restarting] {
            assert!(report(1, standing).flags().is_draining, "{standing:?}");
        }
        let late = Standing::NotRestarted { deadline_ms: 1 };
        assert!(!report(1, late).flags().is_draining);
    }
}
