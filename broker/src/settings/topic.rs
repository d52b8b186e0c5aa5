//! Configuration of a topic: its keys, and the typed form that the broker uses.
//!
//! A value comes from the topic itself, else from the broker's key of the same meaning (set at run
//! time for this broker, for all brokers, or in the file), else it is the default.

use ropewalk_batch::{Compression, Rules, Target, TimestampType};
use ropewalk_segment::SegmentConfig;
use ropewalk_segment::retention::Retention;
use ropewalk_shard::limits::BATCH_BYTES_MAX;

use super::broker::{CLEANUP_POLICIES, COMPRESSIONS, TIMESTAMP_TYPES};
use super::key::{Key, Kind, Synonym, Update, Valid, list};
use super::{Invalid, Settings, broker};
use crate::limits;

mod tier;

pub use tier::{TierConfig, TierPolicy};

const LONG_MAX: &str = "9223372036854775807";
const HOUR_MS: i64 = 3_600_000;

/// A majority of the most replicas that a cluster keeps. Handlers also check that it is at most a
/// majority of those that the cluster keeps now.
const INSYNC_REPLICAS_MAX: i64 = 2;

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key::new(name, kind, Some(default)).update(Update::ClusterWide)
}

macro_rules! synonym {
    ($name:literal) => {
        &[Synonym { name: $name, factor: 1 }]
    };
}

