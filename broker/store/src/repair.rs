//! Checks a whole data directory for damage, and repairs it when the user accepts the loss.
//!
//! A cluster of one broker has one copy of its data, so damaged bytes cannot be restored. A broker
//! that finds damage reports it and serves the rest. A repair reads all data and reports what would
//! be lost; with `accept` it changes the directory so that a broker serves all that is left.
//!
//! # Order
//!
//! 1. `meta`: its content is restored from the catalog's snapshot.
//! 2. Snapshots, per shard: a shard without an intact one is rebuilt from the records in its files
//!    (`rebuild`). This needs the catalog, which itself cannot be rebuilt.
//! 3. The write-ahead log, per shard (`logs`): it is cut before the first lost entry, or starts
//!    again after the snapshot. Then the marks of quarantined replicas are removed.
//! 4. Segments and spill files, per partition (`records`): damaged blocks are removed, intact
//!    blocks after them are kept.
//! 5. A new snapshot of each shard that lost records names what is left.
//!
//! # Invariants
//!
//! - **D3** nothing is cut without `accept`, and nothing is cut that can be read or restored.
//! - **D4** a repaired replica starts in a term above all in which it may have voted.
//! - **D4** where other replicas vote, a loss is accepted only if they are lost for good, and this
//!   replica then continues alone in a new history (`peers`).
//! - The reported loss is never less than the loss.
//!
//! # After a crash
//!
//! Each step leaves its part of the directory damaged as before or repaired: another repair does
//! the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use ropewalk_segment::SegmentError;
use ropewalk_shard::state::{Catalog, State};
use ropewalk_shard::{BrokerId, HistoryId, PartitionId, ReplicaId, ShardId, TopicId};
use ropewalk_wal::{Record, RecoveredLog, Wal, WalError};

use crate::directory::{DataDir, DataDirContents, DirectoryError, Identity};
use crate::quarantine;
use crate::recovery::{self, OpenError, check_log, key_of, load_kept};
use crate::snapshot::{Snapshot, Snapshots};
use held::OpenLog;
use peers::Peers;

mod held;
mod logs;
mod peers;
mod records;
mod rebuild;

/// Why a directory cannot be checked or repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The directory is not formatted.
    #[error("{0} holds no broker's data")]
    Empty(std::path::PathBuf),
    /// The directory cannot be opened at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory or its `meta` file cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The write-ahead log cannot be written.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A partition's files cannot be written.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// Other replicas of a shard vote. Nothing was changed.
    #[error(
        "{shard} has other voters, which may have what is damaged here: {voters}. Nothing was changed. Start this \
         broker with an empty data directory, so that they restore it. Only if all of them are lost for good: repair \
         --accept-loss --i-am-the-only-survivor continues with this directory alone, and they can never join again"
    )]
    OtherVoters {
        /// The first such shard.
        shard: ShardId,
        /// Its other voters.
        voters: String,
    },
}

/// What a person agrees to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nothing: damage is only listed.
    Nothing,
    /// What is damaged in this directory, unless other replicas vote.
    Loss,
    /// The same, and whatever other replicas have: they are lost for good.
    OnlySurvivor,
}

/// One damage, and the loss that its repair costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The damaged part of the directory.
    pub place: Place,
    /// Description of the damage.
    pub what: String,
    /// What a repair loses for ever; empty if all can be restored.
    pub losses: Vec<Loss>,
    /// Whether a repair is possible.
    pub can_be_repaired: bool,
}

/// A part of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The directory's `meta` file.
    Directory,
    /// The log or the snapshots of a shard.
    Shard(ShardId),
    /// The records of a partition.
    Partition(PartitionId),
}

/// Data that a repair loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// These offsets of a partition.
    Offsets(NamedPartition, Range<i64>),
    /// Records that were written to a partition from this offset on, if any.
    From(NamedPartition, i64),
    /// Damaged records of the shard. They are checked only when the loss of its log is accepted,
    /// because that cuts the log after its snapshot.
    Unread,
    /// Commits of the shard's consumer groups and sequences of its producers since the snapshot.
    Groups,
    /// Changes of queues and settings since the snapshot. Records of queues that the catalog no
    /// longer has are kept until the user accepts their loss separately.
    Catalog,
}

/// A partition with the name of its queue, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPartition {
    /// The queue's name; its id if the name is not known.
    pub name: String,
    /// Id of the partition.
    pub partition: PartitionId,
}

impl fmt::Display for NamedPartition {
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
                "damaged records of these partitions: they are checked when the loss is accepted",
            ),
            Self::Groups => f.write_str("what consumer groups committed since then"),
            Self::Catalog => f.write_str(
                "queues and settings that were changed since then; records of such queues are kept \
                     until repair --drop-orphans",
            ),
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

