//! Kafka's error codes, and the one mapping from internal errors to them.
//!
//! Every layer below has its own errors, split by what the caller does next. A client sees only
//! these codes, and decides by them whether to retry, to look for another leader, to join its group
//! again or to give up. A wrong code turns a short interruption into lost data or a hot loop, so
//! the mapping is made here and nowhere else.

use ropewalk_batch::Refusal;
use ropewalk_shard::ProposeError;
use ropewalk_shard::state::{AppendRefusal, catalog, group};
use ropewalk_store::log::ReadError;
use ropewalk_store::remote::RemoteError;

use super::deadline::ChangeTimeout;
use crate::catalog::TopicError;

macro_rules! error_codes {
    ($($variant:ident = $code:literal, $name:literal;)*) => {
        /// Kafka's error code of a request or a part of one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $name, "`")] $variant = $code,)*
        }

        impl ErrorCode {
            /// Kafka's name of the code, as its tools print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The error code with this number, if Kafka 4.3 defines it.
            #[must_use]
            pub const fn from_i16(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR";
    None = 0, "NONE";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE";
    CorruptMessage = 2, "CORRUPT_MESSAGE";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION";
    InvalidFetchSize = 4, "INVALID_FETCH_SIZE";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE";
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT";
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE";
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE";
    StaleControllerEpoch = 11, "STALE_CONTROLLER_EPOCH";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE";
    NetworkException = 13, "NETWORK_EXCEPTION";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE";
    NotCoordinator = 16, "NOT_COORDINATOR";
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION";
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE";
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS";
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND";
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS";
    IllegalGeneration = 22, "ILLEGAL_GENERATION";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL";
    InvalidGroupId = 24, "INVALID_GROUP_ID";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS";
    InvalidCommitOffsetSize = 28, "INVALID_COMMIT_OFFSET_SIZE";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED";
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP";
    UnsupportedSaslMechanism = 33, "UNSUPPORTED_SASL_MECHANISM";
    IllegalSaslState = 34, "ILLEGAL_SASL_STATE";
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS";
    InvalidPartitions = 37, "INVALID_PARTITIONS";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT";
    InvalidConfig = 40, "INVALID_CONFIG";
    NotController = 41, "NOT_CONTROLLER";
    InvalidRequest = 42, "INVALID_REQUEST";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT";
    PolicyViolation = 44, "POLICY_VIOLATION";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH";
    InvalidTxnState = 48, "INVALID_TXN_STATE";
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING";
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT";
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS";
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED";
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED";
    SecurityDisabled = 54, "SECURITY_DISABLED";
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED";
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR";
    LogDirNotFound = 57, "LOG_DIR_NOT_FOUND";
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID";
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS";
    DelegationTokenAuthDisabled = 61, "DELEGATION_TOKEN_AUTH_DISABLED";
    DelegationTokenNotFound = 62, "DELEGATION_TOKEN_NOT_FOUND";
    DelegationTokenOwnerMismatch = 63, "DELEGATION_TOKEN_OWNER_MISMATCH";
    DelegationTokenRequestNotAllowed = 64, "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED";
    DelegationTokenAuthorizationFailed = 65, "DELEGATION_TOKEN_AUTHORIZATION_FAILED";
    DelegationTokenExpired = 66, "DELEGATION_TOKEN_EXPIRED";
    InvalidPrincipalType = 67, "INVALID_PRINCIPAL_TYPE";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND";
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND";
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH";
    ListenerNotFound = 72, "LISTENER_NOT_FOUND";
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE";
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH";
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED";
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID";
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE";
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED";
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC";
    InvalidRecord = 87, "INVALID_RECORD";
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT";
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED";
    ProducerFenced = 90, "PRODUCER_FENCED";
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND";
    DuplicateResource = 92, "DUPLICATE_RESOURCE";
    UnacceptableCredential = 93, "UNACCEPTABLE_CREDENTIAL";
    InconsistentVoterSet = 94, "INCONSISTENT_VOTER_SET";
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION";
    FeatureUpdateFailed = 96, "FEATURE_UPDATE_FAILED";
    PrincipalDeserializationFailure = 97, "PRINCIPAL_DESERIALIZATION_FAILURE";
    SnapshotNotFound = 98, "SNAPSHOT_NOT_FOUND";
    PositionOutOfRange = 99, "POSITION_OUT_OF_RANGE";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID";
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION";
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED";
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID";
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID";
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND";
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR";
    IneligibleReplica = 107, "INELIGIBLE_REPLICA";
    NewLeaderElected = 108, "NEW_LEADER_ELECTED";
    OffsetMovedToTieredStorage = 109, "OFFSET_MOVED_TO_TIERED_STORAGE";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH";
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE";
    UnsupportedEndpointType = 115, "UNSUPPORTED_ENDPOINT_TYPE";
    UnknownControllerId = 116, "UNKNOWN_CONTROLLER_ID";
    UnknownSubscriptionId = 117, "UNKNOWN_SUBSCRIPTION_ID";
    TelemetryTooLarge = 118, "TELEMETRY_TOO_LARGE";
    InvalidRegistration = 119, "INVALID_REGISTRATION";
    TransactionAbortable = 120, "TRANSACTION_ABORTABLE";
    InvalidRecordState = 121, "INVALID_RECORD_STATE";
    ShareSessionNotFound = 122, "SHARE_SESSION_NOT_FOUND";
    InvalidShareSessionEpoch = 123, "INVALID_SHARE_SESSION_EPOCH";
    FencedStateEpoch = 124, "FENCED_STATE_EPOCH";
    InvalidVoterKey = 125, "INVALID_VOTER_KEY";
    DuplicateVoter = 126, "DUPLICATE_VOTER";
    VoterNotFound = 127, "VOTER_NOT_FOUND";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION";
    RebootstrapRequired = 129, "REBOOTSTRAP_REQUIRED";
    StreamsInvalidTopology = 130, "STREAMS_INVALID_TOPOLOGY";
    StreamsInvalidTopologyEpoch = 131, "STREAMS_INVALID_TOPOLOGY_EPOCH";
    StreamsTopologyFenced = 132, "STREAMS_TOPOLOGY_FENCED";
    ShareSessionLimitReached = 133, "SHARE_SESSION_LIMIT_REACHED";
}

impl ErrorCode {
    /// The number in the protocol.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> Self {
        code.code()
    }
}

/// For requests that concern a partition; see [`coordinator`] for those that concern a group.
impl From<ProposeError> for ErrorCode {
    fn from(error: ProposeError) -> Self {
        match error {
            // Clients treat these codes as "not persisted" and retry.
            ProposeError::NotLeader | ProposeError::Stopped => Self::NotLeaderOrFollower,
            ProposeError::Full => Self::KafkaStorageError,
            ProposeError::Busy | ProposeError::Behind => Self::NotEnoughReplicas,
            ProposeError::TooLarge { .. } => Self::MessageTooLarge,
            ProposeError::AboveLevel { .. } => Self::UnsupportedVersion,
            // The entry may still commit: clients treat this code as "possibly persisted".
            ProposeError::Unknown => Self::RequestTimedOut,
        }
    }
}

/// The error code for requests of groups and transactions when the shard rejects a command.
#[must_use]
pub fn coordinator(error: ProposeError) -> ErrorCode {
    match error {
        ProposeError::NotLeader => ErrorCode::NotCoordinator,
        ProposeError::Stopped | ProposeError::Full | ProposeError::Busy | ProposeError::Behind => {
            ErrorCode::CoordinatorNotAvailable
        }
        ProposeError::TooLarge { .. } => ErrorCode::InvalidRequest,
        ProposeError::AboveLevel { .. } => ErrorCode::UnsupportedVersion,
        ProposeError::Unknown => ErrorCode::RequestTimedOut,
    }
}

/// The error code for a producer id when the catalog rejects the command. An allocated id that no
/// client receives is never used, so the client may always ask again: Kafka has this code for it as
/// well.
#[must_use]
pub fn producer_id(error: ProposeError) -> ErrorCode {
    match error {
        ProposeError::NotLeader
        | ProposeError::Stopped
        | ProposeError::Full
        | ProposeError::Busy
        | ProposeError::Behind
        | ProposeError::Unknown => ErrorCode::CoordinatorLoadInProgress,
        ProposeError::TooLarge { .. } => ErrorCode::InvalidRequest,
        ProposeError::AboveLevel { .. } => ErrorCode::UnsupportedVersion,
    }
}

impl From<ChangeTimeout> for ErrorCode {
    fn from(_: ChangeTimeout) -> Self {
        Self::RequestTimedOut
    }
}

impl From<AppendRefusal> for ErrorCode {
    fn from(refusal: AppendRefusal) -> Self {
        match refusal {
            // The topic exists (validated before), so its partition is being created or deleted.
            AppendRefusal::NoSuchPartition => Self::UnknownTopicOrPartition,
            AppendRefusal::OutOfOrderSequence { .. } => Self::OutOfOrderSequenceNumber,
            AppendRefusal::StaleEpoch { .. } => Self::InvalidProducerEpoch,
            AppendRefusal::Malformed => Self::CorruptMessage,
        }
    }
}

impl From<&Refusal> for ErrorCode {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Corrupt { .. } => Self::CorruptMessage,
            Refusal::TooLarge { .. } => Self::MessageTooLarge,
            Refusal::InvalidTimestamp { .. } => Self::InvalidTimestamp,
            Refusal::InvalidRecord { .. } => Self::InvalidRecord,
            Refusal::UnsupportedCompression { .. } => Self::UnsupportedCompressionType,
            Refusal::UnsupportedForMagic { .. } => Self::UnsupportedForMessageFormat,
        }
    }
}

