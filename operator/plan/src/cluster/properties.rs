//! The settings file of a broker.
//!
//! Keys are sorted, so that the same settings are the same bytes. What the operator decides stands
//! after what the user said, and the schema keeps users from saying it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ropewalk_operator_api::names;

use super::{Broker, ValidCluster};
use crate::intent;

/// Kafka's port.
pub const KAFKA_PORT: i32 = 9092;
/// The port of the admin API.
pub const ADMIN_PORT: i32 = 9644;
/// Where the volume is mounted. The data directory lies below: a fresh file system is not empty.
pub const VOLUME_PATH: &str = "/var/lib/ropewalk";
/// Where settings and token are mounted.
pub const CONFIG_PATH: &str = "/etc/ropewalk";
/// The key that lets an empty data directory be formatted.
pub const FORMAT_KEY: &str = "format.cluster.id";

/// What the operator decides unless the user says otherwise: a queue is declared, and a name that is
/// mistyped must not become one.
const DEFAULT: (&str, &str) = ("auto.create.topics.enable", "false");

/// Whether the value of a setting comes from the operator and not from the user.
#[must_use]
pub fn is_operators(cluster: &ValidCluster, broker: &Broker, key: &str) -> bool {
    decided(cluster, broker).iter().any(|(decided, _)| *decided == key)
        || (key == DEFAULT.0 && !cluster.config.contains_key(key))
}

/// What the operator decides, whatever the user says.
fn decided(cluster: &ValidCluster, broker: &Broker) -> [(&'static str, String); 6] {
    let host = format!("{}.{}.svc", names::broker(&cluster.name, broker.id), cluster.namespace);
    [
        ("node.id", broker.id.to_string()),
        ("log.dirs", format!("{VOLUME_PATH}/data")),
        ("listeners", format!("PLAINTEXT://:{KAFKA_PORT}")),
        ("advertised.listeners", format!("PLAINTEXT://{host}:{KAFKA_PORT}")),
        // Without a host: every address of both families that the pod has.
        ("ropewalk.admin.listener", format!(":{ADMIN_PORT}")),
        ("admin.token.file", format!("{CONFIG_PATH}/admin/token")),
    ]
}

/// The settings of a broker, without the leave to format.
#[must_use]
pub fn settings(cluster: &ValidCluster, broker: &Broker) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([(DEFAULT.0.to_owned(), DEFAULT.1.to_owned())]);
    settings.extend(cluster.config.clone());
    let decided = decided(cluster, broker).map(|(key, value)| (key.to_owned(), value));
    settings.extend(decided);
    settings
}

/// The hash of these settings, as a broker computes it of what it was told: values without the white
/// space around them, and without the leave to format.
#[must_use]
pub fn hash(settings: &BTreeMap<String, String>) -> String {
    let trimmed: BTreeMap<&str, &str> =
        settings.iter().map(|(key, value)| (key.as_str(), value.trim())).collect();
    intent::hash(&trimmed)
}

/// The file as the broker finds it when it starts.
#[must_use]
pub fn file(cluster: &ValidCluster, broker: &Broker) -> String {
    let mut settings = settings(cluster, broker);
    if let Some(id) = &broker.format {
        settings.insert(FORMAT_KEY.to_owned(), id.clone());
    }
    let mut text =
        String::from("# Written by ropewalk-operator: change the BrokerCluster instead.\n");
    for (key, value) in settings {
        let _ = writeln!(text, "{}={}", escaped(&key, true), escaped(&value, false));
    }
    text
}

/// A file of before without the leave to format, for a data directory that was formatted since;
/// `None` if it holds no such leave.
#[must_use]
pub fn without_leave(file: &str) -> Option<String> {
    let begins = format!("{}=", escaped(FORMAT_KEY, true));
    let kept = |line: &&str| !line.starts_with(&begins);
    file.lines().any(|line| !kept(&line)).then(|| {
        let mut text = file.lines().filter(kept).collect::<Vec<_>>().join("\n");
        text.push('\n');
        text
    })
}

/// As a properties file needs it: a value cannot begin another line, nor hide as a comment.
fn escaped(text: &str, is_key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' if is_key || at == 0 => out.push_str("\\ "),
            '=' | ':' | '#' | '!' if is_key => {
                out.push('\\');
                out.push(character);
            }
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Observed, fixture};
    use super::*;

    #[test]
    fn a_broker_is_told_who_it_is_and_may_format_once() {
        let cluster = fixture::cluster("{config: {log.retention.hours: '24'}}");
        let valid = fixture::valid(&cluster, &Observed::default());
        let text = file(&valid, &valid.brokers[0]);
        for line in [
            "node.id=0",
            "log.dirs=/var/lib/ropewalk/data",
            "advertised.listeners=PLAINTEXT://prod-broker-0.shop.svc:9092",
            "format.cluster.id=uid-1",
            "log.retention.hours=24",
            // Every address, also where there is no IPv4.
            "ropewalk.admin.listener=:9644",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in {text}");
        }
        let valid = fixture::valid(&cluster, &fixture::observed_claim(0, "20Gi", true));
        let formatted = file(&valid, &valid.brokers[0]);
        assert!(!formatted.contains(FORMAT_KEY));
        assert_eq!(without_leave(&text).as_ref(), Some(&formatted));
        assert_eq!(without_leave(&formatted), None);
    }

    #[test]
    fn settings_have_the_hash_that_brokers_compute() {
        let settings = |value: &str| BTreeMap::from([("a".to_owned(), value.to_owned())]);
        assert_eq!(hash(&settings("b")), "096fc819d98b7e2b");
        assert_eq!(hash(&settings(" b\t")), "096fc819d98b7e2b");
    }

    #[test]
    fn a_value_cannot_smuggle_in_a_line() {
        let mut cluster = fixture::cluster("{}");
        cluster.spec.config.insert("a".into(), "x\nnode.id=9\\".into());
        cluster.spec.config.insert("b = c".into(), " y".into());
        let valid = fixture::valid(&cluster, &Observed::default());
        let text = file(&valid, &valid.brokers[0]);
        assert!(text.contains("a=x\\nnode.id=9\\\\\n"), "{text}");
        assert!(text.contains("b\\ \\=\\ c=\\ y\n"), "{text}");
    }
}