/// Checks a directory, whose lock the caller holds. With a consent damaged data is removed; without
/// one, only those changes are made that every start of a broker makes.
///
/// # Errors
/// See [`RepairError`].
pub fn repair(
    data: &DataDir,
    options: &recovery::Options,
    consent: Consent,
) -> Result<Vec<Finding>, RepairError> {
    let accept = consent != Consent::Nothing;
    let mut findings = Vec::new();
    let identity = identity(data, &mut findings)?;
    let OpenLog { mut wal, recovered, held } = held::open(data, &identity, options)?;
    if consent == Consent::Loss {
        expect_no_other_voters(data, (&identity, &held), &recovered, &wal)?;
    }
    if accept && !findings.is_empty() {
        data.rewrite_meta(&identity)?;
    }
    let mut pass = RepairPass {
        data,
        consent,
        broker: identity.broker_id,
        recovered: &recovered,
        findings,
        names: TopicNames::new(),
        catalog: None,
        records: Vec::new(),
        shards: Vec::new(),
    };
    for shard in &held {
        pass.begin(*shard, &wal)?;
    }
    if accept && !pass.records.is_empty() {
        wal.write_round_from_reserve(&pass.records)?;
    }
    drop(wal);
    for shard in held.into_iter().filter(|_| accept) {
        quarantine::lift(data, shard)?;
    }
    let RepairPass { names, shards, mut findings, .. } = pass;
    for found in shards {
        records::repair(data, &found, &names, accept, &mut findings)?;
    }
    Ok(findings)
}

/// Checks that [`repair`] may accept a loss ([`Consent::Loss`]) in this directory.
///
/// # Errors
/// [`RepairError::OtherVoters`] when it may not; the others as [`repair`].
pub fn check_voters(data: &DataDir, options: &recovery::Options) -> Result<(), RepairError> {
    let identity = identity(data, &mut Vec::new())?;
    let OpenLog { wal, recovered, held } = held::open(data, &identity, options)?;
    expect_no_other_voters(data, (&identity, &held), &recovered, &wal)
}

/// Checks that this directory has the only voter of each of its shards.
fn expect_no_other_voters(
    data: &DataDir,
    (identity, held): (&Identity, &[ShardId]),
    recovered: &RecoveredLog,
    wal: &Wal,
) -> Result<(), RepairError> {
    let mut listed = BTreeMap::new();
    for shard in held.iter().copied() {
        let newest = load_kept(&Snapshots::new(data, shard))?.pop().map(|(_, newest)| newest);
        let mut peers = match &newest {
            Some(newest) => Peers::of(newest, recovered, wal),
            None => Peers::of_log(shard, recovered),
        };
        let mut brokers = newest.as_ref().map(|n| n.replicas.clone()).unwrap_or_default();
        match newest.and_then(|newest| newest.state.catalog) {
            Some(catalog) => listed = catalog.shards,
            // Of a shard without a snapshot, the catalog alone may know the other replicas.
            None if brokers.is_empty() => {
                brokers = listed.get(&shard).map(|info| info.brokers()).unwrap_or_default();
                let others = brokers.iter().filter(|(_, broker)| **broker != identity.broker_id);
                peers.voters.extend(others.map(|(ReplicaId(id), _)| *id));
            }
            None => {}
        }
        if !peers.voters.is_empty() {
            return Err(RepairError::OtherVoters { shard, voters: peers.named(&brokers) });
        }
    }
    Ok(())
}

/// A history that no shard has had.
fn new_history() -> HistoryId {
    HistoryId(uuid::Uuid::new_v4().as_u64_pair().0)
}

/// A shard and the snapshot from which it will start.
struct Shard {
    /// The snapshot's number.
    number: u64,
    newest: Snapshot,
}

/// The progress of one call of [`repair`].
struct RepairPass<'a> {
    data: &'a DataDir,
    consent: Consent,
    /// The broker that the directory belongs to.
    broker: BrokerId,
    recovered: &'a RecoveredLog,
    findings: Vec<Finding>,
    /// Topic names from the catalog, which is checked first.
    names: TopicNames,
    catalog: Option<Box<Catalog>>,
    /// Records to write to the write-ahead log, if the loss is accepted.
    records: Vec<Record>,
    /// Shards whose partitions are to be checked.
    shards: Vec<Shard>,
}

