//! Requests and answers are read as they were written, and nothing else is.

use proptest::collection::vec;
use proptest::prelude::*;
use ropewalk_shard::command::{Append, CatalogCommand, ShardCommand};
use ropewalk_shard::state::catalog::{Answer, Refusal};
use ropewalk_shard::{PartitionId, TopicId};
use ropewalk_store::transfer::message::{Body, Fetch, Item, SetId, StopReason};
use uuid::Uuid;

use super::*;

fn partition() -> impl Strategy<Value = PartitionId> {
    (any::<u128>(), any::<i32>())
        .prop_map(|(topic, index)| PartitionId { topic: TopicId(Uuid::from_u128(topic)), index })
}

fn a_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        vec((partition(), any::<i64>()), 0..4)
            .prop_map(|all| Command::Shard(ShardCommand::AdvanceLogStart(all))),
        ".*".prop_map(|group| Command::Shard(ShardCommand::DeleteGroup { group })),
        any::<u8>().prop_map(|level| Command::Catalog(CatalogCommand::ReportLevel {
            broker: BrokerId(1),
            level,
        })),
        vec((partition(), vec(any::<u8>(), 0..100)), 1..4).prop_map(|all| {
            let append =
                |(partition, batch): (_, Vec<u8>)| Append { partition, batch: batch.into() };
            Command::Append(all.into_iter().map(append).collect())
        }),
    ]
}

fn files() -> impl Strategy<Value = FilesMessage> {
    let set =
        || (any::<u64>(), any::<u64>()).prop_map(|(replica, number)| SetId { replica, number });
    let body = prop_oneof![
        Just(Body::Want),
        Just(Body::Wait),
        set().prop_map(|set| Body::Stop { set, reason: StopReason::Full }),
        (set(), any::<u32>(), any::<u64>(), vec(any::<u8>(), 0..200)).prop_map(
            |(set, file, position_bytes, bytes)| {
                let length_bytes = u32::try_from(bytes.len()).expect("it is short");
                let of = Fetch { set, item: Item::File(file), position_bytes, length_bytes };
                Body::Piece { of, bytes: bytes.into() }
            }
        ),
    ];
    (any::<u32>(), any::<u64>(), any::<u64>(), body)
        .prop_map(|(shard, from, to, body)| FilesMessage { shard: ShardId(shard), from, to, body })
}

fn a_report() -> impl Strategy<Value = Report> {
    let member = (any::<u64>(), any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |(replica, is_voter, is_caught_up, matched)| Member {
            replica: ReplicaId(replica),
            is_voter,
            is_caught_up,
            matched,
        },
    );
    let led =
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), vec(member, 0..=MEMBERS_MAX))
            .prop_map(|(shard, term, replica, bytes_per_second, members)| LedShard {
                shard: ShardId(shard),
                term,
                replica: ReplicaId(replica),
                bytes_per_second,
                members,
            });
    (any::<i32>(), any::<u64>(), any::<u64>(), any::<[bool; 3]>(), vec(led, 0..8)).prop_map(
        |(broker, incarnation, sequence, flags, led)| {
            let [is_just_started, has_slow_disk, is_draining] = flags;
            let flags = Flags { is_just_started, has_slow_disk, is_draining };
            Report { broker: BrokerId(broker), incarnation, sequence, flags, led }
        },
    )
}

fn a_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        files().prop_map(Request::Files),
        (any::<u32>(), a_command())
            .prop_map(|(shard, command)| Request::Propose { shard: ShardId(shard), command }),
        a_report().prop_map(Request::Report),
        (any::<u32>(), any::<u64>())
            .prop_map(|(shard, to)| Request::Transfer { shard: ShardId(shard), to: ReplicaId(to) }),
    ]
}

