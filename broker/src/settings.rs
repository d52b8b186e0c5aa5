//! Settings: every key that Kafka 4.3's broker knows, and what each is set to.
//!
//! The same names hold in the file, in `--set`, in DescribeConfigs and in AlterConfigs. Every key
//! is known: one that has no meaning here is accepted and reported as ignored, one that nobody
//! knows is an error that names its nearest neighbour.
//!
//! A value is looked for where Kafka looks for it: set at run time for this broker, set at run time
//! for all, in the file, the default. What is set at run time lives in the catalog and is handed in
//! by its view ([`Settings::set_dynamic`]).
//!
//! # Invariants
//!
//! - **D1** no key relaxes durability: those of Kafka's that would are among the ignored.
//! - A value that is held here has passed its key's check, so the getters cannot fail.

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
pub mod describe;
pub mod fingerprint;
mod replace;

pub use invalid::Invalid;
pub use listeners::{Endpoint, Listener};
pub use replace::Replaced;

use crate::limits;
use key::Key;

/// Everything that is set. What a broker was started with may be replaced while it runs, as far as that
/// takes effect ([`Settings::replace`]).
#[derive(Debug)]
pub struct Settings {
    /// What was given by flags; in `file` as well.
    flags: BTreeMap<String, String>,
    file: RwLock<BTreeMap<String, String>>,
    /// The fingerprint of what the file said that this was made from, flags left out.
    started_hash: String,
    /// The same of the last file that was taken over.
    last_hash: RwLock<Option<String>>,
    needs_restart: RwLock<Vec<String>>,
    dynamic: RwLock<Dynamic>,
}

/// What was set at run time.
#[derive(Debug, Default)]
struct Dynamic {
    broker: BTreeMap<String, String>,
    all_brokers: BTreeMap<String, String>,
    groups: BTreeMap<String, BTreeMap<String, String>>,
}

/// Reads a properties file: keys and values in their order, later ones first in importance.
#[must_use]
pub fn read_properties(text: &str) -> Vec<(String, String)> {
    properties::parse(text).into_iter().map(|(_, key, value)| (key, value)).collect()
}

