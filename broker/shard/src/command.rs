//! Commands: the operations on a shard's state machine, and their encoding in Raft entries.
//!
//! An entry is an [`Envelope`]: the term in which it was proposed, the leader's clock at that
//! moment, and the command. The state machine refuses an entry that was committed in another term,
//! and takes the time from the envelope, so that every replica computes the same result.
//!
//! # Format
//!
//! `[format u8][kind u8: 0 append, 1 shard, 2 catalog][term u64 LE][time_ms i64 LE]`, then for an
//! append `[count u32]`, per batch `[partition 20 bytes][length u32]`, then the batches end to end;
//! for any other command its postcard encoding. A new variant is added at the end, under a new
//! format number, because a later version of the broker must still read the entry. Format 2 adds
//! the commands of a topic's owner to format 1; format 3 adds the expiry of producers by the time
//! of their last batch; format 4 adds the proof that a topic was deleted; format 5 adds the check
//! of the state and the feature level; format 6 adds brokers and the placement of replicas; format
//! 7 adds the preparation of restarts and the conditions for draining; format 8 adds the tier of
//! partitions; format 9 adds their restore and the claim of the bucket. An entry carries the lowest
//! number that can express it, so that an older broker refuses only the commands that it does not
//! support.
//!
//! # Feature level
//!
//! The feature level of a cluster is the newest format that every broker reads. The catalog derives
//! it from the reports of the brokers. A command of a newer format is not proposed, because an
//! older broker stops the replica that meets it.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::deletion::Deletion;
use crate::id::{PartitionId, TopicId};
use crate::payload::Payload;

mod appends;
mod catalog;
mod tier;
mod format;

pub use crate::placement::{BrokerInfo, PeerEndpoint, Role, Standing};
pub(crate) use appends::item_len;
pub use catalog::{CatalogCommand, ConfigResource, NewTopic, PartitionPlacement, StartPosition};
pub use format::{FORMAT_MAX, FORMAT_WITHOUT_LEVEL};
pub(crate) use format::{format_of, is_written_at};
pub use tier::{ChangeTier, TierChange};

const KIND_APPEND: u8 = 0;
const KIND_SHARD: u8 = 1;
const KIND_CATALOG: u8 = 2;
const HEAD_LEN: usize = 18;
/// Bytes that are allocated for a command other than batches. Most are smaller.
const BODY_BYTES_USUAL: usize = 256;

/// [`ShardCommand::ClosePartitions`], [`ShardCommand::AdvanceLogStart`] and
/// [`ShardCommand::CloseTopics`], in postcard.
const FREEING: [u8; 3] = [1, 2, 12];
/// [`ShardCommand::ChangeTier`], in postcard. Its [`TierChange`] follows.
const CHANGE_TIER: u8 = 14;
/// [`TierChange::SetLocalStart`], in postcard.
const SET_LOCAL_START: u8 = 4;

/// A command with the term and the time of its proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The leader's term when it proposed.
    pub term: u64,
    /// The leader's wall clock when it proposed, Unix milliseconds.
    pub time_ms: i64,
    /// The operation on the state machine.
    pub command: Command,
}

/// One batch for one partition, validated (see `ropewalk_batch`) and not stamped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The partition that the batch is appended to.
    pub partition: PartitionId,
    /// A whole record batch; its base offset and leader epoch are replaced. It owns its memory: the
    /// tail of the partition log keeps it, and counts as many bytes as are allocated (R1).
    pub batch: Bytes,
}

/// An operation on the replicated state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Record batches of several partitions.
    Append(Vec<Append>),
    /// Any other operation on the partitions and groups of one shard.
    Shard(ShardCommand),
    /// An operation on the catalog, in shard 0.
    Catalog(CatalogCommand),
}

