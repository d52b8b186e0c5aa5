//! Changes of entries on their way to one replica, which its log and its checksums cannot notice.

use ropewalk_shard::Payload;
use ropewalk_shard::command::FORMAT_WITHOUT_LEVEL;
use ropewalk_shard::engine::Entry;
use ropewalk_shard::message::{Body, Message};

use crate::world::World;

/// Bytes of an entry before its table of batches, of a row of the table, and of a batch before its
/// checksum: see "the format" in `ropewalk_shard::command`.
const HEAD_LEN: usize = 18;
const ROW_LEN: usize = 24;
const BATCH_CRC_AT: usize = 17;

/// A format that no version of the broker has.
const UNKNOWN_FORMAT: u8 = 255;

/// How entries are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alteration {
    /// The first batch gets another checksum, once.
    Batch,
    /// Commands that need a feature level look to the replica as they look to an older version.
    NewerFormat,
}

impl World {
    /// Changes the entries of a message that is delivered, if its receiver is the one.
    pub(crate) fn alter(&mut self, message: &mut Message) {
        let Some((node, alteration)) = self.altered else { return };
        let Body::Append { entries, .. } = &mut message.body else { return };
        if message.to != node {
            return;
        }
        match alteration {
            Alteration::NewerFormat => entries.iter_mut().for_each(make_unknown),
            Alteration::Batch => {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.has_batches()) {
                    flip_checksum(entry);
                    self.altered = None;
                }
            }
        }
    }
}

fn make_unknown(entry: &mut Entry) {
    let mut data = entry.data.to_bytes().to_vec();
    if data.first().is_some_and(|format| *format > FORMAT_WITHOUT_LEVEL) {
        data[0] = UNKNOWN_FORMAT;
        entry.data = Payload::from(bytes::Bytes::from(data));
    }
}

fn flip_checksum(entry: &mut Entry) {
    let mut data = entry.data.to_bytes().to_vec();
    let count = data[HEAD_LEN..HEAD_LEN + 4].try_into().expect("4 bytes");
    let count = usize::try_from(u32::from_le_bytes(count)).expect("few");
    data[HEAD_LEN + 4 + count * ROW_LEN + BATCH_CRC_AT] ^= 1;
    entry.data = Payload::from(bytes::Bytes::from(data));
}
