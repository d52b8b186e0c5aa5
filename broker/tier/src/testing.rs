//! Objects, pages and checkpoints with changed bytes whose checksums are corrected, for fuzz
//! targets.

use ropewalk_batch::{Builder, StampedBatch};
use uuid::Uuid;

use crate::checkpoint::Checkpoint;
use crate::identity::Origin;
use crate::names::{ClusterId, PartitionKey};
use crate::object::{self, Encoder, Push, Tail};
use crate::page::Page;

/// Decodes a small object after changes to its footer, and verifies it as a whole. `cut` bytes of
/// the footer are removed, and each change is a position of three bytes and the new value.
///
/// # Panics
/// When damage is accepted that the SHA-256 of the name should have detected.
pub fn survive_object(cut: u8, changes: &[[u8; 4]]) {
    let object = sample();
    let original = object.content.to_bytes();
    let size_bytes = original.len() as u64;
    let Ok(Tail::Footer(footer)) = object::read_tail(&original, &object.name, size_bytes) else {
        panic!("the sample has no footer");
    };
    let all = 0..footer.blocks.len();
    let footer_at = footer.positions(all).end as usize;
    let mut damaged = original[footer_at..original.len() - object::TRAILER_BYTES].to_vec();
    damaged.truncate(damaged.len() - usize::from(cut).min(damaged.len()));
    for [low, middle, high, value] in changes {
        let at = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
        if !damaged.is_empty() {
            let at = at % damaged.len();
            damaged[at] = *value;
        }
    }
    let header = object::header_bytes(&object.name.partition) as usize;
    if damaged.len() >= header {
        object::reseal_header(&mut damaged[..header]);
    }
    let whole = [&original[..footer_at], &object::seal(damaged)].concat();
    if let Ok(Tail::Footer(footer)) = object::read_tail(&whole, &object.name, whole.len() as u64) {
        let run = footer.run(0, u64::MAX);
        let positions = footer.positions(run.clone());
        let body = &whole[positions.start as usize..positions.end as usize];
        let _ = footer.verify_blocks(run, body);
        let _ = footer.block_at_offset(2).map(|at| footer.positions(at..at + 1));
        let _ = footer.block_at_timestamp(0, 5);
    }
    let is_accepted = object::verify(&whole.clone().into(), &object.name).is_ok();
    assert_eq!(is_accepted, whole == original, "the SHA-256 of the name");
}

/// Decodes a page that has these bytes behind its magic and version, with a valid checksum.
///
/// # Panics
/// When a page is not the same after encoding.
pub fn survive_page(bytes: &[u8]) {
    let page = crate::page::seal(bytes);
    if let Some(decoded) = Page::of_any_name(&page) {
        assert_eq!(decoded.encode().content.to_bytes(), page);
    }
}

/// Decodes a checkpoint that has these bytes behind its magic and version, with a valid checksum.
///
/// # Panics
/// When a checkpoint is not the same after encoding.
pub fn survive_checkpoint(bytes: &[u8]) {
    let sealed = crate::checkpoint::seal(bytes);
    if let Ok(decoded) = Checkpoint::read(&sealed) {
        let encoded = decoded.encode().expect("what was read is not larger when it is written");
        assert_eq!(encoded.content.to_bytes(), sealed);
    }
}

/// An object of some batches in two epochs, with producers.
fn sample() -> object::EncodedObject {
    let cluster = ClusterId::new("fuzz").expect("a valid id");
    let partition = PartitionKey { cluster, topic: Uuid::from_u128(1), index: 0 };
    let mut encoder = Encoder::new(partition, Origin { history: 1, term: 2 }, 0);
    for number in 0..4 {
        let value = vec![1; 20_000];
        let builder = Builder::new().producer(i64::from(number % 2), 0, number);
        let bytes = builder.record(i64::from(number), None, Some(&value)).build();
        let batch = StampedBatch::new(bytes, i64::from(number), number / 2).expect("a valid batch");
        let pushed = encoder.push(&batch).expect("batches in order");
        assert_eq!(pushed, Push::Added, "the sample is small");
    }
    encoder.finish(4).expect("the range of the batches")
}