/// The records of a refused batch that caused the refusal, each with its message.
pub(super) fn of_records(refusal: &Refusal) -> impl Iterator<Item = (i32, String)> {
    let records = match refusal {
        Refusal::InvalidTimestamp { record_errors }
        | Refusal::InvalidRecord { record_errors, .. } => record_errors.as_slice(),
        Refusal::Corrupt { .. }
        | Refusal::TooLarge { .. }
        | Refusal::UnsupportedCompression { .. }
        | Refusal::UnsupportedForMagic { .. } => &[],
    };
    records.iter().map(|record| (record.batch_index, record.fault.to_string()))
}

impl From<&TopicError> for ErrorCode {
    fn from(error: &TopicError) -> Self {
        match error {
            TopicError::InvalidName(_) => Self::InvalidTopicException,
            TopicError::InvalidPartitions(_) => Self::InvalidPartitions,
            TopicError::InvalidConfig(_) => Self::InvalidConfig,
            TopicError::TooMany(_) => Self::PolicyViolation,
            // Only calls of the admin server end in these.
            TopicError::TooManyGroups(_) | TopicError::InvalidEpoch(_) => Self::InvalidRequest,
            TopicError::Refused(refusal) => refusal.into(),
            // The change was made: a retry would be refused, so the client must not retry by
            // itself.
            TopicError::NotOpen(_) => Self::RequestTimedOut,
            TopicError::Unavailable(error) => match error {
                ProposeError::Full => Self::KafkaStorageError,
                ProposeError::NotLeader
                | ProposeError::Stopped
                | ProposeError::Busy
                | ProposeError::Behind => Self::NotController,
                ProposeError::TooLarge { .. } => Self::InvalidRequest,
                ProposeError::AboveLevel { .. } => Self::UnsupportedVersion,
                ProposeError::Unknown => Self::RequestTimedOut,
            },
        }
    }
}

