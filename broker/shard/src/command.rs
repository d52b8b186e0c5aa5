//! Commands: what a Raft entry asks of a shard's state machine, and how it is written down.
//!
//! An entry is an [`Envelope`]: the term it was proposed in, the leader's clock at that moment,
//! and the command. `apply` refuses an entry whose term is not the one it was proposed in, and
//! takes the time from here, so that every replica computes the same.
//!
//! # Format
//!
//! `[format u8][kind u8: 0 append, 1 shard, 2 catalog][term u64 LE][time_ms i64 LE]`, then for an append
//! `[count u32]`, per batch `[partition 20 bytes][length u32]`, then the batches end to end; for
//! any other command its postcard encoding. Variants are only ever added at the end under a new format
//! number: entries outlive the broker that wrote them. Format 2 is format 1 with the commands of a
//! topic's owner, format 3 is format 2 with the expiry of producers that were silent since a given
//! time. An entry carries the lowest number that can express it, so that an older broker refuses only
//! what it really does not know.

use std::ops::RangeInclusive;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::id::{BrokerId, PartitionId, ShardId, TopicId};

/// The formats this broker knows.
const FORMATS: RangeInclusive<u8> = 1..=3;
const KIND_APPEND: u8 = 0;
const KIND_SHARD: u8 = 1;
const KIND_CATALOG: u8 = 2;
const HEAD_LEN: usize = 18;
const ITEM_LEN: usize = PartitionId::LEN + 4;

/// A command with the circumstances of its proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The leader's term when it proposed.
    pub term: u64,
    /// The leader's wall clock when it proposed, Unix milliseconds.
    pub time_ms: i64,
    /// What to do.
    pub command: Command,
}

/// One batch for one partition, as the client sent it and the door checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Where it goes.
    pub partition: PartitionId,
    /// A whole record batch; its first 16 bytes are not believed. It owns its memory: the tail
    /// keeps it, and what the tail counts is what is allocated (R1).
    pub batch: Bytes,
}

/// What a replicated state machine can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Record batches of several partitions.
    Append(Vec<Append>),
    /// Anything else that concerns the partitions and groups of one shard.
    Shard(ShardCommand),
    /// The catalog's own.
    Catalog(CatalogCommand),
}

/// What a shard can be asked beside appending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// These partitions live here from now on. Repeating it changes nothing.
    OpenPartitions(Vec<OpenPartition>),
    /// These partitions are gone, with their records.
    ClosePartitions(Vec<PartitionId>),
    /// Records below these offsets are gone (retention, `DeleteRecords`). Never moves back.
    AdvanceLogStart(Vec<(PartitionId, i64)>),
    /// Producers that have been silent too long, by partition. Only read: it forgets also one that has
    /// written since it was found silent. See [`ShardCommand::ExpireSilentProducers`].
    ExpireProducers(Vec<(PartitionId, i64)>),
    /// A consumer group's offsets.
    CommitOffsets(CommitOffsets),
    /// Forget offsets of a group (`OffsetDelete`).
    DeleteOffsets {
        /// The group.
        group: String,
        /// What to forget.
        partitions: Vec<PartitionId>,
    },
    /// A completed generation of a classic group; an empty member list empties the group.
    SetGeneration(SetGeneration),
    /// A group and its offsets are gone. Refused while it has members.
    DeleteGroup {
        /// The group.
        group: String,
    },
    /// Topics were deleted: their committed offsets go too.
    ForgetTopics(Vec<TopicId>),
    /// Offsets that grew old go, unless they were committed again in between; and a group that has
    /// neither members nor offsets after that goes with them.
    ExpireOffsets {
        /// The group.
        group: String,
        /// What goes, and the time of the commit that grew old.
        offsets: Vec<(PartitionId, i64)>,
    },
    /// Where a bound group begins, in those of the partitions for which it has committed nothing:
    /// what a member committed meanwhile stands. Since format 2.
    StartOffsets {
        /// The group.
        group: String,
        /// The next offset to read, by partition.
        offsets: Vec<(PartitionId, i64)>,
    },
    /// Producers that are to be forgotten, unless they have written since (D5). Since format 3.
    ExpireSilentProducers(Vec<SilentProducer>),
}

/// A producer as it was when it was found silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentProducer {
    /// Where it wrote.
    pub partition: PartitionId,
    /// Its id.
    pub producer_id: i64,
    /// The time of its last batch then, Unix milliseconds.
    pub seen_ms: i64,
}

/// A partition comes to live in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPartition {
    /// Which.
    pub partition: PartitionId,
    /// Added to the shard's term to give the leader epoch, so that a move never lowers it.
    pub epoch_base: i32,
}

