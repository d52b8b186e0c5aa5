//! Messages survive their encoding, and nothing else is a message.

use proptest::prelude::*;

use super::*;

fn sets() -> impl Strategy<Value = SetId> {
    (any::<u64>(), any::<u64>()).prop_map(|(replica, number)| SetId { replica, number })
}

fn fetches() -> impl Strategy<Value = Fetch> {
    let items = prop_oneof![
        Just(Item::List),
        any::<u32>().prop_map(Item::File),
        any::<u32>().prop_map(Item::Index)
    ];
    (sets(), items, any::<u64>(), 0..=limits::TRANSFER_PIECE_BYTES_MAX).prop_map(
        |(set, item, position_bytes, length_bytes)| Fetch {
            set,
            item,
            position_bytes,
            length_bytes,
        },
    )
}

fn offers() -> impl Strategy<Value = Offer> {
    let members = proptest::collection::vec(any::<u64>(), 0..5);
    let list_bytes = 0..=limits::TRANSFER_LIST_BYTES_MAX;
    (sets(), any::<[u64; 3]>(), members, list_bytes, any::<u32>()).prop_map(
        |(set, [index, term, files_bytes], voters, list_bytes, list_sum)| Offer {
            set,
            last: EntryId { index, term },
            members: Members { voters, ..Members::default() },
            list_bytes,
            list_sum,
            files_bytes,
        },
    )
}

fn bodies() -> impl Strategy<Value = Body> {
    use StopReason::{Busy, Damaged, Full, Installed, NotNeeded};
    let reasons = proptest::sample::select(vec![Installed, NotNeeded, Busy, Full, Damaged]);
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        Just(Body::Want),
        Just(Body::Wait),
        offers().prop_map(Body::Offer),
        fetches().prop_map(Body::Fetch),
        (fetches(), bytes).prop_map(|(of, bytes)| Body::Piece {
            of: Fetch { length_bytes: bytes.len() as u32, ..of },
            bytes: bytes.into()
        }),
        sets().prop_map(|set| Body::Expired { set }),
        (sets(), reasons).prop_map(|(set, reason)| Body::Stop { set, reason }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    (any::<u32>(), any::<u64>(), any::<u64>(), bodies())
        .prop_map(|(shard, from, to, body)| Message { shard: ShardId(shard), from, to, body })
}

/// Bytes with the checksum that belongs to them.
fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes.into()
}

proptest! {
    #[test]
    fn a_message_survives_its_encoding(message in messages()) {
        let bytes = message.encode().to_bytes();
        prop_assert_eq!(Message::decode(bytes), Ok(message));
    }

    #[test]
    fn d3_every_flipped_bit_is_refused(
        message in messages(),
        place in 0.0..1.0_f64,
        bit in 0..8_u8,
    ) {
        let mut bytes = message.encode().to_bytes().to_vec();
        let at = (place * bytes.len() as f64) as usize;
        bytes[at] ^= 1_u8 << bit;
        prop_assert_eq!(Message::decode(bytes.into()), Err(DecodeError::Checksum));
    }

    #[test]
    fn what_follows_or_lacks_a_byte_is_refused(message in messages(), cut in 1..20_usize) {
        let bytes = message.encode().to_bytes();
        let body = bytes[..bytes.len() - CRC_BYTES].to_vec();
        let shorter = body[..body.len().saturating_sub(cut)].to_vec();
        prop_assert!(Message::decode(sealed(shorter)).is_err());
        let longer = [&body[..], &[0]].concat();
        prop_assert_eq!(Message::decode(sealed(longer)), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn r1_arbitrary_bytes_do_no_harm(
        kind in 0..8_u8,
        rest in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let bytes = [&[VERSION, kind][..], &rest].concat();
        if let Ok(message) = Message::decode(sealed(bytes.clone())) {
            prop_assert_eq!(message.encode().to_bytes(), sealed(bytes));
        }
    }
}

#[test]
fn another_version_is_named() {
    let message = Message { shard: ShardId(1), from: 2, to: 3, body: Body::Want };
    let bytes = message.encode().to_bytes();
    let mut bytes = bytes[..bytes.len() - CRC_BYTES].to_vec();
    bytes[0] = 9;
    assert_eq!(Message::decode(sealed(bytes)), Err(DecodeError::Version(9)));
}

#[test]
fn r1_a_range_over_the_limit_is_refused() {
    let set = SetId { replica: 1, number: 2 };
    let length_bytes = limits::TRANSFER_PIECE_BYTES_MAX + 1;
    let fetch = Fetch { set, item: Item::List, position_bytes: 0, length_bytes };
    let message = Message { shard: ShardId(1), from: 2, to: 3, body: Body::Fetch(fetch) };
    let refused = Message::decode(message.encode().to_bytes());
    assert_eq!(refused, Err(DecodeError::TooLong(u64::from(length_bytes))));
}
