//! The tables compared with Kafka's own, and the source of each value.

use std::collections::BTreeSet;

use ropewalk_batch::{Compression, Target, TimestampType};
use ropewalk_shard::limits::BATCH_BYTES_MAX;

use super::describe::{Row, Source};
use super::key::Update;
use super::topic::TopicConfig;
use super::*;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    try_settings(pairs).expect("the settings are valid")
}

fn try_settings(pairs: &[(&str, &str)]) -> Result<Settings, Vec<Invalid>> {
    Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

fn wrong(pairs: &[(&str, &str)]) -> String {
    let all = try_settings(pairs).expect_err("the settings are wrong");
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn row<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|row| row.name == name).expect("the key is described")
}

/// Sets what the catalog would set after AlterConfigs.
fn alter(settings: &Settings, resource: ConfigResource, key: &str, value: &str) {
    let mut catalog = Catalog::default();
    catalog.configs.entry(resource).or_default().insert(key.into(), value.into());
    settings.set_dynamic(&catalog);
}

#[test]
fn every_key_of_kafka_is_known_once_and_its_default_is_allowed() {
    let mut names = BTreeSet::new();
    for key in broker::all() {
        assert!(names.insert(key.name), "{} is in two tables", key.name);
        if let Some(default) = key.default {
            key.check(default).unwrap_or_else(|reason| panic!("{}: {reason}", key.name));
        }
        assert_eq!(broker::find(key.name).map(|found| found.name), Some(key.name));
    }
    let is_own = |name: &&&str| {
        name.starts_with("ropewalk.") || ["admin.token.file", "format.cluster.id"].contains(name)
    };
    let own = names.iter().filter(is_own);
    assert_eq!(names.len() - own.count(), 360, "as many as Kafka 4.3.1 defines");
    for key in topic::all().chain(group::all()) {
        if let Some(default) = key.default {
            key.check(default).unwrap_or_else(|reason| panic!("{}: {reason}", key.name));
        }
        for synonym in key.synonyms {
            let broker = broker::find(synonym.name).expect("a synonym is a broker's key");
            assert!(
                synonym.factor != 1 || broker.default.is_none_or(|d| Some(d) == key.default),
                "{} and {} disagree",
                key.name,
                broker.name,
            );
        }
    }
    assert_eq!((topic::all().count(), group::all().count()), (34, 17));
}

#[test]
fn d1_no_key_that_relaxes_durability_has_a_meaning() {
    for name in [
        "log.flush.interval.messages",
        "log.flush.interval.ms",
        "log.flush.scheduler.interval.ms",
        "unclean.leader.election.enable",
    ] {
        assert!(broker::find(name).expect("Kafka knows it").ignored, "{name}");
    }
    assert!(topic::find("flush.messages").expect("Kafka knows it").ignored);
    assert!(topic::find("flush.ms").expect("Kafka knows it").ignored);
}

#[test]
fn an_unknown_key_names_its_nearest_neighbour() {
    assert_eq!(
        wrong(&[("log.retention.hour", "1")]),
        "Unknown broker config name: log.retention.hour (did you mean log.retention.hours?)"
    );
    assert_eq!(wrong(&[("zzz", "1")]), "Unknown broker config name: zzz");
    assert_eq!(
        topic::validate("retention.mss", "1"),
        Err("Unknown topic config name: retention.mss (did you mean retention.ms?)".into())
    );
}

