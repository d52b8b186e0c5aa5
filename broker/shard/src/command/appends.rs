//! The encoding of record batches in an entry: a table, then the batches end to end.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Append, CommandError};
use crate::id::PartitionId;
use crate::payload::Payload;

const ITEM_LEN: usize = PartitionId::LEN + 4;

/// Bytes that a batch takes in an entry.
pub(crate) fn item_len(item: &Append) -> usize {
    ITEM_LEN + item.batch.len()
}

/// Bytes of the table.
pub(super) fn table_len(items: &[Append]) -> usize {
    4 + items.len() * ITEM_LEN
}

/// Appends the table to the `head` of the entry. Each batch is a chunk of its own.
pub(super) fn encode(mut head: BytesMut, items: &[Append]) -> Payload {
    head.put_u32_le(u32::try_from(items.len()).expect("an entry is bounded"));
    for item in items {
        head.put_slice(&item.partition.to_bytes());
        head.put_u32_le(u32::try_from(item.batch.len()).expect("a batch is bounded"));
    }
    let mut chunks = Vec::with_capacity(1 + items.len());
    chunks.push(head.freeze());
    chunks.extend(items.iter().map(|item| item.batch.clone()));
    chunks.into()
}

/// Decodes what follows the head of an entry: `body` in the chunk of the head, and further chunks.
pub(super) fn decode(mut body: Bytes, chunks: &[Bytes]) -> Result<Vec<Append>, CommandError> {
    const CUT: CommandError = CommandError::Malformed("the table of batches is cut short");
    const PAST: CommandError = CommandError::Malformed("a batch runs past the end");
    let count = body.try_get_u32_le().map_err(|_| CUT)? as usize;
    if count > body.len() / ITEM_LEN {
        return Err(CUT);
    }
    let table = body.split_to(count * ITEM_LEN);
    let mut chunks = chunks.iter().peekable();
    let are_chunks = chunks.peek().is_some();
    let mut items = Vec::with_capacity(count);
    for item in table.chunks_exact(ITEM_LEN) {
        let partition = item[..PartitionId::LEN].try_into().expect("20 bytes");
        let length = item[PartitionId::LEN..].try_into().expect("4 bytes");
        let length = u32::from_le_bytes(length) as usize;
        let batch = if are_chunks {
            // It was proposed by this replica and owns its memory.
            chunks.next().filter(|chunk| chunk.len() == length).ok_or(PAST)?.clone()
        } else {
            let batch = body.get(..length).ok_or(PAST)?;
            let copied = Bytes::copy_from_slice(batch);
            body.advance(length);
            copied
        };
        items.push(Append { partition: PartitionId::from_bytes(partition), batch });
    }
    if !body.is_empty() || chunks.next().is_some() {
        return Err(CommandError::Malformed("bytes after the last batch"));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::command::{self, Command, Envelope};
    use crate::id::TopicId;

    fn any_append() -> impl Strategy<Value = Append> {
        (any::<u128>(), any::<u32>(), vec(any::<u8>(), 0..40)).prop_map(|(topic, index, batch)| {
            let topic = TopicId(uuid::Uuid::from_u128(topic));
            let index = i32::try_from(index >> 1).expect("31 bits");
            Append { partition: PartitionId { topic, index }, batch: batch.into() }
        })
    }

    /// The format as it is written in the documentation, in one piece.
    fn in_one_piece(items: &[Append]) -> Vec<u8> {
        let mut out = vec![1, 0];
        out.extend(7_u64.to_le_bytes());
        out.extend((-9_i64).to_le_bytes());
        out.extend(u32::try_from(items.len()).expect("few").to_le_bytes());
        for Append { partition, batch } in items {
            out.extend(partition.to_bytes());
            out.extend(u32::try_from(batch.len()).expect("small").to_le_bytes());
        }
        items.iter().for_each(|item| out.extend(&item.batch));
        out
    }

    proptest! {
        #[test]
        fn chunks_are_the_bytes_of_one_piece_and_both_decode_alike(items in vec(any_append(), 0..6)) {
            let command = Command::Append(items.clone());
            let chunks = command::encode(7, -9, &command);
            prop_assert_eq!(chunks.chunks().len(), 1 + items.len());
            let joined = Bytes::from(in_one_piece(&items));
            prop_assert_eq!(&chunks.to_bytes(), &joined);
            prop_assert_eq!(chunks.len(), joined.len());
            let envelope = Envelope { term: 7, time_ms: -9, command };
            prop_assert_eq!(Envelope::decode(&chunks), Ok(envelope.clone()));
            prop_assert_eq!(Envelope::decode(&joined.into()), Ok(envelope));
        }

        #[test]
        fn a_cut_entry_is_refused(items in vec(any_append(), 1..6), cut in any::<prop::sample::Index>()) {
            let chunks = command::encode(7, -9, &Command::Append(items));
            let joined = chunks.to_bytes();
            let cut_off = joined.slice(..cut.index(joined.len()));
            prop_assert!(Envelope::decode(&cut_off.into()).is_err());
            let fewer = chunks.chunks()[..chunks.chunks().len() - 1].to_vec();
            let is_empty = chunks.chunks().last().is_some_and(Bytes::is_empty);
            prop_assert!(is_empty || Envelope::decode(&fewer.into()).is_err());
            let mut longer = chunks.chunks().to_vec();
            let last = longer.last_mut().expect("there is a chunk");
            *last = [last.as_ref(), b"x"].concat().into();
            prop_assert!(Envelope::decode(&longer.into()).is_err());
            let more = [chunks.chunks(), &[Bytes::from_static(b"x")]].concat();
            prop_assert!(Envelope::decode(&more.into()).is_err());
        }
    }

    #[test]
    fn a_batch_is_passed_on_without_a_copy() {
        let batch = Bytes::from(vec![7; 1000]);
        let partition = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 };
        let items = vec![Append { partition, batch: batch.clone() }];
        let written = command::encode(1, 1, &Command::Append(items));
        assert_eq!(written.chunks()[1].as_ptr(), batch.as_ptr());
        let Ok(Envelope { command: Command::Append(items), .. }) = Envelope::decode(&written)
        else {
            panic!("it decodes")
        };
        assert_eq!(items[0].batch.as_ptr(), batch.as_ptr());
        let read_back = Envelope::decode(&written.to_bytes().into()).expect("it decodes");
        let Command::Append(items) = read_back.command else { panic!("an append") };
        assert!(items[0].batch.is_unique(), "it does not keep the memory of the entry");
    }
}