impl From<&ReadError> for ErrorCode {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::OutOfRange { .. } => Self::OffsetOutOfRange,
            ReadError::Remote(_) => Self::OffsetNotAvailable,
            ReadError::Storage(_) => Self::KafkaStorageError,
        }
    }
}

/// All of them are errors that clients retry.
impl From<&RemoteError> for ErrorCode {
    fn from(error: &RemoteError) -> Self {
        match error {
            // The manifest changes, or this replica is behind it.
            RemoteError::NoObject(_) => Self::OffsetNotAvailable,
            RemoteError::Unavailable(_) | RemoteError::Damaged(_) => Self::KafkaStorageError,
        }
    }
}

impl From<group::Refusal> for ErrorCode {
    fn from(refusal: group::Refusal) -> Self {
        match refusal {
            group::Refusal::NoSuchGroup => Self::GroupIdNotFound,
            group::Refusal::UnknownMember => Self::UnknownMemberId,
            group::Refusal::IllegalGeneration => Self::IllegalGeneration,
            group::Refusal::FencedInstance => Self::FencedInstanceId,
            group::Refusal::NotEmpty => Self::NonEmptyGroup,
        }
    }
}

impl From<crate::group::Refusal> for ErrorCode {
    fn from(refusal: crate::group::Refusal) -> Self {
        use crate::group::{Refusal, SizeLimit};
        match refusal {
            Refusal::UnknownMember => Self::UnknownMemberId,
            Refusal::IllegalGeneration => Self::IllegalGeneration,
            Refusal::RebalanceInProgress => Self::RebalanceInProgress,
            Refusal::FencedInstance => Self::FencedInstanceId,
            Refusal::MemberIdRequired => Self::MemberIdRequired,
            Refusal::InconsistentProtocol => Self::InconsistentGroupProtocol,
            Refusal::InvalidSessionTimeout { .. } => Self::InvalidSessionTimeout,
            Refusal::GroupFull { .. } | Refusal::TooLarge { what: SizeLimit::Group, .. } => {
                Self::GroupMaxSizeReached
            }
            Refusal::TooLarge {
                what:
                    SizeLimit::Name | SizeLimit::Protocols | SizeLimit::Member | SizeLimit::Assignment,
                ..
            } => Self::MessageTooLarge,
            Refusal::TooManyGroups { .. } => Self::PolicyViolation,
            Refusal::TooManyOffsets { .. } => Self::InvalidCommitOffsetSize,
            Refusal::InvalidGroupId => Self::InvalidGroupId,
            Refusal::NoSuchGroup => Self::GroupIdNotFound,
            Refusal::NotEmpty => Self::NonEmptyGroup,
            Refusal::NotCoordinator => Self::NotCoordinator,
            Refusal::NotAvailable | Refusal::NoMemory { .. } => Self::CoordinatorNotAvailable,
            Refusal::OutcomeUnknown => Self::RequestTimedOut,
        }
    }
}