#[test]
fn every_bad_value_is_reported_with_field_value_and_reason() {
    assert_eq!(
        wrong(&[("num.partitions", "0"), ("message.max.bytes", "many")]),
        "Invalid value many for configuration message.max.bytes: Not a number of type INT\n\
         Invalid value 0 for configuration num.partitions: Value must be at least 1"
    );
    let refused = [
        ("cleanup.policy", "delete,shred"),
        ("compression.gzip.level", "0"),
        ("compression.type", "brotli"),
        ("max.message.bytes", "2147483648"),
        ("message.timestamp.type", "createtime"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("min.insync.replicas", "3"),
        ("preallocate", "yes"),
        ("remote.storage.enable", "yes"),
        ("retention.ms", "-2"),
        ("segment.bytes", "1024"),
    ];
    for (key, value) in refused {
        let reason = topic::validate(key, value).expect_err(key);
        assert!(reason.starts_with(&format!("Invalid value {value} for configuration {key}: ")));
    }
    for (key, value) in [
        ("cleanup.policy", ""),
        ("cleanup.policy", "compact, delete"),
        ("compression.gzip.level", "-1"),
        ("retention.ms", " -1 "),
        ("remote.storage.enable", "false"),
    ] {
        topic::validate(key, value).expect(key);
    }
}

#[test]
fn a_key_of_a_topic_or_a_group_names_the_brokers_and_the_other_way_round() {
    for (key, expected) in [
        ("retention.ms", "it is a key of a topic; here it is log.retention.ms"),
        ("max.message.bytes", "it is a key of a topic; here it is message.max.bytes"),
        ("remote.storage.enable", "it is a key of a topic)"),
        (
            "consumer.session.timeout.ms",
            "it is a key of a group; here it is group.consumer.session.timeout.ms",
        ),
    ] {
        let said = wrong(&[(key, "1")]);
        assert!(said.starts_with(&format!("Unknown broker config name: {key} (")), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    // Every key of a topic, not only some.
    for key in topic::all().filter(|key| broker::find(key.name).is_none()) {
        let said = wrong(&[(key.name, "1")]);
        assert!(said.contains("it is a key of a topic"), "{said}");
        assert!(key.synonyms.iter().take(1).all(|synonym| said.contains(synonym.name)), "{said}");
    }
    assert_eq!(
        topic::validate("log.retention.hours", "1"),
        Err("Unknown topic config name: log.retention.hours (it is a key of a broker; here it is retention.ms)".into())
    );
    let group = validate_group("group.consumer.session.timeout.ms", "1").expect_err("a broker's");
    assert!(group.to_string().ends_with("here it is consumer.session.timeout.ms)"), "{group}");
}

#[test]
fn r1_a_value_has_a_bound_that_it_names() {
    assert_eq!(
        wrong(&[("num.partitions", "99999999")]),
        "Invalid value 99999999 for configuration num.partitions: Value must be no more than 10000"
    );
    // A value that was set before the bound existed still counts, up to the bound.
    let large = (BATCH_BYTES_MAX + 1).to_string();
    for (value, expected) in [(large.as_str(), BATCH_BYTES_MAX), ("-1", 1_048_588)] {
        let config = TopicConfig::resolve(&settings(&[]), [("max.message.bytes", value)]);
        assert_eq!(config.message_bytes_max, expected, "{value}");
    }
    let long = ",".repeat(limits::CONFIG_VALUE_BYTES_MAX + 1);
    let said = topic::validate("cleanup.policy", &long).expect_err("too long");
    assert!(said.contains("of 32768 bytes") && said.contains("no more than 32767 bytes"), "{said}");
    assert!(validate_group("share.auto.offset.reset", &long).is_err());
    assert!(validate_broker("log.cleanup.policy", &long).is_err());
}

#[test]
fn keys_without_meaning_are_accepted_and_reported() {
    let set = settings(&[
        ("num.io.threads", "8"),
        ("offsets.topic.replication.factor", "1"),
        ("listener.name.internal.ssl.keystore.location", "/k"),
        ("num.partitions", "3"),
    ]);
    assert_eq!(
        set.ignored(),
        [
            "listener.name.internal.ssl.keystore.location",
            "num.io.threads",
            "offsets.topic.replication.factor"
        ]
    );
    assert_eq!(wrong(&[("num.io.threads", "x")]).lines().count(), 1, "but their type is checked");
}

#[test]
fn a_topic_inherits_from_the_broker_and_units_are_converted() {
    let set = settings(&[("log.retention.hours", "2"), ("message.max.bytes", "5000")]);
    let config = TopicConfig::resolve(&set, [("max.message.bytes", "9000")]);
    assert_eq!(config.retention_ms, Some(7_200_000));
    assert_eq!(config.message_bytes_max, 9000);
    assert_eq!(TopicConfig::resolve(&set, []).message_bytes_max, 5000);

    let set = settings(&[("log.retention.hours", "2"), ("log.retention.minutes", "5")]);
    assert_eq!(TopicConfig::resolve(&set, []).retention_ms, Some(300_000));
    let set = settings(&[("log.retention.hours", "-1")]);
    assert_eq!(TopicConfig::resolve(&set, []).retention_ms, None);

    alter(&set, ConfigResource::Broker(None), "log.retention.ms", "1000");
    assert_eq!(TopicConfig::resolve(&set, []).retention_ms, Some(1000));
}

#[test]
fn no_topic_may_have_batches_that_fit_no_entry_of_the_log() {
    let most = BATCH_BYTES_MAX.to_string();
    topic::validate("max.message.bytes", &most).expect("it fits an entry");
    let over = (BATCH_BYTES_MAX + 1).to_string();
    let why = topic::validate("max.message.bytes", &over).expect_err("it does not");
    assert!(
        why.contains(&most) && why.contains(&over) && why.contains("max.message.bytes"),
        "{why}"
    );
    let why = wrong(&[("message.max.bytes", &over)]);
    assert!(why.contains(&most) && why.contains("message.max.bytes"), "{why}");
}

#[test]
fn a_topic_config_is_typed() {
    let set = settings(&[]);
    let config = TopicConfig::resolve(
        &set,
        [
            ("cleanup.policy", "compact,delete"),
            ("compression.type", "zstd"),
            ("compression.zstd.level", "7"),
            ("message.timestamp.type", "LogAppendTime"),
        ],
    );
    assert!(config.compacts() && config.deletes() && config.stamps_append_time());
    assert_eq!(config.compression, Target::Codec(Compression::Zstd, 7));
    let rules = config.rules(true);
    assert_eq!((rules.compacted, rules.timestamp), (true, TimestampType::LogAppendTime));
    assert_eq!(rules.size_bytes_max, 1_048_588);

    let neither = TopicConfig::resolve(&set, [("cleanup.policy", "")]);
    assert!(!neither.deletes() && !neither.compacts());
    assert_eq!(TopicConfig::resolve(&set, []).compression, Target::Producer);
}

#[test]
fn describe_shows_where_a_value_comes_from() {
    let set = settings(&[("log.segment.bytes", "2097152"), ("node.id", "4")]);
    alter(&set, ConfigResource::Broker(Some(BrokerId(4))), "log.segment.bytes", "4194304");

    let rows = describe::topic(&set, &[("segment.bytes".into(), "8388608".into())]);
    let segment = row(&rows, "segment.bytes");
    assert_eq!((segment.value.as_deref(), segment.source), (Some("8388608"), Source::Topic));
    let found: Vec<_> = segment
        .synonyms
        .iter()
        .map(|found| (found.name, found.value.as_deref().unwrap_or(""), found.source.code()))
        .collect();
    assert_eq!(
        found,
        [
            ("segment.bytes", "8388608", 1),
            ("log.segment.bytes", "4194304", 2),
            ("log.segment.bytes", "2097152", 4),
            ("log.segment.bytes", "1073741824", 5),
        ]
    );
    let retention = row(&rows, "retention.ms");
    assert_eq!(retention.value.as_deref(), Some("604800000"));
    assert_eq!(retention.source, Source::Default);
    assert!(rows.iter().all(|row| row.name != "internal.segment.bytes"), "hidden, as Kafka does");

    let rows = describe::broker(&set);
    let segment = row(&rows, "log.segment.bytes");
    assert_eq!((segment.source, segment.read_only), (Source::Broker, false));
    assert!(row(&rows, "num.partitions").read_only);
    assert_eq!(row(&rows, "node.id").value.as_deref(), Some("4"));
}

#[test]
fn secrets_are_never_shown() {
    let set = settings(&[("ssl.keystore.password", "secret")]);
    let rows = describe::broker(&set);
    let password = row(&rows, "ssl.keystore.password");
    assert_eq!((password.value.as_deref(), password.sensitive), (None, true));
    assert!(password.synonyms.iter().all(|found| found.value.is_none()));
}

#[test]
fn what_is_set_for_all_brokers_is_described_alone() {
    let set = settings(&[]);
    alter(&set, ConfigResource::Broker(None), "message.max.bytes", "77");
    let rows = describe::all_brokers(&set);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].value.as_deref(), rows[0].source), (Some("77"), Source::AllBrokers));
    alter(&set, ConfigResource::Group("g".into()), "share.isolation.level", "read_committed");
    let rows = describe::group(&set, "g");
    let level = row(&rows, "share.isolation.level");
    assert_eq!((level.value.as_deref(), level.source), (Some("read_committed"), Source::Group));
}