/// An operation on the partitions and groups of a shard, other than an append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// Creates partitions in the shard. Partitions that exist are unchanged.
    OpenPartitions(Vec<OpenPartition>),
    /// Removes partitions and their records from the shard. Read from old logs and no longer
    /// written, because it has no proof that the topics were deleted:
    /// [`ShardCommand::CloseTopics`] replaces it.
    ClosePartitions(Vec<PartitionId>),
    /// Raises the log start of partitions to an offset (retention, `DeleteRecords`). A lower offset
    /// than the current log start changes nothing.
    AdvanceLogStart(Vec<(PartitionId, i64)>),
    /// Removes producers by partition and producer id. Read from old logs and no longer written,
    /// because it also removes a producer that wrote after the leader found it silent:
    /// [`ShardCommand::ExpireSilentProducers`] replaces it.
    ExpireProducers(Vec<(PartitionId, i64)>),
    /// Commits offsets of a consumer group.
    CommitOffsets(CommitOffsets),
    /// Deletes committed offsets of a group (`OffsetDelete`).
    DeleteOffsets {
        /// The group's id.
        group: String,
        /// The partitions whose offsets are deleted.
        partitions: Vec<PartitionId>,
    },
    /// A completed generation of a classic group; an empty member list empties the group.
    SetGeneration(SetGeneration),
    /// Deletes a group and its offsets. Refused while the group has members.
    DeleteGroup {
        /// The group's id.
        group: String,
    },
    /// Removes the committed offsets of deleted topics from every group. Read from old logs and no
    /// longer written, like [`ShardCommand::ClosePartitions`].
    RemoveTopics(Vec<TopicId>),
    /// Removes expired offsets, unless they were committed again in between, and then the group if
    /// it has neither members nor offsets.
    ExpireOffsets {
        /// The group's id.
        group: String,
        /// The partition, and the time of the expired commit, Unix milliseconds.
        offsets: Vec<(PartitionId, i64)>,
    },
    /// Sets the first offsets of a bound group, in partitions for which it has no committed offset:
    /// a commit that a member made meanwhile is kept. Since format 2.
    StartOffsets {
        /// The group's id.
        group: String,
        /// The next offset to read, by partition.
        offsets: Vec<(PartitionId, i64)>,
    },
    /// Removes producers that have not written since the leader found them silent (D5). Since
    /// format 3.
    ExpireSilentProducers(Vec<SilentProducer>),
    /// Removes the partitions of deleted topics with their records, and what groups committed for
    /// them. Since format 4.
    CloseTopics(Vec<Deletion>),
    /// Has every replica compute the digest of its state at this entry, to compare it with the
    /// others'. The first one begins the checksum of what is appended. Since format 5.
    CheckState {
        /// [`crate::state::ENCODING`] of the proposer. Another version of the broker, whose digest
        /// of the same state is another one, computes none.
        encoding: u8,
    },
    /// Changes the tier of a partition: which of its records are in the bucket. Since format 8.
    ChangeTier(ChangeTier),
}

/// A producer, and its last batch at the time at which the leader found it silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentProducer {
    /// The partition that the producer wrote to.
    pub partition: PartitionId,
    /// The producer id that the batches carry.
    pub producer_id: i64,
    /// The time of its last batch at that moment, Unix milliseconds.
    pub seen_ms: i64,
}

/// A partition that a shard is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPartition {
    /// The partition to create.
    pub partition: PartitionId,
    /// Added to the shard's term to give the leader epoch, so that a move never lowers it.
    pub epoch_base: i32,
}

/// A commit of offsets of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOffsets {
    /// The group's id.
    pub group: String,
    /// The committing member; `None` for a consumer without membership (generation -1) or the
    /// broker itself.
    pub member: Option<MemberClaim>,
    /// The offset to commit, by partition.
    pub offsets: Vec<(PartitionId, OffsetCommit)>,
}

/// The identity that a member sends with a commit. The state machine checks it against the current
/// generation (O3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberClaim {
    /// The member id that the coordinator assigned.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation in which the member joined.
    pub generation: i32,
}

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Opaque metadata of the client, ≤ `offset.metadata.max.bytes`.
    pub metadata: String,
    /// Unix milliseconds after which the offset expires, if the client set a retention time
    /// (OffsetCommit v2 to v4).
    pub expires_ms: Option<i64>,
}

/// A completed generation of a classic group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetGeneration {
    /// The group's id.
    pub group: String,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// The generation's number.
    pub generation: i32,
    /// The chosen assignor; `None` for an empty group.
    pub protocol: Option<String>,
    /// The member that made the assignment.
    pub leader: Option<String>,
    /// All members of the generation.
    pub members: Vec<Member>,
}

/// One member of a completed generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member id that the coordinator assigned.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id` of the member.
    pub client_id: String,
    /// The address from which the member connected.
    pub client_host: String,
    /// How long the member may take to join again in a rebalance.
    pub rebalance_timeout_ms: i32,
    /// How long the member may go without a heartbeat.
    pub session_timeout_ms: i32,
    /// Name and subscription metadata of every protocol that the member supports.
    pub protocols: Vec<(String, Bytes)>,
    /// The assignment that the group's leader made for this member.
    pub assignment: Bytes,
}

