//! What can be said on the command line, or in the environment.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ropewalk_operator_api::BrokerClusterSpec;
use ropewalk_operator_plan::intent;
use serde_json::Value;

/// Turns Queues and BrokerClusters into brokers and scaled consumers.
#[derive(Debug, Parser)]
#[command(name = "ropewalk-operator", version)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch Queues and BrokerClusters and act on them, until stopped.
    Run(Box<Run>),
    /// Print the custom resource definitions, ready for `kubectl apply -f -`.
    Crd,
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// The namespaces to watch, separated by commas. All of them if empty.
    #[arg(long, env = "ROPEWALK_WATCH_NAMESPACES", value_delimiter = ',', num_args = 0..)]
    pub watch_namespaces: Vec<String>,

    /// The namespace of the Lease; the one this runs in if absent.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// What this process is called in the Lease and in Events; the host name if absent.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// The Lease that one of several operators holds.
    #[arg(long, env = "ROPEWALK_LEASE_NAME", default_value = "ropewalk-operator")]
    pub lease_name: String,

    /// The image of brokers whose release nobody chose.
    #[arg(
        long,
        env = "ROPEWALK_BROKER_IMAGE",
        default_value = concat!("ghcr.io/ropewalk/ropewalk-broker:", env!("CARGO_PKG_VERSION"))
    )]
    pub broker_image: String,

    /// Where the admin API of a broker is: {service} is its Service, {namespace} its namespace.
    #[arg(long, env = "ROPEWALK_BROKER_ADDRESS", default_value = "{service}.{namespace}.svc:9644")]
    pub broker_address: String,

    /// The spec of the BrokerCluster that is made for a Queue that names none, as JSON.
    #[arg(long, env = "ROPEWALK_DEFAULT_CLUSTER", default_value = "{}", value_parser = cluster_spec)]
    pub default_cluster: BrokerClusterSpec,

    /// Where /live, /ready and /metrics are served. [::] is every address, also where there is no IPv6.
    #[arg(long, env = "ROPEWALK_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// How log lines are written, to standard error.
    #[arg(long, env = "ROPEWALK_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or levels by module such as
    /// info,ropewalk_operator::lease=debug.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the spec of a BrokerCluster. A field that no BrokerCluster has is refused: the API server would
/// drop it without a word.
fn cluster_spec(text: &str) -> Result<BrokerClusterSpec, String> {
    let given: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let spec: BrokerClusterSpec =
        serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let read = serde_json::to_value(&spec).map_err(|error| error.to_string())?;
    if intent::holds(&read, &given) {
        return Ok(spec);
    }
    let known = serde_json::to_string(&read).unwrap_or_default();
    Err(format!("{text} has a field that a BrokerCluster has not; what was understood is {known}"))
}

impl Run {
    /// The namespaces to watch: `None` is all of them.
    #[must_use]
    pub fn scopes(&self) -> Vec<Option<String>> {
        let mut named: Vec<String> = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        named.sort();
        named.dedup();
        if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_flag_is_explained() {
        Flags::command().debug_assert();
        for command in Flags::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} says nothing", argument.get_id());
            }
        }
    }

    #[test]
    fn a_cluster_that_is_made_for_a_queue_is_as_the_flag_says() {
        let spec = cluster_spec(r#"{"storage": {"size": "5Gi", "storageClassName": "fast"}}"#);
        let spec = spec.expect("a spec");
        assert_eq!((spec.replicas, spec.storage.storage_class_name.as_deref()), (1, Some("fast")));
        assert_eq!(cluster_spec("{}").expect("a spec").storage.size.to_string(), "20Gi");
        let refused = cluster_spec(r#"{"storage": {"class": "fast"}}"#).expect_err("a typo");
        assert!(refused.contains("a field that a BrokerCluster has not"), "{refused}");
    }

    #[test]
    fn namespaces_are_one_several_or_all() {
        let scopes = |arguments: &[&str]| {
            let all = ["ropewalk-operator", "run"].iter().chain(arguments);
            match Flags::parse_from(all).command {
                Command::Run(run) => run.scopes(),
                Command::Crd => panic!("run was asked for"),
            }
        };
        assert_eq!(scopes(&[]), [None]);
        assert_eq!(scopes(&["--watch-namespaces", ""]), [None]);
        assert_eq!(scopes(&["--watch-namespaces", "b, a,b"]), [Some("a".into()), Some("b".into())]);
    }
}
