//! What `dev --brokers N` starts: addresses, directories and settings of each broker.
//!
//! ```text
//! DIR/cluster-id
//! DIR/certificates/          recreated at each start
//! DIR/broker-N/data/         the data directory of broker N
//! DIR/broker-N/server.properties
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use ropewalk_broker::settings::Endpoint;

use super::certificates;
use crate::cluster_id::new_cluster_id;
use crate::config_file::read_settings;
use crate::flags::Dev;
use crate::stop::Stop;

/// Settings that differ between the brokers, so that no flag can set them for all.
const OF_EACH_BROKER: [&str; 8] = [
    "node.id",
    "broker.id",
    "log.dirs",
    "log.dir",
    "listeners",
    "advertised.listeners",
    "ropewalk.admin.listener",
    "format.cluster.id",
];

/// A cluster on this machine.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) cluster_id: String,
    pub(super) brokers: Vec<PlannedBroker>,
}

/// One broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedBroker {
    pub(super) id: i32,
    pub(super) kafka: Endpoint,
    pub(super) admin: Endpoint,
    /// The settings file.
    pub(super) config: PathBuf,
}

impl Plan {
    /// Decides what is started in `dir`, and writes the files that the brokers read.
    ///
    /// # Errors
    /// When the flags contradict each other or the directory, or a file cannot be written.
    pub(super) fn write(dev: &Dev, dir: PathBuf) -> Result<Self, Stop> {
        check(dev, &dir)?;
        let ids: Vec<i32> = (1..=i32::from(dev.brokers)).collect();
        let kafka = endpoints("--kafka", &dev.kafka, ids.len(), 1)?;
        let admin = endpoints("--admin", &dev.admin, ids.len(), 1)?;
        let peer = endpoints("--peer", &dev.peer, ids.len(), 2)?;
        let [kafka, admin] = without_zero([kafka, admin])?;
        fs::create_dir_all(&dir)?;
        let cluster_id = cluster_id(&dir)?;
        let certificates = dir.join("certificates");
        certificates::write(&certificates, &cluster_id, &ids)?;
        let is_new = ids.iter().all(|id| is_empty(&data_dir(&dir, *id)));
        let mut brokers = Vec::with_capacity(ids.len());
        for (at, id) in ids.iter().copied().enumerate() {
            let files = certificates::Files::of(&certificates, id);
            let own = |key: &str, value: String| (key.to_owned(), value);
            let mut pairs = vec![
                own("node.id", id.to_string()),
                own("log.dirs", data_dir(&dir, id).display().to_string()),
                own("listeners", format!("PLAINTEXT://{}", kafka[at])),
                own("ropewalk.admin.listener", admin[at].to_string()),
                own("ropewalk.peer.listener", peer[at].to_string()),
                own("ropewalk.peer.certificate.file", files.certificate.display().to_string()),
                own("ropewalk.peer.key.file", files.key.display().to_string()),
                own("ropewalk.peer.ca.file", files.ca.display().to_string()),
                own("group.initial.rebalance.delay.ms", "0".to_owned()),
            ];
            if is_new && id == 1 {
                pairs.push(own("format.cluster.id", cluster_id.clone()));
            } else {
                let others = (0..ids.len()).filter(|other| *other != at);
                let others: Vec<_> = others.map(|other| admin[other].to_string()).collect();
                pairs.push(own("ropewalk.cluster.join", others.join(",")));
            }
            pairs.extend(dev.tier_setting()?);
            pairs.extend(dev.set.iter().cloned());
            read_settings(pairs.clone(), Vec::new())?;
            let config = dir.join(format!("broker-{id}/server.properties"));
            fs::create_dir_all(dir.join(format!("broker-{id}")))?;
            fs::write(&config, properties(&pairs))?;
            let (kafka, admin) = (kafka[at].clone(), admin[at].clone());
            brokers.push(PlannedBroker { id, kafka, admin, config });
        }
        Ok(Self { dir, cluster_id, brokers })
    }
}

