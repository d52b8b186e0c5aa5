//! The settings file of a broker.
//!
//! Keys are sorted, so that equal settings are equal bytes. The operator's own settings override
//! those of the user; the schema does not let users set them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ropewalk_operator_api::names;

use super::{Broker, ValidCluster, object_storage};
use crate::intent;

/// Port of the Kafka protocol.
pub const KAFKA_PORT: i32 = 9092;
/// Port of the admin API.
pub const ADMIN_PORT: i32 = 9644;
/// Mount path of the volume. The data directory is a subdirectory, because a new file system is not
/// empty.
pub const VOLUME_PATH: &str = "/var/lib/ropewalk";
/// Mount path of settings and token.
pub const CONFIG_PATH: &str = "/etc/ropewalk";
/// The setting that allows the broker to format an empty data directory.
pub const FORMAT_KEY: &str = "format.cluster.id";

/// The operator's default that users can override: topics are declared by Queues, and a mistyped
/// name must not create one.
const DEFAULT: (&str, &str) = ("auto.create.topics.enable", "false");

/// Whether the value of a setting comes from the operator and not from the user.
#[must_use]
pub fn is_operators(cluster: &ValidCluster, broker: &Broker, key: &str) -> bool {
    decided(cluster, broker).iter().any(|(decided, _)| *decided == key)
        || (key == DEFAULT.0 && !cluster.config.contains_key(key))
}

/// The settings that users cannot override.
fn decided(cluster: &ValidCluster, broker: &Broker) -> [(&'static str, String); 6] {
    let host = format!("{}.{}.svc", names::broker(&cluster.name, broker.id), cluster.namespace);
    [
        ("node.id", broker.id.to_string()),
        ("log.dirs", format!("{VOLUME_PATH}/data")),
        ("listeners", format!("PLAINTEXT://:{KAFKA_PORT}")),
        ("advertised.listeners", format!("PLAINTEXT://{host}:{KAFKA_PORT}")),
        // Without a host the listener binds every IPv4 and IPv6 address of the pod.
        ("ropewalk.admin.listener", format!(":{ADMIN_PORT}")),
        ("admin.token.file", format!("{CONFIG_PATH}/admin/token")),
    ]
}

/// The settings of a broker, without [`FORMAT_KEY`].
#[must_use]
pub fn settings(cluster: &ValidCluster, broker: &Broker) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([(DEFAULT.0.to_owned(), DEFAULT.1.to_owned())]);
    settings.extend(cluster.config.clone());
    settings.extend(cluster.object_storage.iter().flat_map(object_storage::settings));
    let decided = decided(cluster, broker).map(|(key, value)| (key.to_owned(), value));
    settings.extend(decided);
    settings
}

/// The hash of these settings, as the broker computes it: values without surrounding white space,
/// and without [`FORMAT_KEY`].
#[must_use]
pub fn hash(settings: &BTreeMap<String, String>) -> String {
    let trimmed: BTreeMap<&str, &str> =
        settings.iter().map(|(key, value)| (key.as_str(), value.trim())).collect();
    intent::hash(&trimmed)
}

/// The settings file that the broker reads at its start. Without the settings of the bucket if they
/// name files that only a pod of the next template has.
#[must_use]
pub fn file(cluster: &ValidCluster, broker: &Broker) -> String {
    let mut settings = settings(cluster, broker);
    settings.retain(|key, _| {
        broker.has_storage_files || !key.starts_with(object_storage::SETTINGS_PREFIX)
    });
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

/// Removes [`FORMAT_KEY`] from a settings file, for a data directory that was formatted since;
/// `None` if the file does not hold it.
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

/// Escapes for a properties file: a value cannot begin another line or a comment.
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
    fn a_broker_gets_its_id_and_may_format_once() {
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
