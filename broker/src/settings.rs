//! Settings: every key of Kafka 4.3's broker, and their values.
//!
//! The file, `--set`, DescribeConfigs and AlterConfigs use the same names. Every key of Kafka is
//! known: one without meaning here is accepted and reported as ignored; an unknown key is an error
//! that names the nearest known one.
//!
//! The sources of a value have Kafka's precedence: set at run time for this broker, set at run time
//! for all brokers, the file, the default. Values that are set at run time are stored in the
//! catalog and passed in by its view ([`Settings::set_dynamic`]).
//!
//! # Invariants
//!
//! - **D1** no key relaxes durability: those of Kafka that would are ignored.
//! - Every stored value has passed its key's check, so the getters cannot fail.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::RwLock;
use ropewalk_shard::BrokerId;
use ropewalk_shard::command::ConfigResource;
use ropewalk_shard::state::Catalog;

pub mod key;
mod invalid;
mod properties;
pub mod broker;
mod ignored;
pub mod topic;
pub mod group;
mod listeners;
mod peer;
mod tier;
pub mod describe;
pub mod fingerprint;
mod replace;

pub use invalid::Invalid;
pub use listeners::{Endpoint, Listener};
pub use peer::PeerSettings;
pub use replace::ReplaceOutcome;
pub use tier::TierSettings;

use crate::limits;
use key::Key;

/// All settings. The file's part can be replaced at run time, as far as that takes effect
/// ([`Settings::replace`]).
#[derive(Debug)]
pub struct Settings {
    /// Values given by flags; they are also part of `file`.
    flags: BTreeMap<String, String>,
    file: RwLock<BTreeMap<String, String>>,
    /// The fingerprint of the file that the process started with, without flags.
    started_hash: String,
    /// The fingerprint of the last file that replaced it.
    last_hash: RwLock<Option<String>>,
    needs_restart: RwLock<Vec<String>>,
    dynamic: RwLock<Dynamic>,
}

/// Values that were set at run time.
#[derive(Debug, Default)]
struct Dynamic {
    broker: BTreeMap<String, String>,
    all_brokers: BTreeMap<String, String>,
    groups: BTreeMap<String, BTreeMap<String, String>>,
}

/// Parses a properties file: keys and values in file order; later ones take precedence.
#[must_use]
pub fn read_properties(text: &str) -> Vec<(String, String)> {
    properties::parse(text).into_iter().map(|(_, key, value)| (key, value)).collect()
}

impl Settings {
    /// Settings from the pairs of a file; of a repeated key the last value applies.
    ///
    /// # Errors
    /// All invalid pairs, not only the first.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<Invalid>> {
        Self::layered(pairs, BTreeMap::new())
    }

    /// The same, with flags that take precedence over this file and any later one.
    ///
    /// # Errors
    /// All invalid pairs of both.
    pub fn layered(
        file: impl IntoIterator<Item = (String, String)>,
        flags: BTreeMap<String, String>,
    ) -> Result<Self, Vec<Invalid>> {
        let mut file: BTreeMap<_, _> = file.into_iter().collect();
        let started_hash = fingerprint::of(&file);
        file.extend(flags.clone());
        let has_id = set_node_id(&file).is_some();
        let mut wrong: Vec<_> =
            file.iter().filter_map(|(key, value)| check_broker(key, value).err()).collect();
        if wrong.is_empty() {
            // As in Kafka, both names of the broker id are set, whichever was given.
            let node_id = node_id(&file).to_string();
            file.insert("node.id".to_owned(), node_id.clone());
            file.insert("broker.id".to_owned(), node_id);
        }
        let settings = Self {
            flags,
            file: RwLock::new(file),
            started_hash,
            last_hash: RwLock::default(),
            needs_restart: RwLock::default(),
            dynamic: RwLock::default(),
        };
        if wrong.is_empty() {
            wrong.extend(settings.data_dir().err());
            wrong.extend(settings.check_admin().err());
            wrong.extend(settings.listeners().err());
            wrong.extend(settings.advertised().err());
            wrong.extend(settings.peers().err());
            wrong.extend(settings.tier().err());
            wrong.extend(settings.check_join(has_id).err());
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    /// Keys of the file that have no effect here, for the log.
    #[must_use]
    pub fn ignored(&self) -> Vec<String> {
        let is_ignored = |name: &&String| broker::find(name).is_some_and(|key| key.ignored);
        self.file.read().keys().filter(is_ignored).cloned().collect()
    }

    /// Takes over the values that the catalog stores.
    pub fn set_dynamic(&self, catalog: &Catalog) {
        let set = |resource: &ConfigResource| {
            let pairs = catalog.configs(resource);
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let groups = catalog.configs.iter().filter_map(|(resource, set)| match resource {
            ConfigResource::Group(name) => Some((name.clone(), set.clone())),
            ConfigResource::Topic(_) | ConfigResource::Broker(_) => None,
        });
        *self.dynamic.write() = Dynamic {
            broker: set(&ConfigResource::Broker(Some(BrokerId(self.node_id())))),
            all_brokers: set(&ConfigResource::Broker(None)),
            groups: groups.collect(),
        };
    }

    /// The value that is set for a broker's key, if any.
    fn set(&self, name: &str) -> Option<String> {
        let dynamic = self.dynamic.read();
        let set = dynamic.broker.get(name).or_else(|| dynamic.all_brokers.get(name));
        set.cloned().or_else(|| self.file.read().get(name).cloned())
    }

    /// The effective value of a broker's key.
    fn text(&self, name: &str) -> Option<String> {
        let default = || broker::find(name).and_then(|key| key.default).map(str::to_owned);
        self.set(name).or_else(default)
    }

    /// The value of a topic's or group's key that is not set there.
    fn inherited(&self, key: &Key) -> String {
        for synonym in key.synonyms {
            let set = self.set(synonym.name);
            // As in Kafka, the default of a coarser unit is equal to the key's own default, so it
            // is skipped.
            let Some(text) = set else { continue };
            return match text.trim().parse::<i64>() {
                Ok(number) if synonym.factor != 1 && number >= 0 => {
                    number.saturating_mul(synonym.factor).to_string()
                }
                Ok(number) if synonym.factor != 1 => number.to_string(),
                _ => text,
            };
        }
        key.default.unwrap_or_default().to_owned()
    }

    fn long(&self, name: &str) -> i64 {
        let text = self.text(name).expect("only keys with a default are read as numbers");
        text.trim().parse().expect("checked by its type")
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).expect("checked by its type")
    }

    fn boolean(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.long(name)).unwrap_or(0))
    }

    /// A number where a negative value means "no limit".
    fn count(&self, name: &str) -> usize {
        usize::try_from(self.long(name)).unwrap_or(usize::MAX)
    }
}