/// Offsets of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOffsets {
    /// The group.
    pub group: String,
    /// Who commits; `None` for a consumer without membership (generation -1) or the broker.
    pub member: Option<MemberClaim>,
    /// What is committed.
    pub offsets: Vec<(PartitionId, OffsetCommit)>,
}

/// What a member says of itself. Checked in `apply` against the generation that is there (O3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberClaim {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation it believes in.
    pub generation: i32,
}

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// The client's own note, ≤ `offset.metadata.max.bytes`.
    pub metadata: String,
    /// Unix milliseconds after which the offset is forgotten, where the client set it itself
    /// (OffsetCommit v2 to v4).
    pub expires_ms: Option<i64>,
}

/// A completed generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetGeneration {
    /// The group.
    pub group: String,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The chosen assignor; `None` for an empty group.
    pub protocol: Option<String>,
    /// The member that made the assignment.
    pub leader: Option<String>,
    /// Everyone in it.
    pub members: Vec<Member>,
}

/// One member of a completed generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The client's own name.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// How long it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Every protocol it supports with its subscription.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// What the catalog can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogCommand {
    /// New topics, each accepted or refused by itself.
    CreateTopics(Vec<NewTopic>),
    /// Topics go.
    DeleteTopics(Vec<TopicId>),
    /// More partitions for a topic. Refused when the count before is not `expected`.
    AddPartitions {
        /// The topic.
        topic: TopicId,
        /// How many there are now.
        expected: usize,
        /// Where the new ones live.
        partitions: Vec<PartitionHome>,
    },
    /// Set (`Some`) or clear (`None`) configuration keys of a resource.
    AlterConfigs {
        /// Whose.
        resource: ConfigResource,
        /// Key and new value.
        changes: Vec<(String, Option<String>)>,
    },
    /// Hands out a block of producer ids.
    AllocateProducerIds {
        /// How many.
        count: i64,
    },
    /// Who may delete the topic from outside: the uid of the object that declared it.
    SetOwner {
        /// The topic.
        topic: TopicId,
        /// The owner; `None` gives it up.
        owner: Option<String>,
    },
    /// An operator won its election: mint the next fencing epoch.
    ClaimFence {
        /// Who holds it.
        holder: String,
        /// The uid of the Lease it won.
        lease_uid: String,
    },
    /// A command of an operator: refused when a newer epoch was claimed than it acts under. Since
    /// format 2, like all below.
    Fenced {
        /// The epoch it acts under.
        epoch: u64,
        /// What it wants.
        command: Box<CatalogCommand>,
    },
    /// A topic as its owner wants it: made, adopted if nobody owns it, or put right.
    DeclareTopic {
        /// All of it. Partitions are only ever added; configuration that is not named is cleared.
        topic: NewTopic,
        /// Whether the proposer knows the topic, under this id. Refused when that is not so.
        exists: bool,
    },
    /// The owner gives its topic up. One that nobody owns is never deleted by this.
    ReleaseTopic {
        /// The topic.
        topic: TopicId,
        /// Who gives it up.
        owner: String,
        /// Whether its records go too.
        delete: bool,
    },
    /// A group is to read every record of the topic, from `start` on.
    BindGroup {
        /// The topic.
        topic: TopicId,
        /// The topic's owner.
        owner: String,
        /// The group.
        group: String,
        /// Where it begins.
        start: StartPosition,
    },
    /// The group is no longer bound; what it committed stays until it grows old.
    UnbindGroup {
        /// The topic.
        topic: TopicId,
        /// The topic's owner.
        owner: String,
        /// The group.
        group: String,
    },
}

/// Where a bound group begins to read the partitions that are there when it is bound. In those that
/// come later it begins at their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartPosition {
    /// With the first record that is left.
    Earliest,
    /// With the next record that comes.
    Latest,
}

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// Its identity, drawn by the proposer.
    pub id: TopicId,
    /// Its name, already checked for form.
    pub name: String,
    /// Where each partition lives.
    pub partitions: Vec<PartitionHome>,
    /// Configuration, already checked.
    pub configs: Vec<(String, String)>,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
}

/// The shard a partition lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionHome {
    /// The shard.
    pub shard: ShardId,
    /// See [`OpenPartition::epoch_base`].
    pub epoch_base: i32,
}

/// What configuration belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigResource {
    /// A topic.
    Topic(TopicId),
    /// One broker, or all of them (`None`).
    Broker(Option<BrokerId>),
    /// A consumer group.
    Group(String),
}

