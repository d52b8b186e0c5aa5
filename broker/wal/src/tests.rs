//! The format, piece by piece: everything that is written can be read, and anything else is
//! refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_disk::{Aligned, Disk, File, Open, SimDisk};

use crate::frame::{self, FRAME_HEADER_BYTES, FrameHeader, RoundId};
use crate::header::{self, FileHeader, FileStart, HEADER_AT};
use crate::label::{Label, Purpose};
use crate::layout::Seed;
use crate::plan::{Plan, Refusal};
use crate::record::{HardState, LogId, RECORD_HEADER_BYTES, Record, RecordHeader, ReplicaKey};
use crate::replicas::{Change, Replicas, Row};

fn key() -> impl Strategy<Value = ReplicaKey> + Clone {
    (any::<u32>(), any::<u64>()).prop_map(|(shard, replica)| ReplicaKey { shard, replica })
}

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> + Clone {
    proptest::collection::vec(any::<u8>(), 0..len_max).prop_map(Bytes::from)
}

fn hard_state() -> impl Strategy<Value = HardState> {
    any::<(u64, u64, u64)>().prop_map(|(term, vote, commit)| HardState { term, vote, commit })
}

fn record() -> impl Strategy<Value = Record> {
    let place = (key(), any::<u64>(), any::<u64>());
    prop_oneof![
        (place.clone(), any::<u8>(), bytes(300)).prop_map(|((key, index, term), kind, data)| {
            Record::Entry { key, index, term, kind, data: data.into() }
        }),
        (key(), hard_state()).prop_map(|(key, state)| Record::HardState { key, state }),
        (key(), bytes(50)).prop_map(|(key, data)| Record::ConfState { key, data }),
        (place.clone(), bytes(50)).prop_map(|((key, index, term), conf_state)| {
            Record::Created { key, index, term, conf_state }
        }),
        (place.clone(), bytes(50)).prop_map(|((key, index, term), conf_state)| {
            Record::SnapshotInstalled { key, index, term, conf_state }
        }),
        place.prop_map(|(key, index, term)| Record::Truncated { key, index, term }),
        key().prop_map(|key| Record::ReplicaDestroyed { key }),
        (key(), any::<u64>()).prop_map(|(key, index)| Record::LossAccepted { key, index }),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let damage = proptest::option::of("[a-z]{1,20}");
    (hard_state(), bytes(60), any::<(u64, u64)>(), any::<u64>(), damage).prop_map(
        |(hard_state, conf_state, truncated, last_index, damage)| Row {
            hard_state,
            conf_state,
            truncated: LogId { index: truncated.0, term: truncated.1 },
            last_index,
            damage,
        },
    )
}

fn replicas() -> impl Strategy<Value = Replicas> {
    proptest::collection::btree_map(key(), row(), 0..60).prop_map(|rows| Replicas { rows })
}

fn file_with(content: &[u8]) -> std::sync::Arc<dyn File> {
    let disk = SimDisk::new(0);
    disk.put("/file".as_ref(), content.to_vec());
    disk.open("/file".as_ref(), Open::Read).unwrap()
}

/// The start of a file that has begun and is marked, with its label and header.
fn begun(table: Replicas, salt: u64) -> (Label, FileHeader, Aligned) {
    let label = Label {
        reservation: 3,
        salt,
        file_bytes: 1 << 20,
        number: 5,
        purpose: Purpose::Spare,
        sequence: 7,
        sealed_round: 8,
    };
    let header = FileHeader::new(&label, 7, 9, table);
    let mut written = Aligned::with_capacity(0);
    header.encode(&mut written);
    let mut out = Aligned::with_capacity(0);
    out.resize(HEADER_AT as usize);
    label_in(&mut out, &label, &[0]);
    label_in(&mut out, &Label { sequence: 0, sealed_round: 0, ..label }, &[1]);
    out.extend_from_slice(&written);
    assert_eq!(out.len() as u64, header::header_bytes(&header.table));
    (label, header, out)
}

fn label_in(out: &mut Aligned, label: &Label, copies: &[usize]) {
    let mut block = Aligned::with_capacity(0);
    label.append_to(&mut block);
    for copy in copies {
        out[copy * 4096..(copy + 1) * 4096].copy_from_slice(&block);
    }
}

proptest! {
    #[test]
    fn d3_a_record_is_read_as_written_and_only_in_its_round(
        record in record(),
        salt: u64,
        round: u64,
    ) {
        let seed = Seed::of_round(salt, round);
        let mut out = Aligned::with_capacity(0);
        record.encode(seed, &mut out);
        prop_assert_eq!(out.len(), record.size_bytes());
        let header = RecordHeader::parse(&out, seed).unwrap();
        prop_assert_eq!(header.size_bytes(), record.size_bytes() as u64);
        let body = &out[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_len as usize];
        prop_assert_eq!(crc32c::crc32c(body), header.body_crc);
        prop_assert_eq!(header.decode(Bytes::copy_from_slice(body)), Some(record));
        let elsewhere = Seed::of_round(salt, round.wrapping_add(1));
        prop_assert_eq!(RecordHeader::parse(&out, elsewhere), None);
    }

    #[test]
    fn d3_no_bit_of_a_record_header_may_differ(record in record(), bit in 0..48_usize * 8) {
        let seed = Seed::of_round(1, 2);
        let mut out = Aligned::with_capacity(0);
        record.encode(seed, &mut out);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(RecordHeader::parse(&out, seed), None);
    }

    #[test]
    fn d6_a_table_is_read_as_written(replicas in replicas()) {
        let encoded = replicas.encode();
        prop_assert_eq!(encoded.len() as u64, replicas.encoded_bytes());
        prop_assert_eq!(Replicas::decode(&encoded), Some(replicas));
    }

    #[test]
    fn a_table_that_is_cut_or_foreign_is_refused(replicas in replicas(), cut: u16, noise in bytes(200)) {
        let encoded = replicas.encode();
        let cut = usize::from(cut) % encoded.len();
        prop_assert_eq!(Replicas::decode(&encoded[..cut]), None);
        // Must not panic, nor allocate a size that it reads.
        Replicas::decode(&noise);
    }

    #[test]
    fn d3_a_file_header_survives_the_loss_of_any_block(table in replicas(), salt: u64, lost: u16) {
        let (label, written, mut out) = begun(table, salt);
        let lost = usize::from(lost) % (out.len() / 4096) * 4096;
        out[lost..lost + 4096].fill(0xa5);
        match header::read(&*file_with(&out), Some(label.number)).unwrap() {
            FileStart::Begun { header, rounds_at, parts_bad, .. } => {
                prop_assert_eq!(rounds_at, out.len() as u64);
                prop_assert!(parts_bad <= 1);
                prop_assert_eq!(header, written);
            }
            found @ (FileStart::Reserved { .. }
            | FileStart::Version(_)
            | FileStart::Unreadable { .. }) => prop_assert!(false, "{:?}", found),
        }
    }

    #[test]
    fn a_file_of_noise_is_no_header(noise in bytes(30_000)) {
        let start = header::read(&*file_with(&noise), Some(1)).unwrap();
        let unreadable = matches!(start, FileStart::Unreadable { sequence: None });
        prop_assert!(unreadable);
    }

    /// The header is written over what a former use of the file left.
    #[test]
    fn d6_a_header_that_was_written_in_part_has_not_begun_and_a_whole_one_has(
        table in replicas(),
        salt: u64,
        torn in proptest::collection::vec(any::<bool>(), 500),
    ) {
        let (mut label, _, former) = begun(table.clone(), salt);
        label = Label { reservation: 4, salt: !salt, sequence: 0, sealed_round: 0, ..label };
        let header = FileHeader::new(&label, 9, 12, table);
        let mut out = Aligned::with_capacity(0);
        out.extend_from_slice(&former);
        label_in(&mut out, &label, &[0, 1]);
        let mut whole = Aligned::with_capacity(0);
        header.encode(&mut whole);
        // Two copies of the preamble, then two of the table.
        let mut complete = [true; 4];
        let half = (whole.len() - 8192) / 2;
        for (at, sector) in whole.chunks(512).enumerate() {
            let at_byte = HEADER_AT as usize + at * 512;
            if torn.get(at).copied().unwrap_or(false) && out[at_byte..at_byte + 512] != *sector {
                let part = match at * 512 {
                    byte if byte < 8192 => byte / 4096,
                    byte => 2 + (byte - 8192) / half,
                };
                complete[part] = false;
            } else {
                out[at_byte..at_byte + 512].copy_from_slice(sector);
            }
        }
        match header::read(&*file_with(&out), Some(label.number)).unwrap() {
            FileStart::Begun { header: found, .. } => prop_assert_eq!(found, header),
            FileStart::Reserved { label: found, .. } => {
                prop_assert_eq!(found, label);
                let whole = (complete[0] || complete[1]) && (complete[2] || complete[3]);
                prop_assert!(!whole, "a whole header counts");
            }
            found @ (FileStart::Version(_) | FileStart::Unreadable { .. }) => {
                prop_assert!(false, "{:?}", found);
            }
        }
    }

    /// A label is replaced one copy at a time, and each may be torn.
    #[test]
    fn d6_a_label_that_was_written_in_part_leaves_a_file_that_is_one_or_the_other(
        table in replicas(),
        salt: u64,
        step in 0..4_usize,
    ) {
        let (label, header, mut out) = begun(table, salt);
        let next = Label { reservation: label.reservation + 1, salt: !salt, sequence: 0, ..label };
        match step {
            0 => out[..4096].fill(0xa5),
            1 => label_in(&mut out, &next, &[0]),
            2 => {
                label_in(&mut out, &next, &[0]);
                out[4096..8192].fill(0xa5);
            }
            _ => label_in(&mut out, &next, &[0, 1]),
        }
        match header::read(&*file_with(&out), Some(label.number)).unwrap() {
            FileStart::Begun { header: found, .. } => {
                prop_assert_eq!(step, 0);
                prop_assert_eq!(found, header);
            }
            FileStart::Reserved { label: found, second_bad } => {
                prop_assert!(step > 0);
                prop_assert_eq!(second_bad, step == 2);
                prop_assert_eq!(found, next);
            }
            found @ (FileStart::Version(_) | FileStart::Unreadable { .. }) => {
                prop_assert!(false, "{:?}", found);
            }
        }
    }

    #[test]
    fn d3_a_frame_belongs_to_its_file(records in proptest::collection::vec(record(), 1..20), salt: u64) {
        let round_id = RoundId { file_sequence: 3, salt, round: 8 };
        let mut directory: BTreeMap<ReplicaKey, u32> = BTreeMap::new();
        records.iter().for_each(|record| *directory.entry(record.key()).or_default() += 1);
        let mut out = Aligned::with_capacity(0);
        frame::encode(round_id, directory.clone().into_iter(), records.iter(), &mut out);
        let header = FrameHeader::parse(&out, 3, salt).unwrap();
        prop_assert_eq!(header.padded_bytes(), out.len() as u64);
        prop_assert_eq!((header.round, header.records as usize), (8, records.len()));
        prop_assert_eq!(FrameHeader::parse(&out, 4, salt), None);
        prop_assert_eq!(FrameHeader::parse(&out, 3, salt ^ 1), None);
        let bytes = &out[FRAME_HEADER_BYTES..];
        let len = frame::directory_bytes(bytes, 8).unwrap() as usize;
        let found = frame::parse_directory(&bytes[..len], Seed::of_round(salt, 8));
        prop_assert_eq!(found, Some(directory.into_iter().collect()));
        prop_assert_eq!(frame::directory_bytes(bytes, 9), None);
    }

    /// Records that the plan allows leave no gap, for any table and any records.
    #[test]
    fn a_plan_lets_no_hole_through(
        wanted in proptest::collection::vec((0..3_u32, 0..12_u64, 0..6_u8), 1..60),
    ) {
        let mut replicas = Replicas::default();
        let mut plan = Plan::default();
        for (shard, index, what) in wanted {
            let key = ReplicaKey { shard, replica: 1 };
            let record = match what {
                0 => Record::Truncated { key, index, term: 1 },
                1 => Record::LossAccepted { key, index },
                _ => Record::Entry { key, index, term: 1, kind: 0, data: Bytes::new().into() },
            };
            let span = replicas.span(key);
            plan.clear();
            let added = plan.add(&replicas, std::slice::from_ref(&record), 1 << 20);
            let is_hole = matches!(record, Record::Entry { .. })
                && (index <= span.start || index > span.last + 1);
            prop_assert_eq!(added.is_err(), is_hole);
            prop_assert_eq!(plan.is_empty(), is_hole);
            if !is_hole {
                replicas.apply(key, Change::from(&record));
                let span = replicas.span(key);
                prop_assert!(span.start <= span.last);
            }
        }
    }
}

#[test]
fn records_that_are_refused_leave_the_round_as_it_was() {
    let replicas = Replicas::default();
    let key = ReplicaKey { shard: 0, replica: 1 };
    let entry = |index| {
        let data = Bytes::from_static(b"data").into();
        Record::Entry { key, index, term: 1, kind: 0, data }
    };
    let mut plan = Plan::default();
    plan.add(&replicas, &[entry(1), entry(2)], 4096).unwrap();
    let before = (plan.frame_bytes(), plan.records());
    let refused = plan.add(&replicas, &[entry(3), entry(5)], 4096).unwrap_err();
    assert!(matches!(refused, Refusal::NotContiguous { index: 5, .. }));
    let refused = plan.add(&replicas, &[entry(3)], 200).unwrap_err();
    assert!(matches!(refused, Refusal::TooLarge { .. }));
    assert_eq!((plan.frame_bytes(), plan.records()), before);
    plan.add(&replicas, &[entry(3)], 4096).unwrap();
    assert_eq!(plan.records(), 3);
}
