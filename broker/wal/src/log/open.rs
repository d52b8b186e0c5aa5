//! Opening a log: recover what is there, then begin a fresh file.
//!
//! # After a crash
//!
//! The order is the point. The last round of the newest file may be in the page cache and not
//! on the disk, if its sync failed; so it is copied into the fresh file and synced there, the
//! file gets its name, the name is made durable, and only then the round is read, from the
//! copy, and believed. A crash at any moment leaves the old files as they were, and the next
//! start does the same again. The names are made durable before anything else: a file that
//! was retired just before the process died may be seen as spare while the disk has it under its
//! old name, and a header written to it then would look like damage. Where all rounds of the newest file are
//! small, all of them are copied: a file that is superseded by the fresh one goes, so that a broker that keeps
//! crashing does not fill its disk, and can start again and again on one that is full.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use ropewalk_disk::{Aligned, Disk};

use super::{BUFFER_IDLE_BYTES, Options, SPARES_WANTED, SealedFile, Wal};
use crate::active::Active;
use crate::files::{Purpose, Reader, Spare, Spares};
use crate::frame;
use crate::header::{self, FileHeader};
use crate::layout::align_up;
use crate::plan::Plan;
use crate::record::{Record, ReplicaKey};
use crate::recover::{Recovery, RecoveryOutcome};
use crate::recovered::{OpenError, RecoveredLog};
use crate::replicas::Replicas;

const WHY_SEEN: &str = "wal-names-seen";

impl Wal {
    /// Opens the log in `dir`, which is made if it is not there.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, RecoveredLog), OpenError> {
        let failed = OpenError::in_dir(dir);
        disk.create_dir_all(dir).map_err(&failed)?;
        let names = disk.list(dir).map_err(&failed)?;
        disk.sync_dir(dir, WHY_SEEN).map_err(&failed)?;
        let mut recovery = Recovery::read(&*disk, (dir, options.start_bytes()), &names, &failed)?;
        let copied = recovery.rounds_to_copy().map_err(&failed)?;

        let sizes = (options.file_bytes, options.start_bytes());
        let mut spares = Spares::adopt(&*disk, dir, &names, sizes).map_err(&failed)?;
        let bytes = fresh_bytes(recovery.table(), &copied);
        let spare = fresh_spare(&*disk, (dir, &options), &mut spares, bytes).map_err(&failed)?;
        let mut buffer = Aligned::with_capacity(BUFFER_IDLE_BYTES);
        let (active, rounds_at) =
            begin_with_copy((&spare, disk.draw()), &recovery, &copied, &mut buffer)
                .map_err(&failed)?;
        active.name(&*disk, dir, &spare).map_err(&failed)?;
        recovery.replay_fresh(&active, rounds_at).map_err(&failed)?;

        let reader = Reader::default();
        reader.insert(active.sequence, Arc::clone(&active.file));
        let round_next = recovery.round_next();
        let RecoveryOutcome { recovered, replicas, usage, asides, old_files, knows_all } =
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
            let sealed = SealedFile { sequence: old.sequence, bytes: old.bytes };
            if old.contributes() {
                wal.reader.insert(old.sequence, old.file);
                wal.sealed.push_back(sealed);
            } else {
                wal.retire(sealed);
            }
        }
        recovered.notes.iter().for_each(|note| tracing::warn!(note, "write-ahead log"));
        wal.drop_unneeded(knows_all).map_err(&failed)?;
        Ok((wal, recovered))
    }

    /// Lets go of superseded files, and of old ones in which everything is truncated, at once:
    /// a broker that crashes soon after every start must not gather files.
    fn drop_unneeded(&mut self, knows_all: bool) -> io::Result<()> {
        let needed = self.replicas.rows.keys().map(|key| (*key, u64::MAX)).collect();
        self.release(&needed);
        self.drop_old_asides(knows_all)?;
        while let Some(chore) = self.spares.retirements() {
            let done = chore.run(&*self.disk, &self.dir);
            self.spares.done(done)?;
        }
        Ok(())
    }
}

/// How large the fresh file must be to take the table and the copy.
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
    (dir, options): (&Path, &Options),
    spares: &mut Spares,
    bytes_min: u64,
) -> io::Result<Spare> {
    let fits = |spare: &Spare| spare.bytes >= bytes_min;
    // Where spare ones are short, the last of them is the reserve.
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
    Spare::create(disk, dir, Purpose::Start, (number, bytes))
}

/// Gives the fresh file its header and the copies of rounds. Returns where rounds begin.
fn begin_with_copy(
    (spare, salt): (&Spare, u64),
    recovery: &Recovery,
    copied: &[Vec<Record>],
    buffer: &mut Aligned,
) -> io::Result<(Active, u64)> {
    let header = FileHeader {
        sequence: recovery.sequence_next,
        salt,
        file_bytes: spare.bytes,
        first_round: recovery.first_round,
        table: recovery.table().clone(),
    };
    let mut active = Active::begin(spare, &header, buffer)?;
    let rounds_at = active.position;
    for (round, records) in (recovery.first_round..).zip(copied) {
        let mut directory: BTreeMap<ReplicaKey, u32> = BTreeMap::new();
        for record in records {
            *directory.entry(record.key()).or_default() += 1;
        }
        active.write_round(round, directory.into_iter(), records.iter(), buffer)?;
    }
    Ok((active, rounds_at))
}
