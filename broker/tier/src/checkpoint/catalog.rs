//! What a checkpoint has of the catalog.

use uuid::Uuid;

use super::{WHAT, put_count, put_optional, put_text};
use crate::format::{Fields, FormatError};

/// Fewest bytes of a topic.
const TOPIC_BYTES_MIN: usize = 16 + 4 + 8 + 1 + 4 + 4;
const HOME_BYTES: usize = 4 + 4;
/// Fewest bytes of a key and its value.
const CONFIG_BYTES_MIN: usize = 4 + 4;
/// Fewest bytes of the configuration of a resource.
const CONFIGS_BYTES_MIN: usize = 1 + 4;

/// Keys and values that users have set, ascending by key.
pub type Configs = Vec<(String, String)>;

/// The catalog: which topics there are, and how they are configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogCheckpoint {
    /// Number of shards beside the catalog.
    pub shards: u32,
    /// The next producer id to allocate.
    pub next_producer_id: i64,
    /// All topics, ascending by id.
    pub topics: Vec<TopicCheckpoint>,
    /// Configuration of other resources than topics.
    pub configs: Vec<(ConfigsOf, Configs)>,
    /// Ids of topics that were deleted, ascending. Their objects are being deleted.
    pub deleted: Vec<Uuid>,
}

/// A topic of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCheckpoint {
    /// Id of the topic.
    pub id: Uuid,
    /// The topic's name.
    pub name: String,
    /// When it was created, Unix milliseconds.
    pub created_ms: i64,
    /// The uid of the object that declared it.
    pub owner: Option<String>,
    /// What was set for this topic.
    pub configs: Configs,
    /// The shard of each partition, by index.
    pub partitions: Vec<PartitionHome>,
}

/// The shard that holds a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionHome {
    /// Number of the shard.
    pub shard: u32,
    /// What is added to the shard's term to give the leader epoch.
    pub epoch_base: i32,
}

/// What a configuration belongs to, other than a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigsOf {
    /// All brokers together.
    AllBrokers,
    /// The broker with this id.
    Broker(i32),
    /// The consumer group with this id.
    Group(String),
}

impl CatalogCheckpoint {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Self { shards, next_producer_id, topics, configs, deleted } = self;
        out.extend(shards.to_le_bytes());
        out.extend(next_producer_id.to_le_bytes());
        put_count(out, topics.len());
        topics.iter().for_each(|topic| topic.encode(out));
        put_count(out, configs.len());
        for (of, configs) in configs {
            match of {
                ConfigsOf::AllBrokers => out.push(0),
                ConfigsOf::Broker(id) => {
                    out.push(1);
                    out.extend(id.to_le_bytes());
                }
                ConfigsOf::Group(group) => {
                    out.push(2);
                    put_text(out, group);
                }
            }
            put_configs(out, configs);
        }
        put_count(out, deleted.len());
        deleted.iter().for_each(|id| out.extend(id.as_bytes()));
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            shards: fields.u32()?,
            next_producer_id: fields.i64()?,
            topics: fields.list(TOPIC_BYTES_MIN, TopicCheckpoint::decode)?,
            configs: fields.list(CONFIGS_BYTES_MIN, |fields| {
                let of = match fields.u8()? {
                    0 => ConfigsOf::AllBrokers,
                    1 => ConfigsOf::Broker(fields.i32()?),
                    2 => ConfigsOf::Group(fields.text()?),
                    kind => {
                        let why = format!("the kind of a configuration is {kind}");
                        return Err(FormatError::invalid(WHAT, why));
                    }
                };
                Ok((of, take_configs(fields)?))
            })?,
            deleted: fields.list(16, Fields::uuid)?,
        })
    }
}

impl TopicCheckpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { id, name, created_ms, owner, configs, partitions } = self;
        out.extend(id.as_bytes());
        put_text(out, name);
        out.extend(created_ms.to_le_bytes());
        put_optional(out, owner.as_deref(), put_text);
        put_configs(out, configs);
        put_count(out, partitions.len());
        for PartitionHome { shard, epoch_base } in partitions {
            out.extend(shard.to_le_bytes());
            out.extend(epoch_base.to_le_bytes());
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            id: fields.uuid()?,
            name: fields.text()?,
            created_ms: fields.i64()?,
            owner: fields.optional(Fields::text)?,
            configs: take_configs(fields)?,
            partitions: fields.list(HOME_BYTES, |fields| {
                Ok(PartitionHome { shard: fields.u32()?, epoch_base: fields.i32()? })
            })?,
        })
    }
}

fn put_configs(out: &mut Vec<u8>, configs: &Configs) {
    put_count(out, configs.len());
    for (key, value) in configs {
        put_text(out, key);
        put_text(out, value);
    }
}

fn take_configs(fields: &mut Fields<'_>) -> Result<Configs, FormatError> {
    fields.list(CONFIG_BYTES_MIN, |fields| Ok((fields.text()?, fields.text()?)))
}
