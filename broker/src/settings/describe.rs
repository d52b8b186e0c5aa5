//! Settings in the form of DescribeConfigs: the value, its source, and all values of lower
//! precedence.

use super::key::{Key, Kind, Update};
use super::{Settings, broker, group, topic};

/// The source of a value; the numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Set at run time, for this broker.
    Broker = 2,
    /// Set at run time, for all brokers.
    AllBrokers = 3,
    /// Set in the file or by a flag.
    File = 4,
    /// Not set anywhere.
    Default = 5,
    /// Set on the group.
    Group = 8,
}

impl Source {
    /// The number in the protocol.
    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }
}

/// A row of DescribeConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name of the key.
    pub name: &'static str,
    /// The value; `None` is null, also for a secret.
    pub value: Option<String>,
    /// The source of the value.
    pub source: Source,
    /// Whether the value is a secret.
    pub sensitive: bool,
    /// Whether the key cannot be changed at run time.
    pub read_only: bool,
    /// The type of the key.
    pub kind: Kind,
    /// The documentation of the key.
    pub doc: &'static str,
    /// Every value of the key, highest precedence first.
    pub synonyms: Vec<SettingValue>,
}

/// The value of a key from one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingValue {
    /// The name of the key at that source.
    pub name: &'static str,
    /// The value at that source.
    pub value: Option<String>,
    /// The source itself.
    pub source: Source,
}

/// Every key of a topic with these values of its own.
#[must_use]
pub fn topic(settings: &Settings, overrides: &[(String, String)]) -> Vec<Row> {
    let own = |key: &Key| find(overrides, key.name);
    visible(topic::all()).map(|key| settings.row_of_child(key, own(key), Source::Topic)).collect()
}

/// Every key of a group.
#[must_use]
pub fn group(settings: &Settings, name: &str) -> Vec<Row> {
    let dynamic = settings.dynamic.read();
    let set = dynamic.groups.get(name).cloned().unwrap_or_default();
    drop(dynamic);
    let own = |key: &Key| set.get(key.name).cloned();
    visible(group::all()).map(|key| settings.row_of_child(key, own(key), Source::Group)).collect()
}

/// Every key of this broker.
#[must_use]
pub fn broker(settings: &Settings) -> Vec<Row> {
    let mut keys: Vec<_> = visible(broker::all()).collect();
    keys.sort_unstable_by_key(|key| key.name);
    keys.into_iter().map(|key| settings.row_of_broker(key)).collect()
}

/// The values set at run time for all brokers; no other value is cluster-wide.
#[must_use]
pub fn all_brokers(settings: &Settings) -> Vec<Row> {
    let dynamic = settings.dynamic.read();
    let set = dynamic.all_brokers.iter();
    let row = |(name, value): (&String, &String)| {
        let key = broker::find(name)?;
        let found = SettingValue::new(key.name, key, value, Source::AllBrokers);
        Some(Row::new(key, vec![found], None))
    };
    set.filter_map(row).collect()
}

fn visible(keys: impl Iterator<Item = &'static Key>) -> impl Iterator<Item = &'static Key> {
    keys.filter(|key| !key.internal)
}

fn find(pairs: &[(String, String)], name: &str) -> Option<String> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

impl Settings {
    /// A key of a topic or a group: its own value, then those of the broker that it inherits.
    fn row_of_child(&self, key: &'static Key, own: Option<String>, source: Source) -> Row {
        let mut found = Vec::new();
        found.extend(own.map(|value| SettingValue::new(key.name, key, &value, source)));
        let effective = found.first().and_then(|found| found.value.clone());
        for (at, synonym) in key.synonyms.iter().enumerate() {
            // A duration in a coarser unit is listed where it is set; its default adds nothing to
            // the key's own default.
            let is_listed = |found: &SettingValue| at == 0 || found.source != Source::Default;
            found.extend(self.found(synonym.name).into_iter().filter(is_listed));
        }
        if source == Source::Group && key.synonyms.is_empty() {
            let default =
                key.default.map(|value| SettingValue::new(key.name, key, value, Source::Default));
            found.extend(default);
        }
        // A broker's value may be in a coarser unit than the topic's.
        let value = effective.or_else(|| key.default.is_some().then(|| self.inherited(key)));
        Row::new(key, found, value)
    }

    fn row_of_broker(&self, key: &'static Key) -> Row {
        let found = self.found(key.name);
        let own = self.text(key.name);
        Row { read_only: key.update == Update::ReadOnly, ..Row::new(key, found, own) }
    }

    /// Every value that is set for a broker's key, highest precedence first.
    fn found(&self, name: &str) -> Vec<SettingValue> {
        let Some(key) = broker::find(name) else { return Vec::new() };
        let (dynamic, file) = (self.dynamic.read(), self.file.read());
        let places = [
            (dynamic.broker.get(name).map(String::as_str), Source::Broker),
            (dynamic.all_brokers.get(name).map(String::as_str), Source::AllBrokers),
            (file.get(name).map(String::as_str), Source::File),
            (key.default, Source::Default),
        ];
        let found = |(value, source): (Option<&str>, Source)| {
            Some(SettingValue::new(key.name, key, value?, source))
        };
        places.into_iter().filter_map(found).collect()
    }
}

impl SettingValue {
    fn new(name: &'static str, key: &Key, value: &str, source: Source) -> Self {
        let value = (!key.is_sensitive()).then(|| value.to_owned());
        Self { name, value, source }
    }
}

impl Row {
    /// A row whose value is the first of `synonyms`, unless `value` is given.
    fn new(key: &'static Key, synonyms: Vec<SettingValue>, value: Option<String>) -> Self {
        let source = synonyms.first().map_or(Source::Default, |found| found.source);
        let first = synonyms.first().and_then(|found| found.value.clone());
        Self {
            name: key.name,
            value: value.or(first).filter(|_| !key.is_sensitive()),
            source,
            sensitive: key.is_sensitive(),
            read_only: false,
            kind: key.kind,
            doc: key.doc,
            synonyms,
        }
    }
}