static KEYS: &[Key] = &[
    key("cleanup.policy", Kind::List, "delete")
        .valid(Valid::OneOf(CLEANUP_POLICIES))
        .synonyms(synonym!("log.cleanup.policy"))
        .doc(
            "delete removes old records, compact all but the last record of each key; empty: neither.",
        ),
    key("compression.gzip.level", Kind::Int, "-1")
        .valid(Valid::BetweenOr(1, 9, -1))
        .synonyms(synonym!("compression.gzip.level"))
        .doc("The level of gzip when batches are recompressed."),
    key("compression.lz4.level", Kind::Int, "9")
        .valid(Valid::Between(1, 17))
        .synonyms(synonym!("compression.lz4.level"))
        .doc("The level of lz4 when batches are recompressed."),
    key("compression.type", Kind::String, "producer")
        .valid(Valid::OneOf(COMPRESSIONS))
        .synonyms(synonym!("compression.type"))
        .doc("The compression of stored batches; producer keeps the producer's."),
    key("compression.zstd.level", Kind::Int, "3")
        .valid(Valid::Between(-131_072, 22))
        .synonyms(synonym!("compression.zstd.level"))
        .doc("The level of zstd when batches are recompressed."),
    key("delete.retention.ms", Kind::Long, "86400000")
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.cleaner.delete.retention.ms"))
        .doc("How long compaction keeps tombstones."),
    key("file.delete.delay.ms", Kind::Long, "60000")
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.segment.delete.delay.ms"))
        .ignored(),
    key("flush.messages", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(1))
        .synonyms(synonym!("log.flush.interval.messages"))
        .ignored(),
    key("flush.ms", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(0))
        .synonyms(&[
            Synonym { name: "log.flush.interval.ms", factor: 1 },
            Synonym { name: "log.flush.scheduler.interval.ms", factor: 1 },
        ])
        .ignored(),
    key("follower.replication.throttled.replicas", Kind::List, "").ignored(),
    key("index.interval.bytes", Kind::Int, "4096")
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.index.interval.bytes"))
        .doc("Bytes of batches per entry of a segment's index."),
    Key::new("internal.segment.bytes", Kind::Int, None)
        .update(Update::ClusterWide)
        .ignored()
        .internal(),
    key("leader.replication.throttled.replicas", Kind::List, "").ignored(),
    key("local.retention.bytes", Kind::Long, "-2")
        .valid(Valid::AtLeast(-2))
        .synonyms(synonym!("log.local.retention.bytes"))
        .doc("How many bytes of a partition brokers keep of what is in the bucket; -1 is no limit, -2 as retention.bytes."),
    key("local.retention.ms", Kind::Long, "-2")
        .valid(Valid::AtLeast(-2))
        .synonyms(synonym!("log.local.retention.ms"))
        .doc("How long brokers keep records that are in the bucket; -1 is no limit, -2 as retention.ms."),
    key("max.compaction.lag.ms", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(1))
        .synonyms(synonym!("log.cleaner.max.compaction.lag.ms"))
        .doc("The longest delay of compaction."),
    key("max.message.bytes", Kind::Int, "1048588")
        .valid(Valid::Between(0, BATCH_BYTES_MAX as i64))
        .synonyms(synonym!("message.max.bytes"))
        .doc("The largest record batch in its stored form, bytes."),
    key("message.timestamp.after.max.ms", Kind::Long, "3600000")
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.message.timestamp.after.max.ms"))
        .doc("The largest lead of a producer's timestamp over the broker's clock."),
    key("message.timestamp.before.max.ms", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.message.timestamp.before.max.ms"))
        .doc("The largest age of a producer's timestamp."),
    key("message.timestamp.type", Kind::String, "CreateTime")
        .valid(Valid::OneOf(TIMESTAMP_TYPES))
        .synonyms(synonym!("log.message.timestamp.type"))
        .doc("The source of record timestamps: the producer or the broker."),
    key("min.cleanable.dirty.ratio", Kind::Double, "0.5")
        .valid(Valid::Fraction)
        .synonyms(synonym!("log.cleaner.min.cleanable.ratio"))
        .doc("The share of a partition not compacted yet at which compaction starts."),
    key("min.compaction.lag.ms", Kind::Long, "0")
        .valid(Valid::AtLeast(0))
        .synonyms(synonym!("log.cleaner.min.compaction.lag.ms"))
        .doc("The age below which a record is not compacted."),
    key("min.insync.replicas", Kind::Int, "1")
        .valid(Valid::Between(1, INSYNC_REPLICAS_MAX))
        .synonyms(synonym!("min.insync.replicas"))
        .doc("Replicas that must have a record before it is acknowledged; a majority always has it."),
    key("preallocate", Kind::Boolean, "false").synonyms(synonym!("log.preallocate")).ignored(),
    key("remote.log.copy.disable", Kind::Boolean, "false")
        .doc("Whether no further records are uploaded; those in the bucket stay until retention removes them."),
    key("remote.log.delete.on.disable", Kind::Boolean, "false")
        .doc("Whether the records in the bucket are removed when remote.storage.enable becomes false."),
    key("remote.storage.enable", Kind::Boolean, "false")
        .doc("Whether older records move to the bucket; not possible for compacted topics."),
    key("retention.bytes", Kind::Long, "-1")
        .synonyms(synonym!("log.retention.bytes"))
        .doc("How many bytes of a partition are kept; -1 is no limit."),
    key("retention.ms", Kind::Long, "604800000")
        .valid(Valid::AtLeast(-1))
        .synonyms(&[
            Synonym { name: "log.retention.ms", factor: 1 },
            Synonym { name: "log.retention.minutes", factor: 60_000 },
            Synonym { name: "log.retention.hours", factor: HOUR_MS },
        ])
        .doc("How long records are kept; -1 is no limit."),
    key("segment.bytes", Kind::Int, "1073741824")
        .valid(Valid::AtLeast(1_048_576))
        .synonyms(synonym!("log.segment.bytes"))
        .doc("The size at which a segment is rolled, bytes."),
    key("segment.index.bytes", Kind::Int, "10485760")
        .valid(Valid::AtLeast(4))
        .synonyms(synonym!("log.index.size.max.bytes"))
        .ignored(),
    key("segment.jitter.ms", Kind::Long, "0")
        .valid(Valid::AtLeast(0))
        .synonyms(&[
            Synonym { name: "log.roll.jitter.ms", factor: 1 },
            Synonym { name: "log.roll.jitter.hours", factor: HOUR_MS },
        ])
        .ignored(),
    key("segment.ms", Kind::Long, "604800000")
        .valid(Valid::AtLeast(1))
        .synonyms(&[
            Synonym { name: "log.roll.ms", factor: 1 },
            Synonym { name: "log.roll.hours", factor: HOUR_MS },
        ])
        .doc("The age at which a segment is rolled."),
    key("unclean.leader.election.enable", Kind::Boolean, "false")
        .synonyms(synonym!("unclean.leader.election.enable"))
        .ignored(),
];

/// Every key of a topic, in the order of names.
pub fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Checks a value of a topic's key.
///
/// # Errors
/// The reason why it is invalid, in words for the client.
pub fn validate(name: &str, value: &str) -> Result<(), String> {
    Invalid::check_length(name, value).map_err(|invalid| invalid.to_string())?;
    let unknown = || match broker::find(name) {
        Some(_) => Invalid::brokers("topic config", name, KEYS),
        None => Invalid::unknown("topic config", name, all()),
    };
    let key = find(name).ok_or_else(|| unknown().to_string())?;
    key.check(value).map_err(|reason| Invalid::value(name, value, reason).to_string())
}

/// A topic's configuration in typed form.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// Whether `cleanup.policy` contains `delete`.
    pub deletes: bool,
    /// Whether `cleanup.policy` contains `compact`.
    pub compacts: bool,
    /// `retention.ms`; `None` is no limit.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; `None` is no limit.
    pub retention_bytes: Option<i64>,
    /// `segment.bytes`, `segment.ms`, `index.interval.bytes`.
    pub segment: SegmentConfig,
    /// The value of `max.message.bytes`.
    pub message_bytes_max: usize,
    /// The value of `message.timestamp.type`.
    pub timestamp: TimestampType,
    /// The value of `message.timestamp.before.max.ms`.
    pub before_ms_max: i64,
    /// The value of `message.timestamp.after.max.ms`.
    pub after_ms_max: i64,
    /// The value of `compression.type` with its level.
    pub compression: Target,
    /// The value of `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// The value of `min.compaction.lag.ms`.
    pub compaction_lag_ms_min: i64,
    /// The value of `max.compaction.lag.ms`.
    pub compaction_lag_ms_max: i64,
    /// The value of `min.cleanable.dirty.ratio`.
    pub dirty_ratio_min: f64,
    /// What of the topic is in the bucket.
    pub tier: TierConfig,
}

