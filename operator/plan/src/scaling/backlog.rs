//! The partitions of a queue for one group: arrival rate, commit interval and backlog.
//!
//! A consumer that keeps up but commits every five seconds always shows up to five seconds of
//! messages. So the backlog of a partition is the least length over a commit interval. From the
//! sum, the policy subtracts what is in transit through any healthy consumer: a second of arrivals,
//! and one message in each member's hand.

use super::limits::{
    ARRIVAL_WEIGHT, COMMIT_INTERVAL_DEFAULT, COMMIT_INTERVAL_MAX, INTERVAL, PARTITIONS_MAX,
    TRANSIT_SECONDS,
};
use super::signal::{PartitionSample, Sample};
use std::time::Duration;

/// Intervals over which the least length is kept. [`COMMIT_INTERVAL_MAX`] and the interval in which
/// it began would be 13, but for a group that commits so rarely the messages in hand may count as
/// backlog.
const TROUGHS: usize = 6;

/// Shortest commit interval that samples can show.
const SAMPLED_EVERY: Duration = Duration::from_secs(1);

/// The state of one partition.
#[derive(Debug, Clone)]
struct Track {
    seen: PartitionSample,
    /// End offset at the start of the interval.
    end_then: i64,
    arrival: Option<f64>,
    /// Least length of the running interval and of those before, newest first.
    troughs: [u64; TROUGHS],
    /// Since when there has been something to commit.
    uncommitted_since: Option<Duration>,
}

impl Track {
    fn new(seen: PartitionSample) -> Self {
        Self {
            seen,
            end_then: seen.end,
            arrival: None,
            troughs: [seen.length; TROUGHS],
            uncommitted_since: None,
        }
    }
}

/// Utilization and drain time that the user chose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Share of the capacity that should be in use, 0 to 1.
    pub(super) utilization: f64,
    /// Seconds within which a backlog should be drained.
    pub(super) drain_seconds: f64,
}

/// The load of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartitionLoad {
    /// Partition number, from 0.
    pub(super) partition: u32,
    /// Messages that arrive, per second.
    pub(super) arrival: f64,
    /// Messages that wait, without those in transit.
    pub(super) waiting: f64,
}

/// All partitions of a queue, for one group.
#[derive(Debug, Clone)]
pub(super) struct Backlog {
    tracks: Vec<Option<Track>>,
    commit_interval: Duration,
    /// Longest time between two commits that ended in the running interval.
    gap: Option<Duration>,
    working: u32,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { tracks: Vec::new(), commit_interval: COMMIT_INTERVAL_DEFAULT, gap: None, working: 0 }
    }
}

impl Backlog {
    /// Takes one sample of the group.
    pub(super) fn observe(&mut self, now: Duration, sample: &Sample) {
        self.working = sample.working();
        // Without members, or during a rebalance, a late commit does not show the commit interval.
        let can_commit = self.working > 0 && !sample.rebalancing;
        for partition in &sample.partitions {
            let index = partition.partition as usize;
            if index >= PARTITIONS_MAX {
                continue;
            }
            if index >= self.tracks.len() {
                self.tracks.resize_with(index + 1, || None);
            }
            let slot = &mut self.tracks[index];
            let gap = track(slot, now, *partition, can_commit);
            self.gap = self.gap.max(gap);
        }
    }

    /// Ends an interval of length `elapsed` and returns its arrival rate, messages per second.
    pub(super) fn close(&mut self, elapsed: Duration) -> f64 {
        let seconds = elapsed.as_secs_f64().max(1.0);
        let mut total = 0.0;
        for track in self.tracks.iter_mut().flatten() {
            let arrived = (track.seen.end - track.end_then).max(0) as f64 / seconds;
            total += arrived;
            let mean = track.arrival.unwrap_or(arrived);
            track.arrival = Some(mean + ARRIVAL_WEIGHT * (arrived - mean));
            track.end_then = track.seen.end;
            track.troughs.rotate_right(1);
            track.troughs[0] = track.seen.length;
        }
        if let Some(gap) = self.gap.take() {
            let gap = gap.min(COMMIT_INTERVAL_MAX);
            self.commit_interval = if gap > self.commit_interval {
                gap
            } else {
                self.commit_interval.mul_f64(0.9) + gap.mul_f64(0.1)
            };
        }
        total
    }

    /// Restarts the running interval: offsets moved in a gap between samples.
    pub(super) fn restart(&mut self) {
        for track in self.tracks.iter_mut().flatten() {
            track.end_then = track.seen.end;
            track.uncommitted_since = None;
        }
        self.gap = None;
    }

    /// The observed commit interval of the group.
    pub(super) fn commit_interval(&self) -> Duration {
        self.commit_interval
    }