fn node_id(file: &BTreeMap<String, String>) -> i32 {
    set_node_id(file).unwrap_or(1)
}

fn set_node_id(file: &BTreeMap<String, String>) -> Option<i32> {
    let set = |name| file.get(name).and_then(|text| text.trim().parse().ok());
    set("node.id").or_else(|| set("broker.id")).filter(|id| *id >= 0)
}

/// Checks a value of a broker's key in the file.
fn check_broker(name: &str, value: &str) -> Result<(), Invalid> {
    let key = broker::find(name);
    let key = key.ok_or_else(|| unknown_to_broker(name))?;
    key.check(value).map_err(|reason| Invalid::value(name, value, reason))
}

fn unknown_to_broker(name: &str) -> Invalid {
    if let Some(found) = topic::find(name) {
        return Invalid::childs("topic", found);
    }
    match group::find(name) {
        Some(found) => Invalid::childs("group", found),
        None => Invalid::unknown("broker config", name, broker::all()),
    }
}

/// Checks a value of a broker's key that is set at run time.
///
/// # Errors
/// The reason why it is invalid.
pub fn validate_broker(name: &str, value: &str) -> Result<(), Invalid> {
    check_broker(name, value)?;
    Invalid::check_length(name, value)?;
    match broker::find(name).map(|key| key.update) {
        Some(key::Update::ReadOnly) => Err(Invalid::ReadOnly { key: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Checks a value of a group's key.
///
/// # Errors
/// The reason why it is invalid.
pub fn validate_group(name: &str, value: &str) -> Result<(), Invalid> {
    Invalid::check_length(name, value)?;
    let key = group::find(name);
    let unknown = || match broker::find(name) {
        Some(_) => Invalid::brokers("group config", name, group::KEYS),
        None => Invalid::unknown("group config", name, group::all()),
    };
    let key = key.ok_or_else(unknown)?;
    key.check(value).map_err(|reason| Invalid::value(name, value, reason))
}

/// Typed getters, named after their keys.
impl Settings {
    /// `node.id`, else `broker.id`, else 1.
    #[must_use]
    pub fn node_id(&self) -> i32 {
        node_id(&self.file.read())
    }

    /// The value of `broker.rack`.
    #[must_use]
    pub fn rack(&self) -> Option<String> {
        self.text("broker.rack")
    }

    /// `log.dirs`, else `log.dir`, if either is set.
    ///
    /// # Errors
    /// When there is more than one.
    pub fn data_dir(&self) -> Result<Option<PathBuf>, Invalid> {
        let file = self.file.read();
        let set = ["log.dirs", "log.dir"]
            .into_iter()
            .find_map(|name| file.get(name).map(|dirs| (name, dirs)));
        let Some((name, dirs)) = set else { return Ok(None) };
        let mut all = key::list(dirs);
        match (all.next(), all.next()) {
            (Some(one), None) => Ok(Some(one.into())),
            _ => Err(Invalid::value(name, dirs, "Exactly one directory is supported".into())),
        }
    }

    /// The value of `ropewalk.admin.listener`: host and port.
    #[must_use]
    pub fn admin(&self) -> String {
        self.text("ropewalk.admin.listener").expect("it has a default")
    }

    /// The value of `format.cluster.id`.
    #[must_use]
    pub fn format_cluster_id(&self) -> Option<String> {
        self.text("format.cluster.id").filter(|id| !id.trim().is_empty())
    }

    /// The value of `admin.token.file`.
    #[must_use]
    pub fn admin_token_file(&self) -> Option<PathBuf> {
        self.text("admin.token.file").filter(|path| !path.trim().is_empty()).map(PathBuf::from)
    }

    fn check_admin(&self) -> Result<(), Invalid> {
        let text = self.admin();
        let refuse = || {
            Invalid::value(
                "ropewalk.admin.listener",
                &text,
                "It is not of the form HOST:PORT".into(),
            )
        };
        Endpoint::parse(&text).map(|_| ()).ok_or_else(refuse)
    }

    /// The value of `connections.max.idle.ms`.
    #[must_use]
    pub fn idle_max(&self) -> Duration {
        self.millis("connections.max.idle.ms")
    }

    /// The value of `max.connections`, capped by what the broker can hold.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.count("max.connections").min(limits::CONNECTIONS_MAX)
    }

    /// The value of `max.connections.per.ip`.
    #[must_use]
    pub fn connections_per_ip_max(&self) -> usize {
        self.count("max.connections.per.ip")
    }

    /// The value of `queued.max.request.bytes`; the broker's own bound if it is not set.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        match usize::try_from(self.long("queued.max.request.bytes")) {
            Ok(bytes @ 1..) => bytes,
            _ => limits::REQUEST_BYTES_MAX,
        }
    }

    /// The value of `socket.request.max.bytes`.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        self.count("socket.request.max.bytes")
    }

    /// The value of `auto.create.topics.enable`.
    #[must_use]
    pub fn auto_create_topics(&self) -> bool {
        self.boolean("auto.create.topics.enable")
    }

    /// The value of `delete.topic.enable`.
    #[must_use]
    pub fn delete_topics(&self) -> bool {
        self.boolean("delete.topic.enable")
    }

    /// The value of `num.partitions`.
    #[must_use]
    pub fn num_partitions(&self) -> i32 {
        self.int("num.partitions")
    }

    /// Whether `replica.selector.class` is the rack-aware selector.
    #[must_use]
    pub fn selects_replicas_by_rack(&self) -> bool {
        let selector = self.text("replica.selector.class");
        selector.is_some_and(|name| name.trim() == broker::RACK_AWARE_SELECTOR)
    }

    /// The value of `fetch.max.bytes`.
    #[must_use]
    pub fn fetch_bytes_max(&self) -> usize {
        self.count("fetch.max.bytes")
    }

    /// The value of `max.incremental.fetch.session.cache.slots`.
    #[must_use]
    pub fn fetch_sessions_max(&self) -> usize {
        self.count("max.incremental.fetch.session.cache.slots")
    }

    /// The value of `max.request.partition.size.limit`.
    #[must_use]
    pub fn partitions_per_page_max(&self) -> i32 {
        self.int("max.request.partition.size.limit")
    }

    /// The value of `log.retention.check.interval.ms`.
    #[must_use]
    pub fn retention_check_interval(&self) -> Duration {
        self.millis("log.retention.check.interval.ms")
    }

    /// The value of `group.initial.rebalance.delay.ms`.
    #[must_use]
    pub fn group_initial_rebalance_delay(&self) -> Duration {
        self.millis("group.initial.rebalance.delay.ms")
    }

    /// The value of `group.min.session.timeout.ms`.
    #[must_use]
    pub fn group_session_timeout_ms_min(&self) -> i32 {
        self.int("group.min.session.timeout.ms")
    }

    /// The value of `group.max.session.timeout.ms`.
    #[must_use]
    pub fn group_session_timeout_ms_max(&self) -> i32 {
        self.int("group.max.session.timeout.ms")
    }

    /// The value of `group.max.size`.
    #[must_use]
    pub fn group_members_max(&self) -> usize {
        self.count("group.max.size")
    }

    /// The value of `offset.metadata.max.bytes`.
    #[must_use]
    pub fn offset_metadata_bytes_max(&self) -> usize {
        self.count("offset.metadata.max.bytes")
    }

    /// The value of `offsets.retention.minutes`.
    #[must_use]
    pub fn offsets_retention(&self) -> Duration {
        Duration::from_secs(60 * u64::try_from(self.long("offsets.retention.minutes")).unwrap_or(0))
    }

    /// The value of `offsets.retention.check.interval.ms`.
    #[must_use]
    pub fn offsets_retention_check_interval(&self) -> Duration {
        self.millis("offsets.retention.check.interval.ms")
    }

    /// The value of `producer.id.expiration.ms`.
    #[must_use]
    pub fn producer_expiration(&self) -> Duration {
        self.millis("producer.id.expiration.ms")
    }

    /// The value of `producer.id.expiration.check.interval.ms`.
    #[must_use]
    pub fn producer_expiration_check_interval(&self) -> Duration {
        self.millis("producer.id.expiration.check.interval.ms")
    }
}

#[cfg(test)]
mod tests;
