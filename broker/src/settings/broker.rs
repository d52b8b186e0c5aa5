//! The broker's keys that have an effect here.
//!
//! All but the last few are Kafka's, with Kafka's names, types and defaults.

use std::collections::HashMap;
use std::sync::LazyLock;

use ropewalk_shard::limits::BATCH_BYTES_MAX;

use super::key::{Key, Kind, Update, Valid};
use super::{ignored, tier};
use crate::limits;

pub(super) const COMPRESSIONS: &[&str] =
    &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
pub(super) const CLEANUP_POLICIES: &[&str] = &["compact", "delete"];
/// Kafka's own selectors; others are classes that cannot be loaded here.
const REPLICA_SELECTORS: &[&str] =
    &["org.apache.kafka.common.replica.LeaderSelector", RACK_AWARE_SELECTOR];
pub(super) const RACK_AWARE_SELECTOR: &str =
    "org.apache.kafka.common.replica.RackAwareReplicaSelector";
const LONG_MAX: &str = "9223372036854775807";
const INT_MAX: &str = "2147483647";

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key::new(name, kind, Some(default))
}

const fn unset(name: &'static str, kind: Kind) -> Key {
    Key::new(name, kind, None)
}

/// Ordered by name within each group.
static USED: &[Key] = &[
    // Identity and data directory.
    unset("node.id", Kind::Int)
        .valid(Valid::AtLeast(0))
        .doc("This broker's id; 1 if neither this nor broker.id is set."),
    key("broker.id", Kind::Int, "-1").doc("The older name of node.id."),
    unset("broker.rack", Kind::String).doc("The availability zone of this broker."),
    key("log.dir", Kind::String, "/tmp/kafka-logs").doc("The older name of log.dirs."),
    unset("log.dirs", Kind::List)
        .doc("The data directory; exactly one. `run` refuses to start without it."),
    // Listeners.
    key("listeners", Kind::List, "PLAINTEXT://:9092")
        .update(Update::PerBroker)
        .doc("The listeners for Kafka clients, NAME://HOST:PORT; without a host, all addresses."),
    unset("advertised.listeners", Kind::List)
        .doc("The addresses that clients are given, if they differ from listeners."),
    key(
        "listener.security.protocol.map",
        Kind::String,
        "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
    )
    .update(Update::PerBroker)
    .doc("The protocol of each listener; only PLAINTEXT is supported."),
    unset("controller.listener.names", Kind::List)
        .doc("Listeners to ignore: there is no separate controller here."),
    key("connections.max.idle.ms", Kind::Long, "600000")
        .doc("Idle time after which a connection is closed."),
    key("max.connections", Kind::Int, INT_MAX)
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("Most Kafka connections at once, capped by the process's file descriptors."),
    key("max.connections.per.ip", Kind::Int, INT_MAX)
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("Most Kafka connections at once from one address."),
    key("queued.max.request.bytes", Kind::Long, "-1")
        .doc("Bytes of requests in progress, over all connections; -1 is 64 MiB."),
    key("socket.request.max.bytes", Kind::Int, "104857600")
        .valid(Valid::AtLeast(1))
        .doc("The largest request, bytes; a larger one closes its connection."),
    unset("replica.selector.class", Kind::String).valid(Valid::OneOf(REPLICA_SELECTORS)).doc(
        "Which replica a consumer reads: with RackAwareReplicaSelector one in its client.rack (KIP-392), \
         else the leader.",
    ),
    // Topics.
    key("auto.create.topics.enable", Kind::Boolean, "true")
        .doc("Whether a request for a missing topic creates it."),
    key("delete.topic.enable", Kind::Boolean, "true").doc("Whether topics can be deleted."),
    key("num.partitions", Kind::Int, "1")
        .valid(Valid::Between(1, limits::TOPIC_PARTITIONS_MAX as i64))
        .doc("Partitions of a topic that is created without a number."),
    key("min.insync.replicas", Kind::Int, "1")
        .valid(Valid::AtLeast(1))
        .dynamic()
        .doc("Replicas that must have a record before it is acknowledged; a majority always has it."),
    key("message.max.bytes", Kind::Int, "1048588")
        .valid(Valid::Between(0, BATCH_BYTES_MAX as i64))
        .dynamic()
        .doc("The largest record batch in its stored form, bytes."),
    key("compression.type", Kind::String, "producer")
        .valid(Valid::OneOf(COMPRESSIONS))
        .dynamic()
        .doc("The compression of stored batches; producer keeps the producer's."),
    key("compression.gzip.level", Kind::Int, "-1")
        .valid(Valid::BetweenOr(1, 9, -1))
        .dynamic()
        .doc("The level of gzip when batches are recompressed."),
    key("compression.lz4.level", Kind::Int, "9")
        .valid(Valid::Between(1, 17))
        .dynamic()
        .doc("The level of lz4 when batches are recompressed."),
    key("compression.zstd.level", Kind::Int, "3")
        .valid(Valid::Between(-131_072, 22))
        .dynamic()
        .doc("The level of zstd when batches are recompressed."),
    key("log.message.timestamp.type", Kind::String, "CreateTime")
        .valid(Valid::OneOf(TIMESTAMP_TYPES))
        .dynamic()
        .doc("The source of record timestamps: the producer or the broker."),
    key("log.message.timestamp.before.max.ms", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("The largest age of a producer's timestamp."),
    key("log.message.timestamp.after.max.ms", Kind::Long, "3600000")
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("The largest lead of a producer's timestamp over the broker's clock."),
    // Segments, retention, compaction.
    key("log.segment.bytes", Kind::Int, "1073741824")
        .valid(Valid::AtLeast(1_048_576))
        .dynamic()
        .doc("The size at which a segment is rolled, bytes."),
    key("log.roll.hours", Kind::Int, "168")
        .valid(Valid::AtLeast(1))
        .doc("log.roll.ms in hours, if that is not set."),
    unset("log.roll.ms", Kind::Long)
        .dynamic()
        .doc("The age at which a segment is rolled."),
    key("log.index.interval.bytes", Kind::Int, "4096")
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("Bytes of batches per entry of a segment's index."),
    key("log.retention.hours", Kind::Int, "168")
        .doc("log.retention.ms in hours, if neither that nor the minutes are set."),
    unset("log.retention.minutes", Kind::Int)
        .doc("log.retention.ms in minutes, if that is not set."),
    unset("log.retention.ms", Kind::Long).dynamic().doc("How long records are kept; -1 is no limit."),
    key("log.retention.bytes", Kind::Long, "-1")
        .dynamic()
        .doc("How many bytes of a partition are kept; -1 is no limit."),
    key("log.local.retention.ms", Kind::Long, "-2")
        .valid(Valid::AtLeast(-2))
        .dynamic()
        .doc("How long brokers keep records that are in the bucket; -1 is no limit, -2 as long as all."),
    key("log.local.retention.bytes", Kind::Long, "-2")
        .valid(Valid::AtLeast(-2))
        .dynamic()
        .doc(
            "How many bytes of a partition brokers keep of what is in the bucket; -1 is no limit, -2 as many as \
             of all.",
        ),
    key("log.retention.check.interval.ms", Kind::Long, "300000")
        .valid(Valid::AtLeast(1))
        .doc("How often retention is checked."),
    key("log.cleanup.policy", Kind::List, "delete")
        .valid(Valid::OneOf(CLEANUP_POLICIES))
        .dynamic()
        .doc("delete removes old records, compact all but the last record of each key."),
    key("log.cleaner.delete.retention.ms", Kind::Long, "86400000")
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("How long compaction keeps tombstones."),
    key("log.cleaner.min.cleanable.ratio", Kind::Double, "0.5")
        .valid(Valid::Fraction)
        .dynamic()
        .doc("The share of a partition not compacted yet at which compaction starts."),
    key("log.cleaner.min.compaction.lag.ms", Kind::Long, "0")
        .valid(Valid::AtLeast(0))
        .dynamic()
        .doc("The age below which a record is not compacted."),
    key("log.cleaner.max.compaction.lag.ms", Kind::Long, LONG_MAX)
        .valid(Valid::AtLeast(1))
        .dynamic()
        .doc("The longest delay of compaction."),
    // Fetch and groups.
    key("fetch.max.bytes", Kind::Int, "57671680")
        .valid(Valid::AtLeast(1024))
        .doc("The most bytes of records in one fetch, whatever the client requests."),
    key("max.incremental.fetch.session.cache.slots", Kind::Int, "1000")
        .valid(Valid::AtLeast(0))
        .doc("The most fetch sessions. A consumer without one names all its partitions in each fetch."),
    key("max.request.partition.size.limit", Kind::Int, "2000")
        .valid(Valid::AtLeast(1))
        .doc("The most partitions in one page of DescribeTopicPartitions."),
    key("group.initial.rebalance.delay.ms", Kind::Int, "3000")
        .doc("How long the first member of a group waits for others."),
    key("group.min.session.timeout.ms", Kind::Int, "6000")
        .doc("The shortest session timeout of a member."),
    key("group.max.session.timeout.ms", Kind::Int, "1800000")
        .doc("The longest session timeout of a member."),
    key("group.max.size", Kind::Int, INT_MAX)
        .valid(Valid::AtLeast(1))
        .doc("The most members of a group."),
    key("offset.metadata.max.bytes", Kind::Int, "4096")
        .doc(
            "The longest metadata of a committed offset. The offsets of one shard, of which a broker has 24, take at \
             most 32 MiB: 128 bytes and the metadata for each. A commit beyond is refused with \
             INVALID_COMMIT_OFFSET_SIZE.",
        ),
    key("offsets.retention.minutes", Kind::Int, "10080")
        .valid(Valid::AtLeast(1))
        .doc("How long offsets are kept after the last member of their group left."),
    key("offsets.retention.check.interval.ms", Kind::Long, "600000")
        .valid(Valid::AtLeast(1))
        .doc("How often committed offsets are checked for expiry."),
    key("producer.id.expiration.ms", Kind::Int, "86400000")
        .valid(Valid::AtLeast(1))
        .dynamic()
        .doc("How long the state of an inactive idempotent producer is kept."),
    key("producer.id.expiration.check.interval.ms", Kind::Int, "600000")
        .valid(Valid::AtLeast(1))
        .internal()
        .doc("How often producers are checked for expiry; at least once a minute."),
    // Keys of this broker that Kafka does not have.
    key("ropewalk.admin.listener", Kind::String, "127.0.0.1:9644")
        .doc("The address of the admin HTTP server: HOST:PORT."),
    unset("admin.token.file", Kind::String).doc(
        "A file with the token that admin calls with changes must send; without it they are \
         accepted from this machine only.",
    ),
    unset("ropewalk.peer.listener", Kind::String).doc(
        "The UDP address for the other brokers of the cluster, HOST:PORT; files use the next port. Without it \
         this broker is alone.",
    ),
    unset("ropewalk.peer.advertised", Kind::String).doc(
        "The address that the other brokers are given, if it differs from ropewalk.peer.listener: HOST:PORT.",
    ),
    unset("ropewalk.peer.certificate.file", Kind::String).doc(
        "A PEM file with the certificate of this broker, which names it broker-ID.CLUSTER.ropewalk, then \
         intermediate ones. It is read again when it changes.",
    ),
    unset("ropewalk.peer.key.file", Kind::String)
        .doc("A PEM file with the private key of the certificate."),
    unset("ropewalk.peer.ca.file", Kind::String)
        .doc("A PEM file with the certificates of the authorities that the brokers trust."),
    unset("ropewalk.cluster.join", Kind::List).doc(
        "Admin addresses of brokers, HOST:PORT, that an empty data directory asks to join their cluster. \
         Without it an empty one is the first of a new cluster.",
    ),
    unset("format.cluster.id", Kind::String).doc(
        "The cluster id that an empty data directory is formatted with, as with run --format; without it \
         an empty one is refused.",
    ),
];

static BY_NAME: LazyLock<HashMap<&'static str, &'static Key>> =
    LazyLock::new(|| all().map(|key| (key.name, key)).collect());

/// Every key of a broker, including those without effect.
pub fn all() -> impl Iterator<Item = &'static Key> {
    USED.iter().chain(tier::KEYS).chain(ignored::KEYS)
}

/// The key of this name. A name with a listener prefix (`listener.name.X.ssl.…`) is Kafka's
/// spelling of the same key for one listener.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    BY_NAME.get(name).or_else(|| BY_NAME.get(without_listener(name)?)).copied()
}

/// Strips the listener prefix: `listener.name.internal.ssl.keystore.location` becomes
/// `ssl.keystore.location`.
fn without_listener(name: &str) -> Option<&str> {
    let (_, key) = name.strip_prefix("listener.name.")?.split_once('.')?;
    Some(key)
}
