//! Looks for damage in a whole data directory, and gives up what it took when a person says so.
//!
//! Everything that a broker of one keeps is there once: damaged bytes cannot be had from anywhere else. A
//! broker that finds some names it and serves the rest; this reads all there is, says what giving
//! up would cost, and only if it is told to makes a directory again that is served from in full.
//!
//! # Order
//!
//! 1. `meta`: what it says stands in the catalog's snapshot as well.
//! 2. Snapshots, per shard: without any, it begins anew with the records in its files ([`rebirth`]). Without
//!    the catalog's own nothing can be told of anything, and it stays damaged.
//! 3. The write-ahead log, per shard ([`logs`]): it is cut before the first entry that is lost, or begun anew
//!    behind the snapshot.
//! 4. Segments and spill files, per partition ([`records`]): damaged blocks go, whole ones behind them stay.
//! 5. A new snapshot of each shard that lost records names what is left.
//!
//! # Invariants
//!
//! - **D3** nothing is cut without being told to, and nothing is cut that can be read or made again.
//! - **D4** a log is only believed again under a term above all that it may have voted in.
//! - What is reported as lost is never less than what is lost.
//!
//! # After a crash
//!
//! Each step leaves a directory that is either as damaged as before or repaired in that place: asking again
//! does the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ropewalk_segment::SegmentError;
use ropewalk_shard::state::Catalog;
use ropewalk_shard::{PartitionId, ShardId, TopicId};
use ropewalk_wal::{Record, RecoveredLog, Wal, WalError};

use crate::directory::{DataDir, DataDirContents, DirectoryError, Identity};
use crate::recovery::{self, OpenError, check_log, load_kept};
use crate::snapshot::{Snapshot, Snapshots};

mod logs;
mod records;
mod rebirth;

/// Why a directory cannot be looked through or repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is nothing to repair.
    #[error("{0} holds no broker's data")]
    Empty(std::path::PathBuf),
    /// It cannot be opened at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory itself.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The write-ahead log cannot be written.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A partition's files cannot be written.
    #[error(transparent)]
    Segments(#[from] SegmentError),
}

/// One damage and what giving it up costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What is wrong, for a person.
    pub what: String,
    /// What is lost for ever by giving it up; nothing if it can be made again.
    pub losses: Vec<Loss>,
    /// Whether this can give it up at all.
    pub can_be_repaired: bool,
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The directory as a whole.
    Directory,
    /// The log or the snapshots of a shard.
    Shard(ShardId),
    /// The records of a partition.
    Partition(PartitionId),
}

/// What is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// These offsets of a partition.
    Offsets(Topic, Range<i64>),
    /// What was written to a partition from this offset on, if anything was.
    From(Topic, i64),
    /// What turns out to be damaged of the shard's records: they are looked through when the loss of its log
    /// is accepted, because that cuts what lies behind its snapshot.
    Unread,
    /// What consumer groups and producers of the shard did since.
    Groups,
    /// Which queues and settings were made, changed or deleted since. Records of queues that are not known any
    /// more are kept until they are given up by themselves.
    Catalog,
}

/// A partition as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The queue's name; its id if the name is not known.
    pub name: String,
    /// Its identity.
    pub partition: PartitionId,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {} partition {}", self.name, self.partition.index)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("the directory"),
            Self::Shard(shard) => write!(f, "{shard}"),
            Self::Partition(partition) => write!(f, "partition {partition}"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offsets(topic, offsets) => {
                write!(f, "{topic}: offsets {} to {}", offsets.start, offsets.end - 1)
            }
            Self::From(topic, offset) => {
                write!(f, "{topic}: whatever was written from offset {offset} on")
            }
            Self::Unread => f.write_str(
                "records of these that are damaged as well: they are looked at when the loss is accepted",
            ),
            Self::Groups => f.write_str("what consumer groups committed since then"),
            Self::Catalog => {
                f.write_str(
                    "queues and settings that were made since then; records of such queues are kept until \
                     repair --drop-orphans",
                )
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        match (self.can_be_repaired, self.losses.is_empty()) {
            (false, _) => write!(f, "\n    this cannot be repaired"),
            (true, true) => write!(f, "\n    nothing is lost"),
            (true, false) => {
                self.losses.iter().try_for_each(|loss| write!(f, "\n    lost: {loss}"))
            }
        }
    }
}

/// Looks through a directory, whose lock the caller holds. With `accept` what is damaged is given up;
/// without, nothing is changed but what every start of a broker changes.
///
/// # Errors
/// See [`RepairError`].
pub fn repair(
    data: &DataDir,
    options: &recovery::Options,
    accept: bool,
) -> Result<Vec<Finding>, RepairError> {
    let mut findings = Vec::new();
    let identity = identity(data, accept, &mut findings)?;
    let (mut wal, recovered) =
        Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal).map_err(OpenError::from)?;
    let mut mending = RepairPass {
        data,
        accept,
        recovered: &recovered,
        findings,
        names: Names::new(),
        catalog: None,
        records: Vec::new(),
        shards: Vec::new(),
    };
    for number in 0..=identity.shards {
        mending.begin(ShardId(number), &wal)?;
    }
    if accept && !mending.records.is_empty() {
        wal.write_round_from_reserve(&mending.records)?;
    }
    drop(wal);
    let RepairPass { names, shards, mut findings, .. } = mending;
    for found in shards {
        records::mend(data, &found, (&names, accept), &mut findings)?;
    }
    Ok(findings)
}