/// Why bytes cannot be decoded as an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    /// Cut short, or lengths that do not add up.
    #[error("the entry is malformed: {0}")]
    Malformed(&'static str),
    /// A newer version of the broker wrote it.
    #[error("it has format {0}, and this broker reads formats up to {FORMAT_MAX}")]
    Format(u8),
}

/// Encodes an entry. Batches are not copied: each is a chunk of its own.
#[must_use]
pub fn encode(term: u64, time_ms: i64, command: &Command) -> Payload {
    let (kind, body_len) = match command {
        Command::Append(items) => (KIND_APPEND, appends::table_len(items)),
        Command::Shard(_) => (KIND_SHARD, BODY_BYTES_USUAL),
        Command::Catalog(_) => (KIND_CATALOG, BODY_BYTES_USUAL),
    };
    let mut out = BytesMut::with_capacity(HEAD_LEN + body_len);
    out.put_u8(format_of(command));
    out.put_u8(kind);
    out.put_u64_le(term);
    out.put_i64_le(time_ms);
    match command {
        Command::Append(items) => return appends::encode(out, items),
        Command::Shard(command) => out.put_slice(&postcard(command)),
        Command::Catalog(command) => out.put_slice(&postcard(command)),
    }
    out.freeze().into()
}

/// Whether an encoded entry carries record batches.
pub(crate) fn is_append(payload: &Payload) -> bool {
    let head = &payload.chunks()[0];
    head.len() >= HEAD_LEN && head[1] == KIND_APPEND
}

/// Whether an encoded entry carries a command that frees space on the disk: it closes partitions,
/// or raises log starts or a local start.
pub(crate) fn frees_space(payload: &Payload) -> bool {
    match shard_command(payload) {
        [CHANGE_TIER, change, ..] => *change == SET_LOCAL_START,
        [variant, ..] => FREEING.contains(variant),
        [] => false,
    }
}

/// Whether an encoded entry carries a command that frees space, or without which a later one cannot
/// free any: local records are removed only when their object was added.
pub(crate) fn leads_to_space(payload: &Payload) -> bool {
    frees_space(payload) || shard_command(payload).first() == Some(&CHANGE_TIER)
}

/// The encoding of the shard command in an entry; empty if the entry carries another one.
fn shard_command(payload: &Payload) -> &[u8] {
    let head = &payload.chunks()[0];
    let is_shard_command = head.get(1) == Some(&KIND_SHARD);
    head.get(HEAD_LEN..).filter(|_| is_shard_command).unwrap_or_default()
}

impl Envelope {
    /// Decodes an entry. A batch that is a chunk of its own is taken as it is. Others are copied,
    /// so that one small batch in the tail of a partition log never keeps the memory of an entry
    /// with batches of many partitions.
    ///
    /// # Errors
    /// When the bytes are not an entry of a supported format.
    pub fn decode(payload: &Payload) -> Result<Self, CommandError> {
        let (data, chunks) = payload.chunks().split_first().expect("there is a chunk");
        if data.len() < HEAD_LEN {
            return Err(CommandError::Malformed("shorter than its head"));
        }
        match data[0] {
            0 => return Err(CommandError::Malformed("format 0")),
            1..=FORMAT_MAX => {}
            newer => return Err(CommandError::Format(newer)),
        }
        let term = u64::from_le_bytes(data[2..10].try_into().expect("8 bytes"));
        let time_ms = i64::from_le_bytes(data[10..18].try_into().expect("8 bytes"));
        let body = data.slice(HEAD_LEN..);
        let command = match data[1] {
            KIND_APPEND => Command::Append(appends::decode(body, chunks)?),
            _ if !chunks.is_empty() => return Err(CommandError::Malformed("it is in pieces")),
            KIND_SHARD => Command::Shard(from_postcard(&body)?),
            KIND_CATALOG => Command::Catalog(from_postcard(&body)?),
            _ => return Err(CommandError::Malformed("unknown kind")),
        };
        Ok(Self { term, time_ms, command })
    }
}

fn postcard<T: Serialize>(command: &T) -> Vec<u8> {
    postcard::to_allocvec(command).expect("commands always encode")
}

fn from_postcard<T: DeserializeOwned>(body: &[u8]) -> Result<T, CommandError> {
    postcard::from_bytes(body).map_err(|_| CommandError::Malformed("the command does not decode"))
}