impl TopicConfig {
    /// The configuration of a topic with these values of its own, which were validated, as the
    /// broker's were. A value that another release of the broker allowed and this one does not
    /// counts as not set; a number above its bound is replaced by the bound.
    /// above its bound: the bound holds then.
    #[must_use]
    pub fn resolve<'a>(
        settings: &Settings,
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let overrides: Vec<_> = overrides.into_iter().collect();
        let text = |name: &str| {
            let key = find(name).expect("only keys of the table are read");
            let own = overrides.iter().find(|(set, _)| *set == name);
            let is_possible = |value: &&str| key.check(value).is_ok() || key.is_above(value);
            let own = own.map(|(_, value)| *value).filter(is_possible);
            own.map_or_else(|| settings.inherited(key), str::to_owned)
        };
        let number = |name: &str| text(name).trim().parse::<i64>().expect("checked by its type");
        let size = |name: &str| usize::try_from(number(name)).expect("not negative by its range");
        let policy = text("cleanup.policy");
        let is_true = |name: &str| text(name).trim().eq_ignore_ascii_case("true");
        let unless_negative = |number: i64| (number >= 0).then_some(number);
        Self {
            deletes: list(&policy).any(|item| item == "delete"),
            compacts: list(&policy).any(|item| item == "compact"),
            retention_ms: unless_negative(number("retention.ms")),
            retention_bytes: unless_negative(number("retention.bytes")),
            segment: SegmentConfig {
                segment_bytes: size("segment.bytes") as u64,
                segment_ms: number("segment.ms"),
                index_interval_bytes: size("index.interval.bytes") as u32,
            },
            message_bytes_max: size("max.message.bytes").min(BATCH_BYTES_MAX),
            timestamp: match text("message.timestamp.type").trim() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            before_ms_max: number("message.timestamp.before.max.ms"),
            after_ms_max: number("message.timestamp.after.max.ms"),
            compression: target(text("compression.type").trim(), |codec| {
                number(&format!("compression.{codec}.level")) as i32
            }),
            delete_retention_ms: number("delete.retention.ms"),
            compaction_lag_ms_min: number("min.compaction.lag.ms"),
            compaction_lag_ms_max: number("max.compaction.lag.ms"),
            dirty_ratio_min: text("min.cleanable.dirty.ratio").trim().parse().unwrap_or(0.5),
            tier: TierConfig {
                is_enabled: is_true("remote.storage.enable"),
                is_copy_disabled: is_true("remote.log.copy.disable"),
                deletes_on_disable: is_true("remote.log.delete.on.disable"),
                local_retention_ms: number("local.retention.ms"),
                local_retention_bytes: number("local.retention.bytes"),
            },
        }
    }

    /// The requirements that validation checks for a batch.
    #[must_use]
    pub fn rules(&self, zstd_allowed: bool) -> Rules {
        Rules {
            size_bytes_max: self.message_bytes_max,
            compacted: self.compacts,
            timestamp: self.timestamp,
            before_ms_max: self.before_ms_max,
            after_ms_max: self.after_ms_max,
            compression: self.compression,
            zstd_allowed,
            decompressed_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
        }
    }

    /// The retention limits of the topic.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let bytes = self.retention_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        Retention { retention_ms: self.retention_ms, retention_bytes: bytes }
    }

    /// Whether old records are deleted.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.deletes
    }

    /// Whether only the last record of each key is kept.
    #[must_use]
    pub fn compacts(&self) -> bool {
        self.compacts
    }

    /// Whether the broker's clock stamps the records.
    #[must_use]
    pub fn stamps_append_time(&self) -> bool {
        self.timestamp == TimestampType::LogAppendTime
    }
}

fn target(name: &str, level: impl Fn(&str) -> i32) -> Target {
    let codec = match name {
        "gzip" => Compression::Gzip,
        "snappy" => return Target::Codec(Compression::Snappy, 0),
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        "uncompressed" => return Target::Uncompressed,
        _ => return Target::Producer,
    };
    Target::Codec(codec, level(name))
}