    /// The number of partitions that were observed.
    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.tracks.len()).unwrap_or(u32::MAX)
    }

    /// Messages that wait, without those in transit at `arrival` messages per second.
    pub(super) fn waiting(&self, arrival: f64) -> f64 {
        let total: f64 = self.tracks.iter().flatten().map(|track| self.trough(track)).sum();
        (total - arrival * TRANSIT_SECONDS - f64::from(self.working)).max(0.0)
    }

    /// The load of each partition.
    pub(super) fn each(&self) -> impl Iterator<Item = PartitionLoad> {
        self.tracks.iter().flatten().map(|track| {
            let arrival = track.arrival.unwrap_or(0.0);
            let waiting = (self.trough(track) - arrival * TRANSIT_SECONDS - 1.0).max(0.0);
            PartitionLoad { partition: track.seen.partition, arrival, waiting }
        })
    }

    /// Messages per second that have to be processed when `arrival` per second arrive in all: for
    /// each partition its share at the chosen utilization, and its backlog within the drain time,
    /// but at most `per_member`, because only one member consumes a partition.
    pub(super) fn demand(&self, arrival: f64, per_member: f64, pace: Pace) -> f64 {
        let known: f64 = self.each().map(|load| load.arrival).sum();
        let ahead = if known > 0.0 { arrival / known } else { 0.0 };
        let each = self.each().map(|load| {
            let arrival = load.arrival * ahead / pace.utilization;
            (arrival + load.waiting / pace.drain_seconds).min(per_member)
        });
        each.sum()
    }

    /// Messages per second that arrive on these partitions.
    pub(super) fn arrival_on(&self, partitions: &[u32]) -> f64 {
        let tracks =
            partitions.iter().filter_map(|index| self.tracks.get(*index as usize)?.as_ref());
        tracks.filter_map(|track| track.arrival).sum()
    }

    fn trough(&self, track: &Track) -> f64 {
        // Samples a second apart show a commit up to a second late.
        let commit_seconds = self.commit_interval.as_secs_f64() + 1.0;
        let intervals = commit_seconds / INTERVAL.as_secs_f64();
        let window = (intervals.ceil() as usize + 1).clamp(2, TROUGHS);
        track.troughs[..window].iter().copied().min().unwrap_or(0) as f64
    }
}

/// Takes one sample of a partition; returns the time between two commits, if one just ended.
fn track(
    slot: &mut Option<Track>,
    now: Duration,
    seen: PartitionSample,
    can_commit: bool,
) -> Option<Duration> {
    let Some(track) = slot else {
        *slot = Some(Track::new(seen));
        return None;
    };
    if seen.end < track.seen.end {
        // Another queue has the same name.
        *track = Track::new(seen);
        return None;
    }
    let committed = seen.committed > track.seen.committed;
    let gap = match track.uncommitted_since {
        Some(since) if committed && can_commit => Some(now.saturating_sub(since)),
        // A commit between two samples.
        None if committed && can_commit => Some(SAMPLED_EVERY),
        Some(_) | None => None,
    };
    if seen.length == 0 {
        track.uncommitted_since = None;
    } else if committed || !can_commit || track.uncommitted_since.is_none() {
        track.uncommitted_since = Some(now);
    }
    track.troughs[0] = track.troughs[0].min(seen.length);
    track.seen = seen;
    gap
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::signal::MemberSample;

    /// 10 messages a second on one partition, committed every `every` seconds, up to `behind` short
    /// of the end.
    fn sample(second: u64, every: u64, behind: i64) -> Sample {
        let end = second as i64 * 10;
        let committed = ((second / every * every) as i64 * 10 - behind).max(0);
        let length = (end - committed) as u64;
        let members = vec![MemberSample { id: "m".to_owned(), partitions: vec![0] }];
        let partitions = vec![PartitionSample { partition: 0, length, end, committed }];
        Sample { length, partitions, members, ..Sample::default() }
    }

    fn watched(every: u64, behind: i64) -> (Backlog, f64) {
        let mut backlog = Backlog::default();
        let mut arrival = 0.0;
        for second in 0..120 {
            backlog.observe(Duration::from_secs(second), &sample(second, every, behind));
            if second % 5 == 0 {
                arrival = backlog.close(INTERVAL);
            }
        }
        (backlog, arrival)
    }

    #[test]
    fn what_is_only_not_committed_yet_does_not_wait() {
        for every in [1, 5, 10, 20] {
            let (backlog, arrival) = watched(every, 0);
            assert_eq!(arrival, 10.0);
            assert_eq!(backlog.waiting(arrival), 0.0, "commits every {every} s");
        }
    }

    #[test]
    fn a_backlog_is_seen_below_the_commits() {
        let (backlog, arrival) = watched(5, 300);
        let waiting = backlog.waiting(arrival);
        assert!((280.0..=300.0).contains(&waiting), "{waiting}");
    }

    #[test]
    fn the_commit_interval_is_learned() {
        let (backlog, _) = watched(20, 0);
        assert!(backlog.commit_interval() >= Duration::from_secs(19));
        let (backlog, _) = watched(1, 0);
        assert!(backlog.commit_interval() < Duration::from_secs(5));
    }

    #[test]
    fn a_queue_made_anew_is_no_arrival() {
        let (mut backlog, _) = watched(5, 0);
        backlog.observe(Duration::from_secs(121), &sample(1, 5, 0));
        assert_eq!(backlog.close(INTERVAL), 0.0);
    }
}