/// Why bytes are not an entry of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    /// Cut short, or lengths that do not add up.
    #[error("the entry is malformed: {0}")]
    Malformed(&'static str),
    /// Written by a broker newer than this one.
    #[error("entry format {0} is unknown to this broker (it knows {FORMATS:?})")]
    Format(u8),
}

/// Writes an entry down, in one allocation when it carries batches.
#[must_use]
pub fn encode(term: u64, time_ms: i64, command: &Command) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(command));
    out.put_u8(format_of(command));
    out.put_u8(match command {
        Command::Append(_) => KIND_APPEND,
        Command::Shard(_) => KIND_SHARD,
        Command::Catalog(_) => KIND_CATALOG,
    });
    out.put_u64_le(term);
    out.put_i64_le(time_ms);
    match command {
        Command::Append(items) => {
            out.put_u32_le(u32::try_from(items.len()).expect("an entry is bounded"));
            for item in items {
                out.put_slice(&item.partition.to_bytes());
                out.put_u32_le(u32::try_from(item.batch.len()).expect("a batch is bounded"));
            }
            for item in items {
                out.put_slice(&item.batch);
            }
        }
        Command::Shard(command) => out.put_slice(&postcard(command)),
        Command::Catalog(command) => out.put_slice(&postcard(command)),
    }
    out.freeze()
}

/// The lowest format that can express a command.
fn format_of(command: &Command) -> u8 {
    match command {
        Command::Shard(ShardCommand::ExpireSilentProducers(_)) => 3,
        Command::Shard(ShardCommand::StartOffsets { .. })
        | Command::Catalog(
            CatalogCommand::Fenced { .. }
            | CatalogCommand::DeclareTopic { .. }
            | CatalogCommand::ReleaseTopic { .. }
            | CatalogCommand::BindGroup { .. }
            | CatalogCommand::UnbindGroup { .. },
        ) => 2,
        Command::Append(_) | Command::Shard(_) | Command::Catalog(_) => 1,
    }
}

/// What a batch takes in an entry, bytes.
pub(crate) fn item_len(item: &Append) -> usize {
    ITEM_LEN + item.batch.len()
}

/// Exact for batches, an estimate for anything else.
fn encoded_len(command: &Command) -> usize {
    match command {
        Command::Append(items) => HEAD_LEN + 4 + items.iter().map(item_len).sum::<usize>(),
        Command::Shard(_) | Command::Catalog(_) => 256,
    }
}

impl Envelope {
    /// Reads an entry. The batches are copied, so that one small batch in a tail never keeps an
    /// entry of many partitions alive.
    ///
    /// # Errors
    /// When the bytes are not an entry of a format this broker knows.
    pub fn decode(data: &Bytes) -> Result<Self, CommandError> {
        if data.len() < HEAD_LEN {
            return Err(CommandError::Malformed("shorter than its head"));
        }
        if !FORMATS.contains(&data[0]) {
            return Err(CommandError::Format(data[0]));
        }
        let term = u64::from_le_bytes(data[2..10].try_into().expect("8 bytes"));
        let time_ms = i64::from_le_bytes(data[10..18].try_into().expect("8 bytes"));
        let body = data.slice(HEAD_LEN..);
        let command = match data[1] {
            KIND_APPEND => Command::Append(decode_appends(&body)?),
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

fn decode_appends(body: &Bytes) -> Result<Vec<Append>, CommandError> {
    const CUT: CommandError = CommandError::Malformed("the table of batches is cut short");
    let count = body.get(..4).ok_or(CUT)?;
    let count = u32::from_le_bytes(count.try_into().expect("4 bytes")) as usize;
    let table = body.get(4..).ok_or(CUT)?;
    if count > table.len() / ITEM_LEN {
        return Err(CUT);
    }
    let mut at = 4 + count * ITEM_LEN;
    let mut items = Vec::with_capacity(count);
    for item in table.chunks_exact(ITEM_LEN).take(count) {
        let partition = item[..PartitionId::LEN].try_into().expect("20 bytes");
        let length = item[PartitionId::LEN..].try_into().expect("4 bytes");
        let end = at + u32::from_le_bytes(length) as usize;
        if end > body.len() {
            return Err(CommandError::Malformed("a batch runs past the end"));
        }
        items.push(Append {
            partition: PartitionId::from_bytes(partition),
            batch: Bytes::copy_from_slice(&body[at..end]),
        });
        at = end;
    }
    if at != body.len() {
        return Err(CommandError::Malformed("bytes after the last batch"));
    }
    Ok(items)
}
