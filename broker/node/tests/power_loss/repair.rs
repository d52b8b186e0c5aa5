//! A repair loses only what it reports, and everything else is served again (D3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::{Header, PREFIX_LEN};
use ropewalk_disk::{Dice, SimDisk};
use ropewalk_shard::{PartitionId, ShardId};
use ropewalk_store::repair::{Consent, Finding, Loss, Place, repair};
use ropewalk_store::{DataDir, PartitionLog};

use super::broker::{self, Broker, OPTIONS, ROOT};
use super::damage::{copy, files, lived, settled};
use super::oracle::{Model, PartitionModel};

fn mend(disk: &SimDisk, accept: bool) -> Vec<Finding> {
    let data = DataDir::new(Arc::new(disk.clone()), PathBuf::from(ROOT));
    let _lock = data.lock().expect("it is not in use");
    let consent = if accept { Consent::Loss } else { Consent::Nothing };
    repair(&data, &OPTIONS, consent).expect("it can be checked")
}

/// Whether the record at `offset` was reported as lost.
fn is_given_up(findings: &[Finding], partition: PartitionId, offset: i64) -> bool {
    let losses = findings.iter().flat_map(|finding| &finding.losses);
    losses.into_iter().any(|loss| match loss {
        Loss::Offsets(topic, offsets) => topic.partition == partition && offsets.contains(&offset),
        Loss::From(topic, from) => topic.partition == partition && offset >= *from,
        Loss::Unread | Loss::Groups | Loss::Catalog => false,
    })
}

/// Checks that every batch that was not reported as lost, and not left to the bucket, is in the log
/// as it was sent.
fn compare(log: &PartitionLog, kept: &PartitionModel, findings: &[Finding], context: &str) {
    let partition = log.partition();
    let mut found = BTreeMap::new();
    let mut at = log.local_start();
    while at < log.high_watermark() {
        let chunk = log.read(at, usize::MAX, true).expect("nothing is damaged any more");
        if chunk.next_offset <= at {
            break;
        }
        at = chunk.next_offset;
        let mut rest = Bytes::from(chunk.bytes.concat());
        while !rest.is_empty() {
            let header = Header::parse(&rest).expect("a batch");
            let batch = rest.split_to(header.size_bytes());
            found.insert(header.base_offset, batch.slice(PREFIX_LEN..));
        }
    }
    for (offset, sent) in kept.batches.iter().filter(|(_, sent)| sent.records > 0) {
        let end = offset + i64::from(sent.records);
        match found.remove(offset) {
            Some(batch) => {
                assert_eq!(batch, sent.bytes.slice(PREFIX_LEN..), "{partition} {offset}")
            }
            None => assert!(
                end <= kept.local_start() || is_given_up(findings, partition, end - 1),
                "D3: {context}: {partition} lost {offset} and the repair did not report it: {findings:?}"
            ),
        }
    }
    assert!(found.is_empty(), "{partition} has what was never sent");
}

/// Opens the directory like a broker: every shard starts and has all data that was not reported as
/// lost.
fn check(disk: &SimDisk, models: &BTreeMap<ShardId, Model>, findings: &[Finding], context: &str) {
    let opened = broker::open(disk).expect("it opens");
    assert_eq!(opened.damaged, [], "{findings:?}");
    assert_eq!(opened.damaged_partitions, [], "{findings:?}");
    let broker = Broker::start(opened, 0).unwrap_or_else(|_| panic!("the disk failed"));
    for (shard, model) in models {
        let lost_log = findings.iter().any(|finding| finding.place == Place::Shard(*shard));
        broker.look(*shard, |state, logs| {
            for (partition, kept) in &model.partitions {
                let Some(log) = logs.get(partition) else {
                    assert!(lost_log, "{partition} is gone: {findings:?}");
                    continue;
                };
                compare(log, kept, findings, context);
            }
            for ((group, partition), offset) in model.commits.iter().filter(|_| !lost_log) {
                let committed = state.groups[group].offsets[partition].offset;
                assert_eq!(committed, *offset, "O3");
            }
        });
    }
}

#[test]
fn d3_a_repair_gives_up_what_it_says_and_no_more() {
    let mut dice = Dice::new(11);
    let mut kinds: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for seed in 0..3 {
        let machine = lived(seed);
        let whole = settled(&machine);
        for path in files(&whole, Path::new(ROOT)) {
            let content = whole.content(&path).expect("it is there");
            let is_one_of_many = path.starts_with(Path::new(ROOT).join("partitions"));
            if content.is_empty() || path.ends_with("lock") || is_one_of_many && dice.one_in(2) {
                continue;
            }
            for _ in 0..2 {
                let disk = copy(&whole);
                let at = dice.below(content.len() as u64);
                disk.corrupt(&path, at, 1 << dice.below(8));
                let context = format!("seed {seed}: {} at {at}", path.display());
                let listed = mend(&disk, false);
                let given_up = mend(&disk, true);
                assert_eq!(listed.is_empty(), given_up.is_empty(), "{listed:?} {given_up:?}");
                assert!(given_up.iter().all(|finding| finding.can_be_repaired), "{given_up:?}");
                // The repair is durable, and a second one finds nothing.
                disk.power_cycle(seed);
                assert_eq!(mend(&disk, false), [], "{context}: {given_up:?}");
                check(&disk, machine.models(), &given_up, &context);
                let seen = kinds.entry(kind(&path)).or_default();
                seen[0] += 1;
                seen[1] += usize::from(!given_up.is_empty());
                seen[2] += usize::from(given_up.iter().any(|finding| !finding.losses.is_empty()));
            }
        }
    }
    for kind in ["meta", "wal", "log", "index", "spill"] {
        assert!(kinds.get(kind).is_some_and(|seen| seen[1] > 0), "{kind}: {kinds:?}");
    }
    for kind in ["meta", "index", "snapshot"] {
        assert_eq!(kinds[kind][2], 0, "{kind} can be made again: {kinds:?}");
    }
}

fn kind(path: &Path) -> String {
    let extension = path.extension().or(path.file_name()).expect("a name");
    extension.to_string_lossy().into_owned()
}

#[test]
fn d3_without_a_word_nothing_is_cut() {
    let mut dice = Dice::new(5);
    for seed in 0..4 {
        let machine = lived(seed);
        let wal = files(&machine.disk, &Path::new(ROOT).join("wal"));
        for path in wal {
            let length = machine.disk.content(&path).expect("it is there").len() as u64;
            let disk = copy(&machine.disk);
            disk.corrupt(&path, dice.below(length), 1 << dice.below(8));
            let opened = broker::open(&disk).expect("it opens");
            let damaged: Vec<_> = opened.damaged.iter().map(|damaged| damaged.shard).collect();
            drop(opened);
            let listed = mend(&disk, false);
            let named: Vec<_> = damaged.iter().map(|shard| Place::Shard(*shard)).collect();
            assert_eq!(listed.iter().map(|f| f.place).collect::<Vec<_>>(), named);
            // A check without `accept` changed nothing: the same shards are damaged.
            let opened = broker::open(&disk).expect("it opens");
            assert!(opened.damaged.iter().map(|d| d.shard).eq(damaged));
        }
    }
}