/// A shard that has a snapshot to begin from.
struct Shard {
    /// The snapshot's number.
    number: u64,
    newest: Snapshot,
}

/// A directory that is being looked through.
struct RepairPass<'a> {
    data: &'a DataDir,
    accept: bool,
    recovered: &'a RecoveredLog,
    findings: Vec<Finding>,
    /// From the catalog, which is looked at first.
    names: Names,
    catalog: Option<Box<Catalog>>,
    /// For the write-ahead log, if the loss is accepted.
    records: Vec<Record>,
    /// Those whose records are to be looked through.
    shards: Vec<Shard>,
}

impl RepairPass<'_> {
    /// Looks at a shard's snapshots and log.
    fn begin(&mut self, shard: ShardId, wal: &Wal) -> Result<(), RepairError> {
        let mut kept = load_kept(&Snapshots::new(self.data, shard))?;
        let Some((number, newest)) = kept.pop() else { return self.begin_anew(shard) };
        let state = logs::replayed(&newest, self.recovered, wal);
        if let Some(catalog) = &state.catalog {
            let names = catalog.topics.iter().map(|(id, topic)| (*id, topic.name.clone()));
            self.names = names.collect();
            self.catalog = Some(catalog.clone());
        }
        if let Err(what) = check_log(&newest, self.recovered) {
            let mut losses = logs::losses(&state, &self.names);
            if !self.accept {
                losses.push(Loss::Unread);
            }
            let place = Place::Shard(shard);
            self.findings.push(Finding { place, what, losses, can_be_repaired: true });
            self.records.extend(logs::mend(&newest, self.recovered));
            if !self.accept {
                return Ok(());
            }
        }
        self.shards.push(Shard { number, newest });
        Ok(())
    }

    /// No snapshot is left.
    fn begin_anew(&mut self, shard: ShardId) -> Result<(), RepairError> {
        let reborn = match &self.catalog {
            Some(catalog) => rebirth::reborn(self.data, shard, catalog, self.recovered)?,
            None => None,
        };
        let (Some(snapshot), Some(catalog)) = (reborn, &self.catalog) else {
            self.findings.push(Finding {
                place: Place::Shard(shard),
                what: "it has no snapshot that can be believed".to_owned(),
                losses: Vec::new(),
                can_be_repaired: false,
            });
            return Ok(());
        };
        self.findings.push(rebirth::finding(&snapshot, catalog, &self.names));
        if self.accept {
            let snapshots = Snapshots::new(self.data, shard);
            let number = snapshots.numbers()?.last().map_or(1, |last| last + 1);
            snapshots.write(number, &snapshot)?;
            self.records.extend(logs::mend(&snapshot, self.recovered));
            self.shards.push(Shard { number, newest: snapshot });
        }
        Ok(())
    }
}

type Names = BTreeMap<TopicId, String>;

fn topic(names: &Names, partition: PartitionId) -> Topic {
    let name = names.get(&partition.topic).cloned();
    Topic { name: name.unwrap_or_else(|| partition.topic.to_string()), partition }
}

/// Whose directory it is; read from the catalog where `meta` is damaged.
fn identity(
    data: &DataDir,
    accept: bool,
    findings: &mut Vec<Finding>,
) -> Result<Identity, RepairError> {
    let damage = match data.look() {
        Ok(DataDirContents::Formatted(identity)) => return Ok(identity),
        Ok(DataDirContents::Empty | DataDirContents::HalfFormatted) => {
            return Err(RepairError::Empty(data.root().to_owned()));
        }
        Err(error @ DirectoryError::Damaged { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let kept = load_kept(&Snapshots::new(data, ShardId::CATALOG))?;
    let known = kept.last().and_then(|(_, newest)| identity_of(newest));
    let Some(identity) = known else { return Err(damage.into()) };
    findings.push(Finding {
        place: Place::Directory,
        what: damage.to_string(),
        losses: Vec::new(),
        can_be_repaired: true,
    });
    if accept {
        data.mend_meta(&identity)?;
    }
    Ok(identity)
}

fn identity_of(catalog: &Snapshot) -> Option<Identity> {
    let broker_id = *catalog.replicas.get(&catalog.replica)?;
    let known = catalog.state.catalog.as_ref()?;
    let shards = u32::try_from(known.shards.len().checked_sub(1)?).ok()?;
    Some(Identity { cluster_id: known.cluster_id.clone(), broker_id, shards })
}
