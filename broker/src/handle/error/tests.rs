//! The mapping of every error to Kafka's error code, row by row.

use ropewalk_shard::proposal::Certainty;
use ropewalk_store::remote::RemoteRange;

use super::*;

#[test]
fn numbers_and_names_go_both_ways() {
    for code in -1..=133 {
        let known = ErrorCode::from_i16(code).expect("Kafka 4.3 has no gap");
        assert_eq!(known.code(), code);
        let mut name = String::new();
        for letter in format!("{known:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        assert_eq!(known.name(), name, "{code}");
    }
    assert_eq!(ErrorCode::from_i16(134), None);
    assert_eq!(ErrorCode::UnsupportedVersion.code(), 35);
}

/// A code decides whether a client tries again, looks for another leader, joins again or gives up,
/// so a wrong one loses records or makes a loop.
#[test]
fn every_refusal_of_a_topic_has_its_code() {
    use ErrorCode as Code;
    use catalog::Refusal;
    let name = || "t".to_owned();
    let collision = Refusal::NameCollision { name: name(), other: name() };
    for (error, expected) in [
        (TopicError::InvalidName(name()), Code::InvalidTopicException),
        (TopicError::InvalidPartitions(name()), Code::InvalidPartitions),
        (TopicError::InvalidConfig(name()), Code::InvalidConfig),
        (TopicError::TooMany(name()), Code::PolicyViolation),
        (TopicError::NotOpen(ProposeError::NotLeader), Code::RequestTimedOut),
        (TopicError::NotOpen(ProposeError::Full), Code::RequestTimedOut),
        (Refusal::TopicExists { name: name() }.into(), Code::TopicAlreadyExists),
        (collision.into(), Code::InvalidTopicException),
        (Refusal::NoSuchTopic.into(), Code::UnknownTopicOrPartition),
        (Refusal::NotOwned.into(), Code::PolicyViolation),
        (Refusal::Replaced.into(), Code::UnknownTopicOrPartition),
        (
            Refusal::IdUsed { id: crate::catalog::random_topic_id() }.into(),
            Code::UnknownServerError,
        ),
    ] {
        assert_eq!(ErrorCode::from(&error), expected, "{error}");
    }
}

/// Every reason why a proposal has no outcome.
const PROPOSE_ERRORS: [ProposeError; 8] = [
    ProposeError::NotLeader,
    ProposeError::Stopped,
    ProposeError::Full,
    ProposeError::Busy,
    ProposeError::Behind,
    ProposeError::TooLarge { size_bytes: 2, size_bytes_max: 1 },
    ProposeError::AboveLevel { format: 6, level: 5 },
    ProposeError::Unknown,
];

#[test]
fn each_proposal_without_outcome_has_its_code_for_each_kind_of_request() {
    use ErrorCode as Code;
    let codes = PROPOSE_ERRORS.map(|error| {
        let topic = ErrorCode::from(&TopicError::Unavailable(error));
        (error.into(), coordinator(error), topic, producer_id(error))
    });
    let not_leader = Code::NotLeaderOrFollower;
    let unsupported = Code::UnsupportedVersion;
    let again = Code::CoordinatorLoadInProgress;
    let expected = [
        (not_leader, Code::NotCoordinator, Code::NotController, again),
        (not_leader, Code::CoordinatorNotAvailable, Code::NotController, again),
        (Code::KafkaStorageError, Code::CoordinatorNotAvailable, Code::KafkaStorageError, again),
        (Code::NotEnoughReplicas, Code::CoordinatorNotAvailable, Code::NotController, again),
        (Code::NotEnoughReplicas, Code::CoordinatorNotAvailable, Code::NotController, again),
        (Code::MessageTooLarge, Code::InvalidRequest, Code::InvalidRequest, Code::InvalidRequest),
        (unsupported, unsupported, unsupported, unsupported),
        (Code::RequestTimedOut, Code::RequestTimedOut, Code::RequestTimedOut, again),
    ];
    assert_eq!(codes, expected);
}

#[test]
fn what_clients_count_as_persisted_perhaps_is_what_is_not_known_here() {
    // The codes that librdkafka's produce handling marks POSSIBLY_PERSISTED.
    let perhaps = [ErrorCode::RequestTimedOut, ErrorCode::NotEnoughReplicasAfterAppend];
    for error in PROPOSE_ERRORS {
        let is_unknown = error.certainty() == Certainty::Unknown;
        assert_eq!(perhaps.contains(&error.into()), is_unknown, "{error:?}");
    }
}

#[test]
fn every_refusal_of_a_group_has_its_code() {
    use crate::group::{Refusal, SizeLimit};
    use ErrorCode as Code;
    let too_large = |what| Refusal::TooLarge { what, size: 2, size_max: 1 };
    let timeout = Refusal::InvalidSessionTimeout { asked_ms: 1, min_ms: 2, max_ms: 3 };
    for (refusal, expected) in [
        (Refusal::UnknownMember, Code::UnknownMemberId),
        (Refusal::IllegalGeneration, Code::IllegalGeneration),
        (Refusal::RebalanceInProgress, Code::RebalanceInProgress),
        (Refusal::FencedInstance, Code::FencedInstanceId),
        (Refusal::MemberIdRequired, Code::MemberIdRequired),
        (Refusal::InconsistentProtocol, Code::InconsistentGroupProtocol),
        (timeout, Code::InvalidSessionTimeout),
        (Refusal::GroupFull { members_max: 1 }, Code::GroupMaxSizeReached),
        (too_large(SizeLimit::Group), Code::GroupMaxSizeReached),
        (too_large(SizeLimit::Member), Code::MessageTooLarge),
        (too_large(SizeLimit::Name), Code::MessageTooLarge),
        (too_large(SizeLimit::Protocols), Code::MessageTooLarge),
        (too_large(SizeLimit::Assignment), Code::MessageTooLarge),
        (Refusal::NoMemory { size_max: 1 }, Code::CoordinatorNotAvailable),
        (Refusal::TooManyGroups { groups_max: 1 }, Code::PolicyViolation),
        (Refusal::TooManyOffsets { size_max: 1 }, Code::InvalidCommitOffsetSize),
        (Refusal::InvalidGroupId, Code::InvalidGroupId),
        (Refusal::NoSuchGroup, Code::GroupIdNotFound),
        (Refusal::NotEmpty, Code::NonEmptyGroup),
        (Refusal::NotCoordinator, Code::NotCoordinator),
        (Refusal::NotAvailable, Code::CoordinatorNotAvailable),
        (Refusal::OutcomeUnknown, Code::RequestTimedOut),
    ] {
        assert_eq!(ErrorCode::from(refusal), expected, "{refusal}");
    }
}

#[test]
fn each_refused_batch_has_its_code() {
    let refusals = [
        (AppendRefusal::NoSuchPartition, ErrorCode::UnknownTopicOrPartition),
        (
            AppendRefusal::OutOfOrderSequence { sequence: 3, last: 1 },
            ErrorCode::OutOfOrderSequenceNumber,
        ),
        (AppendRefusal::StaleEpoch { epoch: 0, current: 1 }, ErrorCode::InvalidProducerEpoch),
        (AppendRefusal::Malformed, ErrorCode::CorruptMessage),
    ];
    for (refusal, code) in refusals {
        assert_eq!(ErrorCode::from(refusal), code, "{refusal}");
    }
}

#[test]
fn each_refusal_of_a_groups_state_has_its_code() {
    let in_shard = [
        (group::Refusal::NoSuchGroup, ErrorCode::GroupIdNotFound),
        (group::Refusal::UnknownMember, ErrorCode::UnknownMemberId),
        (group::Refusal::IllegalGeneration, ErrorCode::IllegalGeneration),
        (group::Refusal::FencedInstance, ErrorCode::FencedInstanceId),
        (group::Refusal::NotEmpty, ErrorCode::NonEmptyGroup),
    ];
    for (refusal, code) in in_shard {
        assert_eq!(ErrorCode::from(refusal), code, "{refusal}");
    }
}

#[test]
fn damaged_storage_is_not_an_offset_out_of_range() {
    let damaged = ReadError::Storage("a block's checksum is wrong".to_owned());
    assert_eq!(ErrorCode::from(&damaged), ErrorCode::KafkaStorageError);
    let beyond = ReadError::OutOfRange { asked: 2, log_start: 0, high_watermark: 1 };
    assert_eq!(ErrorCode::from(&beyond), ErrorCode::OffsetOutOfRange);
    let remote = ReadError::Remote(RemoteRange { from: 2, until: 5 });
    assert_eq!(ErrorCode::from(&remote), ErrorCode::OffsetNotAvailable, "the client asks again");
}