impl From<&catalog::Refusal> for ErrorCode {
    fn from(refusal: &catalog::Refusal) -> Self {
        match refusal {
            catalog::Refusal::TopicExists { .. } => Self::TopicAlreadyExists,
            catalog::Refusal::NameCollision { .. } => Self::InvalidTopicException,
            catalog::Refusal::NoSuchTopic => Self::UnknownTopicOrPartition,
            catalog::Refusal::PartitionCountChanged { .. } => Self::InvalidPartitions,
            catalog::Refusal::OwnedByAnother { .. }
            | catalog::Refusal::NotOwned
            | catalog::Refusal::StaleEpoch { .. }
            | catalog::Refusal::EpochTooHigh { .. } => Self::PolicyViolation,
            catalog::Refusal::Replaced => Self::UnknownTopicOrPartition,
            // The id was drawn here: a retry draws another.
            catalog::Refusal::IdUsed { .. } => Self::UnknownServerError,
            catalog::Refusal::BrokerForgotten { .. }
            | catalog::Refusal::StaleIncarnation { .. }
            | catalog::Refusal::TooManyBrokers { .. }
            | catalog::Refusal::BrokerHoldsReplicas { .. }
            | catalog::Refusal::StandingChanged { .. }
            | catalog::Refusal::TooFewBrokers { .. }
            | catalog::Refusal::OtherRestarts { .. }
            | catalog::Refusal::OtherClaim { .. } => Self::PolicyViolation,
            catalog::Refusal::NoSuchBroker { .. } => Self::BrokerIdNotRegistered,
            catalog::Refusal::NoSuchShard { .. }
            | catalog::Refusal::NoSuchReplica { .. }
            | catalog::Refusal::ReplicaLeaves { .. }
            | catalog::Refusal::ReplicaStays { .. }
            | catalog::Refusal::ReplicaVotes { .. }
            | catalog::Refusal::LastVoter { .. } => Self::InvalidReplicaAssignment,
        }
    }
}

#[cfg(test)]
mod tests;
