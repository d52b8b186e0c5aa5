//! Opens a log: recovers the records, then begins a new file.
//!
//! # After a crash
//!
//! The last round of the newest file may be in the page cache and not on the disk, if its sync
//! failed. So it is copied to the new file and synced there, then the header of the file is
//! written, and only then the copy is read and replayed. A crash at any moment before the header is
//! durable leaves the new file reserved and the old files unchanged, and the next start does the
//! same again. Old files are retired only after the label of the new file says that it has begun:
//! otherwise damage to its header could not be distinguished from a header that was never written.
//!
//! The existing names are made durable first. Otherwise the name of a file that was created just
//! before the process died could be only in the cache, and be lost with what the file then gets.
//!
//! If all rounds of the newest file are small, all of them are copied. The superseded file is then
//! removed. So a broker that crashes repeatedly does not fill its disk, and can start again on a
//! full one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use ropewalk_disk::{Aligned, Disk};

use super::{BUFFER_IDLE_BYTES, Options, SPARES_WANTED, Wal};
use crate::active::Active;
use crate::files::{Spare, SpareSizes, SpareSpec, Spares};
use crate::frame;
use crate::header::{self, FileHeader};
use crate::label::Purpose;
use crate::layout::align_up;
use crate::plan::Plan;
use crate::reader::Reader;
use crate::record::{Record, ReplicaKey};
use crate::recover::{Recovery, RecoveryOutcome};
use crate::recovered::{OpenError, RecoveredLog};
use crate::replicas::Replicas;

const WHY_SEEN: &str = "wal-names-seen";

impl Wal {
    /// Opens the log in `dir`. The directory is created if it does not exist.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, RecoveredLog), OpenError> {
        let failed = OpenError::in_dir(dir);
        disk.create_dir_all(dir).map_err(&failed)?;
        let names = disk.list(dir).map_err(&failed)?;
        disk.sync_dir(dir, WHY_SEEN).map_err(&failed)?;
        let mut recovery = Recovery::read(&*disk, dir, options.start_bytes(), &names, &failed)?;
        let copied = recovery.rounds_to_copy().map_err(&failed)?;

        let sizes =
            SpareSizes { file_bytes: options.file_bytes, start_bytes: options.start_bytes() };
        let found = std::mem::take(&mut recovery.spares);
        let mut spares = Spares::adopt(&*disk, dir, &names, found, sizes).map_err(&failed)?;
        let bytes = fresh_bytes(recovery.table(), &copied);
        let spare = fresh_spare(&*disk, dir, &options, &mut spares, bytes).map_err(&failed)?;
        let mut buffer = Aligned::with_capacity(BUFFER_IDLE_BYTES);
        let (mut active, rounds_at) =
            begin_with_copy(&spare, &recovery, &copied, &mut buffer).map_err(&failed)?;
        recovery.replay_fresh(&active, rounds_at).map_err(&failed)?;
        let round_next = recovery.round_next();
        active.label.sealed_round = round_next - 1;
        active.label.mark(&*active.file).map_err(&failed)?;

        let reader = Reader::default();
        reader.insert(active.sequence(), Arc::clone(&active.file));
        let RecoveryOutcome { recovered, replicas, usage, asides, old_files, tables_complete } =
            recovery.finish();
        for aside in asides.values() {
            reader.insert(aside.sequence, Arc::clone(&aside.file));
        }
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            options,
            reader,
            active,
            sealed: VecDeque::new(),
            spares,
            mark: None,
            marking: false,
            idle: false,
            usage,
            header_bytes: header::header_bytes(&replicas),
            replicas,
            asides,
            round_next,
            plan: Plan::default(),
            buffer,
            failed: None,
        };
        for old in old_files {
            let sealed = old.sealed_file();
            if old.contributes() {
                wal.reader.insert(old.sequence, old.file);
                wal.sealed.push_back(sealed);
            } else {
                wal.retire(sealed);
            }
        }
        recovered
            .notes
            .iter()
            .for_each(|note| tracing::warn!(note, "write-ahead log: damage found during recovery"));
        wal.drop_unneeded(tables_complete).map_err(&failed)?;
        Ok((wal, recovered))
    }

    /// Releases superseded files, and old files with only truncated entries, at once, so that a
    /// broker that crashes soon after every start does not accumulate files.
    fn drop_unneeded(&mut self, tables_complete: bool) -> io::Result<()> {
        let needed = self.replicas.rows.keys().map(|key| (*key, u64::MAX)).collect();
        self.release(&needed);
        self.drop_old_asides(tables_complete)?;
        while let Some(chore) = self.spares.retirements() {
            let done = chore.run(&*self.disk, &self.dir, &mut |_| {});
            self.spares.done(done)?;
        }
        Ok(())
    }
}

/// Smallest size in bytes of a new file with the table and the copied rounds.
fn fresh_bytes(table: &Replicas, copied: &[Vec<Record>]) -> u64 {
    let header_bytes = header::header_bytes(table);
    let frames = copied.iter().map(|records| {
        let records_bytes = records.iter().map(Record::size_bytes).sum();
        align_up(frame::frame_bytes(records.len(), records_bytes) as u64)
    });
    (header_bytes + frames.sum::<u64>()).max(2 * header_bytes)
}

fn fresh_spare(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    spares: &mut Spares,
    bytes_min: u64,
) -> io::Result<Spare> {
    let fits = |spare: &Spare| spare.bytes() >= bytes_min;
    // With fewer spare files than wanted, the last of them is the reserve.
    let is_short = spares.ready.len() < SPARES_WANTED;
    if let Some(at) = spares.starts.iter().position(fits).filter(|_| is_short) {
        return Ok(spares.starts.remove(at));
    }
    if let Some(at) = spares.ready.iter().rposition(fits) {
        return Ok(spares.ready.remove(at));
    }
    if let Some(at) = spares.starts.iter().position(fits) {
        return Ok(spares.starts.remove(at));
    }
    let number = spares.next_number();
    let bytes = options.start_bytes().max(bytes_min);
    let spec = SpareSpec { purpose: Purpose::Start, number, bytes, in_advance: false };
    Spare::create(disk, dir, spec, &mut |_| {})
}

/// Writes the copied rounds and then the header to the new file. Returns the position of the first
/// round.
fn begin_with_copy(
    spare: &Spare,
    recovery: &Recovery,
    copied: &[Vec<Record>],
    buffer: &mut Aligned,
) -> io::Result<(Active, u64)> {
    let (sequence, first_round) = (recovery.sequence_next, recovery.first_round);
    let header = FileHeader::new(&spare.label, sequence, first_round, recovery.table().clone());
    let mut active = Active::prepare(spare, &header)?;
    let rounds_at = active.position;
    for (round, records) in (recovery.first_round..).zip(copied) {
        let mut directory: BTreeMap<ReplicaKey, u32> = BTreeMap::new();
        for record in records {
            *directory.entry(record.key()).or_default() += 1;
        }
        active.write_round(round, directory.into_iter(), records.iter(), buffer)?;
    }
    active.write_header(&header, buffer)?;
    Ok((active, rounds_at))
}