#[test]
fn only_dynamic_keys_change_at_run_time() {
    validate_broker("message.max.bytes", "5").expect("dynamic");
    assert_eq!(
        validate_broker("num.partitions", "5"),
        Err(Invalid::ReadOnly { key: "num.partitions".into() })
    );
    let dynamic = broker::all().filter(|key| key.update != Update::ReadOnly).count();
    assert!(dynamic > 80, "{dynamic}");
    validate_group("consumer.session.timeout.ms", "50000").expect("known");
    validate_group("session.timeout", "1").expect_err("unknown");
}

#[test]
fn listeners_are_read_as_kafka_writes_them() {
    let set = settings(&[
        ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093,INSIDE://[::1]:0"),
        ("controller.listener.names", "CONTROLLER"),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT"),
        ("advertised.listeners", "PLAINTEXT://broker.example:9092"),
    ]);
    let listeners = set.listeners().expect("valid");
    let names: Vec<_> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["PLAINTEXT", "INSIDE"]);
    assert!(listeners[0].endpoint.is_wildcard());
    assert_eq!(listeners[1].endpoint, Endpoint { host: "::1".into(), port: 0 });
    assert_eq!(set.advertised().expect("valid")[0].endpoint.host, "broker.example");

    for text in ["[::1]:9092", ":0", "a.example:65535"] {
        assert_eq!(Endpoint::parse(text).expect("valid").to_string(), text);
    }
    for (key, value) in [
        ("listeners", "SSL://:9092"),
        ("listeners", "PLAINTEXT:9092"),
        ("listeners", "PLAINTEXT://:a"),
        ("listeners", "A://:1,A://:2"),
        ("listeners", ""),
        ("advertised.listeners", "PLAINTEXT://0.0.0.0:9092"),
        ("log.dirs", "/a,/b"),
    ] {
        assert!(wrong(&[(key, value)]).contains(key), "{key}={value}");
    }
}

#[test]
fn bounds_that_kafka_leaves_open_are_ours() {
    let set = settings(&[]);
    assert_eq!(set.connections_max(), limits::CONNECTIONS_MAX);
    assert_eq!(set.request_bytes_max(), limits::REQUEST_BYTES_MAX);
    assert_eq!(settings(&[("queued.max.request.bytes", "9")]).request_bytes_max(), 9);
    assert_eq!((set.node_id(), settings(&[("broker.id", "7")]).node_id()), (1, 7));
}
