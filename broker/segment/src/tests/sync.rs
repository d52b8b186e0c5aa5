//! Syncs beside appends.

use ropewalk_disk::{Fault, Operation};

use super::*;
use crate::{Result, SegmentError};

/// Appends before, during and after a sync. Returns the end as of the sync, if it succeeded.
fn append_around_a_sync(bench: &Bench, all: &[StampedBatch], at: usize) -> Option<DurableEnd> {
    let mut segments = bench.try_open(None, 0).ok()?;
    let append = |segments: &mut Segments, batches| segments.append(batches, 0, &small());
    append(&mut segments, &all[..at]).ok()?;
    let (end, pending) = (segments.end(), segments.pending_sync().ok()?);
    let appended = append(&mut segments, &all[at..at + 8]);
    let done = pending.sync_files().and_then(|()| pending.sync_parent());
    segments.synced(&pending, done).ok()?;
    if appended.is_ok() {
        // Whether this succeeds does not matter: it is not covered.
        let _ = append(&mut segments, &all[at + 8..]);
    }
    Some(end)
}

/// The snapshot names the end that was read when the sync was prepared. Power may go at any later
/// moment: what was appended meanwhile is cut off, also in the same file and in later ones.
#[test]
fn d1_an_end_from_before_the_sync_holds_however_appends_go_on() {
    let all = batches(0, &[7; 24], 1);
    for at in [1, 4, 5, 9] {
        let bench = Bench::new();
        let before = bench.disk.operations();
        append_around_a_sync(&bench, &all, at).expect("nothing fails");
        let operations = bench.disk.operations() - before;
        assert!(operations > 20, "{operations}");
        let mut held = 0;
        for crash in 1..=operations + 1 {
            let mut bench = Bench::new();
            bench.disk.crash_at(bench.disk.operations() + crash);
            let end = append_around_a_sync(&bench, &all, at);
            bench.power_cycle(crash);
            if let Some(end) = end {
                let segments = bench.recover(Some(&end), 0, crash);
                assert_eq!(segments.damages(), []);
                assert_holds(&segments, &all[..at], 0);
                held += 1;
            }
        }
        assert!(held > 5, "{held}");
    }
}

#[test]
fn d1_what_was_written_during_a_sync_is_synced_by_the_next() -> Result<()> {
    let mut bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[2, 2, 2, 40, 40], 1);
    segments.append(&all[..1], 0, &small())?;
    let pending = segments.pending_sync()?;
    assert_eq!(pending.cost(), 4);
    assert!(pending.needs_parent());
    // In the same segment, and in another one.
    segments.append(&all[1..], 0, &small())?;
    pending.sync_files()?;
    pending.sync_parent()?;
    segments.synced(&pending, Ok(()))?;
    assert_eq!(segments.sync_cost(), 5, "both segments and the directory");
    let pending = segments.pending_sync()?;
    assert!(!pending.needs_parent(), "the directory has a name since the first");
    // A sync that did not run changes nothing.
    drop(segments.pending_sync()?);
    let end = segments.end();
    pending.sync_files()?;
    segments.synced(&pending, Ok(()))?;
    assert_eq!(segments.sync_cost(), 0);
    bench.power_cycle(3);
    assert_holds(&bench.open(Some(&end), 0), &all, 0);
    Ok(())
}

#[test]
fn d2_a_sync_that_failed_beside_the_writer_is_final() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    segments.append(&batches(0, &[5], 1), 0, &small()).unwrap();
    let pending = segments.pending_sync().unwrap();
    bench.disk.inject(Fault::next(Operation::Sync));
    let failed = segments.synced(&pending, pending.sync_files());
    assert!(matches!(failed, Err(SegmentError::SyncFailed { .. })));
    let refused = segments.append(&batches(5, &[5], 1), 0, &small());
    assert!(matches!(refused, Err(SegmentError::SyncFailed { .. })));
    assert!(matches!(segments.pending_sync(), Err(SegmentError::SyncFailed { .. })));
}

#[test]
fn the_write_back_of_every_append_is_started() {
    let bench = Bench::new();
    let mut segments = bench.open(None, 0);
    let all = batches(0, &[5, 5, 40, 40, 1], 1);
    segments.append(&all[..3], 0, &small()).unwrap();
    segments.append(&all[3..], 0, &small()).unwrap();
    assert!(segments.infos().len() > 1);
    assert_eq!(bench.disk.write_back_bytes(), segments.bytes());
}