/// Refuses settings that each broker has for itself, and directories that hold something else.
fn check(dev: &Dev, dir: &Path) -> Result<(), Stop> {
    let is_own = |key: &str| {
        OF_EACH_BROKER.contains(&key)
            || key.starts_with("ropewalk.peer.")
            || key.starts_with("ropewalk.cluster.")
    };
    if let Some((key, _)) = dev.set.iter().find(|(key, _)| is_own(key)) {
        return Err(Stop::Usage(format!(
            "--set {key}: with --brokers {} each broker has its own value: use --data, --kafka, --admin and \
             --peer",
            dev.brokers
        )));
    }
    let dir_shown = dir.display();
    if dir.join("meta").exists() {
        return Err(Stop::Usage(format!(
            "{dir_shown} holds the data of a broker that is alone: start it without --brokers, or give another \
             --data"
        )));
    }
    let there = (1..=9).filter(|id| !is_empty(&data_dir(dir, *id))).max().unwrap_or(0);
    if there > i32::from(dev.brokers) {
        return Err(Stop::Usage(format!(
            "{dir_shown} holds a cluster of {there} brokers: start it with --brokers {there}, or give another \
             --data"
        )));
    }
    Ok(())
}

fn data_dir(dir: &Path, id: i32) -> PathBuf {
    dir.join(format!("broker-{id}/data"))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// The id of the cluster, which is made at the first start.
fn cluster_id(dir: &Path) -> io::Result<String> {
    let path = dir.join("cluster-id");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_cluster_id();
            fs::write(&path, format!("{id}\n"))?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// As many endpoints, with ports counted up by `step`; all 0 if the first is.
fn endpoints(flag: &str, first: &str, count: usize, step: u16) -> Result<Vec<Endpoint>, Stop> {
    let first = Endpoint::parse(first).expect("checked with the flags");
    let at = |n: usize| {
        let port = match first.port {
            0 => Some(0),
            port => u16::try_from(n).ok().and_then(|n| port.checked_add(n.checked_mul(step)?)),
        };
        // The second port of the last broker exists too.
        let port = port.filter(|port| port.checked_add(step - 1).is_some());
        let too_high =
            || Stop::Usage(format!("{flag} {first}: the ports of {count} brokers end above 65535"));
        port.map(|port| Endpoint { host: first.host.clone(), port }).ok_or_else(too_high)
    };
    (0..count).map(at).collect()
}

/// Replaces port 0 by free ports. They are chosen here, because the other brokers have to know the
/// addresses beforehand; another program may take one in between, and the start then fails.
fn without_zero(all: [Vec<Endpoint>; 2]) -> io::Result<[Vec<Endpoint>; 2]> {
    let mut held = Vec::new();
    let mut choose = |mut endpoint: Endpoint| {
        if endpoint.port == 0 {
            let host = if endpoint.is_wildcard() { "0.0.0.0" } else { &endpoint.host };
            let listener = TcpListener::bind((host, 0))?;
            endpoint.port = listener.local_addr()?.port();
            held.push(listener);
        }
        Ok(endpoint)
    };
    let [kafka, admin] = all;
    let kafka = kafka.into_iter().map(&mut choose).collect::<io::Result<_>>()?;
    let admin = admin.into_iter().map(&mut choose).collect::<io::Result<_>>()?;
    Ok([kafka, admin])
}

/// The text of a settings file.
fn properties(pairs: &[(String, String)]) -> String {
    let mut text = "# Written by `ropewalk-broker dev` at each start.\n".to_owned();
    for (key, value) in pairs {
        let _ = writeln!(text, "{}={}", escaped(key), escaped(value));
    }
    text
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' | '=' | ':' | '#' | '!' | ' ' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use ropewalk_broker::settings::{Settings, read_properties};
    use tempfile::TempDir;

    use super::*;
    use crate::flags::{Command, Flags};

    fn dev(arguments: &[&str]) -> Dev {
        let all = ["ropewalk-broker", "dev"].into_iter().chain(arguments.iter().copied());
        let Command::Dev(dev) = Flags::try_parse_from(all).expect("valid").command else {
            panic!("not dev");
        };
        dev
    }

    fn plan(dir: &Path, arguments: &[&str]) -> Result<Plan, String> {
        Plan::write(&dev(arguments), dir.to_owned()).map_err(|stop| stop.to_string())
    }

    fn settings(broker: &PlannedBroker) -> Settings {
        let text = fs::read_to_string(&broker.config).expect("written");
        Settings::new(read_properties(&text)).expect("valid")
    }

    #[test]
    fn ports_are_counted_up_and_the_first_broker_founds_the_cluster() {
        let dir = TempDir::new().expect("a directory");
        let plan =
            plan(dir.path(), &["--brokers", "3", "--set", "num.partitions=4"]).expect("valid");
        let shown =
            |at: usize| (plan.brokers[at].kafka.to_string(), plan.brokers[at].admin.to_string());
        assert_eq!(shown(0), ("127.0.0.1:9092".into(), "127.0.0.1:9644".into()));
        assert_eq!(shown(2), ("127.0.0.1:9094".into(), "127.0.0.1:9646".into()));
        let all: Vec<Settings> = plan.brokers.iter().map(settings).collect();
        let peers = all.iter().map(|s| s.peers().expect("valid").expect("not alone"));
        let ports: Vec<u16> = peers.clone().map(|peers| peers.listener.port).collect();
        assert_eq!(ports, [9744, 9746, 9748]);
        let join: Vec<usize> = peers.map(|peers| peers.join.len()).collect();
        assert_eq!(join, [0, 2, 2]);
        assert_eq!(all[0].format_cluster_id(), Some(plan.cluster_id.clone()));
        assert_eq!(
            (all[1].format_cluster_id(), all[1].node_id(), all[1].num_partitions()),
            (None, 2, 4)
        );
    }

    #[test]
    fn all_brokers_share_the_directory_of_the_tier() {
        let dir = TempDir::new().expect("a directory");
        let tier = dir.path().join("bucket").display().to_string();
        let plan = plan(dir.path(), &["--brokers", "2", "--tier", &tier]).expect("valid");
        for broker in &plan.brokers {
            let tier_set = settings(broker).tier().expect("valid").expect("it has a bucket");
            assert_eq!(tier_set.bucket.url.to_string(), format!("file://{tier}"));
        }
    }

    #[test]
    fn a_later_start_founds_no_second_cluster() {
        let dir = TempDir::new().expect("a directory");
        let first = plan(dir.path(), &["--brokers", "2"]).expect("valid").cluster_id;
        fs::create_dir_all(dir.path().join("broker-2/data/wal")).expect("made");
        let second = plan(dir.path(), &["--brokers", "3"]).expect("valid");
        assert_eq!(second.cluster_id, first);
        // The data of broker 1 is lost: it joins the others, which know what it held.
        let lost = settings(&second.brokers[0]);
        assert_eq!(lost.format_cluster_id(), None);
        assert_eq!(lost.peers().expect("valid").expect("not alone").join.len(), 2);
        let fewer = plan(dir.path(), &["--brokers", "1"]).expect_err("one is left out");
        assert!(
            fewer.contains("a cluster of 2 brokers") && fewer.contains("--brokers 2"),
            "{fewer}"
        );
    }

    #[test]
    fn a_directory_of_a_broker_that_is_alone_is_left_alone() {
        let dir = TempDir::new().expect("a directory");
        fs::write(dir.path().join("meta"), "RWMETA").expect("written");
        let said = plan(dir.path(), &["--brokers", "3"]).expect_err("refused");
        assert!(said.contains("without --brokers"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing is written");
    }

    #[test]
    fn what_each_broker_has_for_itself_is_no_setting_of_all() {
        let dir = TempDir::new().expect("a directory");
        for pair in ["node.id=4", "listeners=PLAINTEXT://:1", "ropewalk.peer.listener=:1"] {
            let said = plan(dir.path(), &["--brokers", "2", "--set", pair]).expect_err("refused");
            assert!(said.contains("use --data, --kafka, --admin and --peer"), "{said}");
        }
        let high = plan(dir.path(), &["--brokers", "3", "--peer", "127.0.0.1:65531"])
            .expect_err("too high");
        assert!(high.contains("--peer") && high.contains("65535"), "{high}");
        plan(dir.path(), &["--brokers", "3", "--peer", "127.0.0.1:65530"]).expect("just fits");
    }

    #[test]
    fn port_0_becomes_free_ports_that_differ() {
        let dir = TempDir::new().expect("a directory");
        let flags = ["--brokers", "3", "--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let plan = plan(dir.path(), &flags).expect("valid");
        let ports = plan.brokers.iter().flat_map(|broker| [broker.kafka.port, broker.admin.port]);
        let ports: std::collections::BTreeSet<u16> = ports.collect();
        assert!(ports.len() == 6 && !ports.contains(&0), "{ports:?}");
    }

    #[test]
    fn the_file_is_read_as_it_was_meant() {
        let pairs = [("a", "b=c:d # e"), ("path", "/with space\\and\nmore"), ("key:x", "!")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(read_properties(&properties(&pairs)), pairs);
    }
}