impl Settings {
    /// Takes pairs from the file; of the same key the last one holds.
    ///
    /// # Errors
    /// All that is wrong with them, not only the first.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<Invalid>> {
        Self::layered(pairs, BTreeMap::new())
    }

    /// The same, with flags that hold against the file, also against one that comes later.
    ///
    /// # Errors
    /// All that is wrong with both.
    pub fn layered(
        file: impl IntoIterator<Item = (String, String)>,
        flags: BTreeMap<String, String>,
    ) -> Result<Self, Vec<Invalid>> {
        let mut file: BTreeMap<_, _> = file.into_iter().collect();
        let started_hash = fingerprint::of(&file);
        file.extend(flags.clone());
        let mut wrong: Vec<_> =
            file.iter().filter_map(|(key, value)| check_broker(key, value).err()).collect();
        if wrong.is_empty() {
            // As in Kafka, both names of the broker's id are set, whichever was.
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
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    /// Those in the file that have no effect here, for the log.
    #[must_use]
    pub fn ignored(&self) -> Vec<String> {
        let is_ignored = |name: &&String| broker::find(name).is_some_and(|key| key.ignored);
        self.file.read().keys().filter(is_ignored).cloned().collect()
    }

    /// Takes over what the catalog says was set at run time.
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

    /// A broker's key as it is set, if it is.
    fn set(&self, name: &str) -> Option<String> {
        let dynamic = self.dynamic.read();
        let set = dynamic.broker.get(name).or_else(|| dynamic.all_brokers.get(name));
        set.cloned().or_else(|| self.file.read().get(name).cloned())
    }

    /// A broker's key as it holds.
    fn text(&self, name: &str) -> Option<String> {
        let default = || broker::find(name).and_then(|key| key.default).map(str::to_owned);
        self.set(name).or_else(default)
    }

    /// What a key of a topic or group is when it is not set there.
    fn inherited(&self, key: &Key) -> String {
        for synonym in key.synonyms {
            let set = self.set(synonym.name);
            // Kafka lets the coarser units stand in with their default; ours says the same.
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

    /// A number of bytes or things where a negative one stands for "no such limit".
    fn count(&self, name: &str) -> usize {
        usize::try_from(self.long(name)).unwrap_or(usize::MAX)
    }
}

fn node_id(file: &BTreeMap<String, String>) -> i32 {
    let set = |name| file.get(name).and_then(|text| text.trim().parse().ok());
    set("node.id").or_else(|| set("broker.id")).filter(|id| *id >= 0).unwrap_or(1)
}

/// Whether a broker's key may have this value in the file.
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

/// Whether a broker's key may be set to this value at run time.
///
/// # Errors
/// Why not.
pub fn validate_broker(name: &str, value: &str) -> Result<(), Invalid> {
    check_broker(name, value)?;
    Invalid::check_length(name, value)?;
    match broker::find(name).map(|key| key.update) {
        Some(key::Update::ReadOnly) => Err(Invalid::ReadOnly { key: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Whether a group's key may be set to this value.
///
/// # Errors
/// Why not.
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

/// What the broker reads, by the name of the key in the table.
impl Settings {
    /// `node.id`, else `broker.id`, else 1.
    #[must_use]
    pub fn node_id(&self) -> i32 {
        node_id(&self.file.read())
    }

    /// `broker.rack`.
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

    /// `ropewalk.admin.listener`: host and port.
    #[must_use]
    pub fn admin(&self) -> String {
        self.text("ropewalk.admin.listener").expect("it has a default")
    }

    /// `format.cluster.id`.
    #[must_use]
    pub fn format_cluster_id(&self) -> Option<String> {
        self.text("format.cluster.id").filter(|id| !id.trim().is_empty())
    }

    /// `admin.token.file`.
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

    /// `connections.max.idle.ms`.
    #[must_use]
    pub fn idle_max(&self) -> Duration {
        self.millis("connections.max.idle.ms")
    }

    /// `max.connections`, within what the broker can hold.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.count("max.connections").min(limits::CONNECTIONS_MAX)
    }

    /// `max.connections.per.ip`.
    #[must_use]
    pub fn connections_per_ip_max(&self) -> usize {
        self.count("max.connections.per.ip")
    }

    /// `queued.max.request.bytes`; our own bound if it is not set.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        match usize::try_from(self.long("queued.max.request.bytes")) {
            Ok(bytes @ 1..) => bytes,
            _ => limits::REQUEST_BYTES_MAX,
        }
    }

    /// `socket.request.max.bytes`.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        self.count("socket.request.max.bytes")
    }

    /// `auto.create.topics.enable`.
    #[must_use]
    pub fn auto_create_topics(&self) -> bool {
        self.boolean("auto.create.topics.enable")
    }

    /// `delete.topic.enable`.
    #[must_use]
    pub fn delete_topics(&self) -> bool {
        self.boolean("delete.topic.enable")
    }

    /// `num.partitions`.
    #[must_use]
    pub fn num_partitions(&self) -> i32 {
        self.int("num.partitions")
    }

    /// `fetch.max.bytes`.
    #[must_use]
    pub fn fetch_bytes_max(&self) -> usize {
        self.count("fetch.max.bytes")
    }

    /// `max.request.partition.size.limit`.
    #[must_use]
    pub fn partitions_per_page_max(&self) -> i32 {
        self.int("max.request.partition.size.limit")
    }

    /// `log.retention.check.interval.ms`.
    #[must_use]
    pub fn retention_check_interval(&self) -> Duration {
        self.millis("log.retention.check.interval.ms")
    }

    /// `group.initial.rebalance.delay.ms`.
    #[must_use]
    pub fn group_initial_rebalance_delay(&self) -> Duration {
        self.millis("group.initial.rebalance.delay.ms")
    }

    /// `group.min.session.timeout.ms`.
    #[must_use]
    pub fn group_session_timeout_ms_min(&self) -> i32 {
        self.int("group.min.session.timeout.ms")
    }

    /// `group.max.session.timeout.ms`.
    #[must_use]
    pub fn group_session_timeout_ms_max(&self) -> i32 {
        self.int("group.max.session.timeout.ms")
    }

    /// `group.max.size`.
    #[must_use]
    pub fn group_members_max(&self) -> usize {
        self.count("group.max.size")
    }

    /// `offset.metadata.max.bytes`.
    #[must_use]
    pub fn offset_metadata_bytes_max(&self) -> usize {
        self.count("offset.metadata.max.bytes")
    }

    /// `offsets.retention.minutes`.
    #[must_use]
    pub fn offsets_retention(&self) -> Duration {
        Duration::from_secs(60 * u64::try_from(self.long("offsets.retention.minutes")).unwrap_or(0))
    }

    /// `offsets.retention.check.interval.ms`.
    #[must_use]
    pub fn offsets_retention_check_interval(&self) -> Duration {
        self.millis("offsets.retention.check.interval.ms")
    }

    /// `producer.id.expiration.ms`.
    #[must_use]
    pub fn producer_expiration(&self) -> Duration {
        self.millis("producer.id.expiration.ms")
    }
}

#[cfg(test)]
mod tests;