impl RepairPass<'_> {
    /// Checks a shard's snapshots and log.
    fn begin(&mut self, shard: ShardId, wal: &Wal) -> Result<(), RepairError> {
        let mut kept = load_kept(&Snapshots::new(self.data, shard))?;
        let Some((number, newest)) = kept.pop() else { return self.rebuild_shard(shard) };
        let state = logs::replayed(&newest, self.recovered, wal);
        if let Some(catalog) = &state.catalog {
            let names = catalog.topics.iter().map(|(id, topic)| (*id, topic.name.clone()));
            self.names = names.collect();
            self.catalog = Some(catalog.clone());
        }
        let peers = Peers::of(&newest, self.recovered, wal);
        let damage = check_log(&newest, self.recovered).err();
        let mark = quarantine::reason(self.data, shard, newest.replica)?;
        let is_abandoned = self.consent == Consent::OnlySurvivor && !peers.voters.is_empty();
        let what = match (damage.clone().or(mark), peers.voters.is_empty()) {
            (Some(what), true) => Some(what),
            (Some(what), false) => {
                Some(format!("{what}; other voters: {}", peers.named(&newest.replicas)))
            }
            (None, _) => is_abandoned.then(|| {
                let others = peers.named(&newest.replicas);
                format!("it continues without its other voters: {others}")
            }),
        };
        if let Some(what) = what {
            let mut losses = self.unopened(shard, &state);
            losses.extend(logs::losses(&state, &self.names));
            if self.consent == Consent::Nothing {
                losses.push(Loss::Unread);
            }
            let place = Place::Shard(shard);
            self.findings.push(Finding { place, what, losses, can_be_repaired: true });
        }
        if damage.is_some() {
            self.records.extend(logs::repair_records(&newest, self.recovered));
        }
        // A learner may have entries that are cut here.
        if is_abandoned || damage.is_some() && peers.are_left {
            let end = logs::repaired_end(&newest, self.recovered);
            self.records.extend(peers::survive(key_of(&newest), end, new_history()));
        }
        if damage.is_none() || self.consent != Consent::Nothing {
            self.shards.push(Shard { number, newest });
        }
        Ok(())
    }

    /// The partitions that the catalog places in a shard and that the shard does not have: the
    /// entry that opened one may be lost, together with all its records.
    fn unopened(&self, shard: ShardId, state: &State) -> Vec<Loss> {
        let placed = self.catalog.iter().flat_map(|known| rebuild::partitions_of(known, shard));
        let unopened = placed.filter(|(id, _)| !state.partitions.contains_key(id));
        unopened.map(|(id, _)| Loss::From(named_partition(&self.names, id), 0)).collect()
    }

    /// Rebuilds a shard that has no intact snapshot.
    fn rebuild_shard(&mut self, shard: ShardId) -> Result<(), RepairError> {
        let rebuilt = match &self.catalog {
            Some(catalog) => {
                rebuild::rebuilt_snapshot(self.data, shard, catalog, self.broker, self.recovered)?
            }
            None => None,
        };
        let (Some(mut snapshot), Some(catalog)) = (rebuilt, &self.catalog) else {
            self.findings.push(Finding {
                place: Place::Shard(shard),
                what: "it has no intact snapshot".to_owned(),
                losses: Vec::new(),
                can_be_repaired: false,
            });
            return Ok(());
        };
        self.findings.push(rebuild::finding(&snapshot, catalog, &self.names));
        if self.consent != Consent::Nothing {
            if snapshot.replicas.len() > 1 {
                snapshot.members.history = new_history();
            }
            let snapshots = Snapshots::new(self.data, shard);
            let number = snapshots.numbers()?.last().map_or(1, |last| last + 1);
            snapshots.write(number, &snapshot)?;
            self.records.extend(logs::repair_records(&snapshot, self.recovered));
            self.shards.push(Shard { number, newest: snapshot });
        }
        Ok(())
    }
}

type TopicNames = BTreeMap<TopicId, String>;

fn named_partition(names: &TopicNames, partition: PartitionId) -> NamedPartition {
    let name = names.get(&partition.topic).cloned();
    NamedPartition { name: name.unwrap_or_else(|| partition.topic.to_string()), partition }
}

/// The identity of the directory; from the catalog's snapshot if `meta` is damaged.
fn identity(data: &DataDir, findings: &mut Vec<Finding>) -> Result<Identity, RepairError> {
    let damage = match data.contents() {
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
    Ok(identity)
}

fn identity_of(catalog: &Snapshot) -> Option<Identity> {
    let broker_id = *catalog.replicas.get(&catalog.replica)?;
    let known = catalog.state.catalog.as_ref()?;
    let shards = u32::try_from(known.shards.len().checked_sub(1)?).ok()?;
    Some(Identity::first(known.cluster_id.clone(), broker_id, shards))
}

#[cfg(test)]
mod tests;