fn a_result() -> impl Strategy<Value = Result<Outcome, ProposeError>> {
    prop_oneof![
        Just(Ok(Outcome::Done)),
        Just(Ok(Outcome::TermChanged)),
        (any::<u64>(), any::<i64>()).prop_map(|(revision, first)| {
            Ok(Outcome::Catalog { revision, answer: Answer::ProducerIds(first) })
        }),
        ".*".prop_map(|name| {
            let answer = Answer::Refused(Refusal::TopicExists { name });
            Ok(Outcome::Catalog { revision: 7, answer })
        }),
        Just(Err(ProposeError::NotLeader)),
        Just(Err(ProposeError::Unknown)),
        any::<u32>().prop_map(|size| Err(ProposeError::TooLarge {
            size_bytes: size as usize,
            size_bytes_max: 7,
        })),
    ]
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(request in a_request()) {
        let encoded = request.encode().to_bytes();
        prop_assert_eq!(Request::decode(encoded), Ok(request));
    }

    #[test]
    fn a_request_that_is_cut_off_or_goes_on_is_refused(
        request in a_request(),
        at in any::<prop::sample::Index>(),
    ) {
        let encoded = request.encode().to_bytes();
        let cut = encoded.slice(..at.index(encoded.len()));
        prop_assert!(Request::decode(cut).is_err());
        let longer = [&encoded[..], &[0]].concat();
        // Postcard, in which a command is encoded, ignores what follows.
        if !matches!(request, Request::Propose { .. }) {
            prop_assert!(Request::decode(longer.into()).is_err());
        }
    }

    #[test]
    fn any_bytes_are_a_request_or_are_refused(
        kind in 0_u8..6,
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let _ = Request::decode(bytes.clone().into());
        let framed: Bytes = [&[VERSION, kind][..], &bytes].concat().into();
        if let Ok(request) = Request::decode(framed.clone())
            && !matches!(request, Request::Propose { .. })
        {
            prop_assert_eq!(request.encode().to_bytes(), framed);
        }
        let _ = decode_result([&[VERSION][..], &bytes].concat().into());
    }

    #[test]
    fn a_result_is_read_as_it_was_written(result in a_result()) {
        let encoded = encode_result(&result).to_bytes();
        prop_assert_eq!(decode_result(encoded.clone()), Ok(result));
        let longer = [&encoded[..], &[0]].concat();
        prop_assert_eq!(decode_result(longer.into()), Err(DecodeError::Trailing(1)));
        prop_assert!(decode_result(encoded.slice(..encoded.len() - 1)).is_err());
    }
}

#[test]
fn a_newer_version_is_refused_with_its_number() {
    let mut request =
        Request::Transfer { shard: ShardId(1), to: ReplicaId(2) }.encode().to_bytes().to_vec();
    request[0] = VERSION + 1;
    assert_eq!(Request::decode(request.into()), Err(DecodeError::Version(2)));
    let mut result = encode_result(&Ok(Outcome::Done)).to_bytes().to_vec();
    result[0] = VERSION + 1;
    assert_eq!(decode_result(result.into()), Err(DecodeError::Version(2)));
    assert_eq!(decode_taken(vec![VERSION + 1, 0].into()), Err(DecodeError::Version(2)));
}

#[test]
fn whether_a_transfer_was_taken_is_read_as_it_was_written() {
    for is_taken in [false, true] {
        assert_eq!(decode_taken(encode_taken(is_taken).to_bytes()), Ok(is_taken));
    }
    assert_eq!(decode_taken(vec![VERSION, 2].into()), Err(DecodeError::Flag(2)));
    assert_eq!(decode_taken(vec![VERSION, 0, 0].into()), Err(DecodeError::Trailing(1)));
}

#[test]
fn r1_a_report_with_too_many_shards_is_refused_at_its_count() {
    let report = Report {
        broker: BrokerId(1),
        incarnation: 1,
        sequence: 1,
        flags: Flags::default(),
        led: Vec::new(),
    };
    let mut encoded = Request::Report(report).encode().to_bytes().to_vec();
    let count = encoded.len() - 4;
    encoded[count..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Request::decode(encoded.into()), Err(DecodeError::TooMany(u32::MAX)));
}

#[test]
fn the_largest_piece_of_a_file_fits_a_request() {
    let bytes = Bytes::from(vec![1; TRANSFER_PIECE_BYTES_MAX as usize]);
    let set = SetId { replica: u64::MAX, number: u64::MAX };
    let of = Fetch {
        set,
        item: Item::Index(u32::MAX),
        position_bytes: u64::MAX,
        length_bytes: TRANSFER_PIECE_BYTES_MAX,
    };
    let body = Body::Piece { of, bytes };
    let message = FilesMessage { shard: ShardId(1), from: 1, to: 2, body };
    assert!(Request::Files(message).encode().len() <= BULK_FRAME_BYTES_MAX);
}
