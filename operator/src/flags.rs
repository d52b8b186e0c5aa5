//! Command-line flags and their environment variables.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ropewalk_operator_api::BrokerClusterSpec;
use ropewalk_operator_plan::intent;
use serde_json::Value;

/// Reconciles Queues and BrokerClusters into brokers and scaled consumers.
#[derive(Debug, Parser)]
#[command(name = "ropewalk-operator", version)]
pub struct Flags {
    /// The subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of the operator.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch Queues and BrokerClusters and reconcile them, until stopped.
    ///
    /// Exit codes: 0 stopped on request; 1 it cannot start; 2 the command line is invalid. A
    /// process that ends because one of its tasks did: 3 the Lease was lost; 4 health server; 5
    /// stop signals; 6 BrokerClusters; 7 Queues; 8 status metrics; 9 signal streams; 10 scaling.
    Run(Box<Run>),
    /// Print the custom resource definitions, ready for `kubectl apply -f -`.
    Crd,
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Namespaces to watch, separated by commas; all if empty. Each costs eight connections to the
    /// API server, so at most 250 are allowed.
    #[arg(long, env = "ROPEWALK_WATCH_NAMESPACES", value_delimiter = ',', num_args = 0..)]
    pub watch_namespaces: Vec<String>,

    /// Namespace of the Lease; the operator's own namespace if absent.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// Name of this process in the Lease and in Events; the host name if absent.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// Name of the Lease. Operators that watch different namespaces must not share one; if absent
    /// the name is derived from --watch-namespaces.
    #[arg(long, env = "ROPEWALK_LEASE_NAME")]
    pub lease_name: Option<String>,

    /// Image of brokers for which no release was chosen.
    #[arg(
        long,
        env = "ROPEWALK_BROKER_IMAGE",
        default_value = concat!("ghcr.io/ropewalk/ropewalk-broker:", env!("CARGO_PKG_VERSION"))
    )]
    pub broker_image: String,

    /// Address of a broker's admin API: {service} is its Service, {namespace} its namespace.
    #[arg(long, env = "ROPEWALK_BROKER_ADDRESS", default_value = "{service}.{namespace}.svc:9644")]
    pub broker_address: String,

    /// Spec of the BrokerCluster that is created for a Queue that names none, as JSON.
    #[arg(long, env = "ROPEWALK_DEFAULT_CLUSTER", default_value = "{}", value_parser = cluster_spec)]
    pub default_cluster: BrokerClusterSpec,

    /// Address of /live, /ready and /metrics. `[::]` is every address, also where there is no IPv6.
    #[arg(long, env = "ROPEWALK_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// Format of log lines on standard error.
    #[arg(long, env = "ROPEWALK_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Log filter: a level (error, warn, info, debug, trace), or levels by module such as
    /// info,ropewalk_operator::lease=debug.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// Formats of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text, one line each.
    Text,
    /// One JSON object per line.
    Json,
}

/// Parses the spec of a BrokerCluster. Unknown fields are refused: the API server would silently
/// drop them.
fn cluster_spec(text: &str) -> Result<BrokerClusterSpec, String> {
    let given: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let spec: BrokerClusterSpec =
        serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let read = serde_json::to_value(&spec).map_err(|error| error.to_string())?;
    if intent::holds(&read, &given) {
        return Ok(spec);
    }
    let known = serde_json::to_string(&read).unwrap_or_default();
    Err(format!("{text} has a field that a BrokerCluster does not have; it was parsed as {known}"))
}

/// Maximum number of namespaces that are watched individually.
pub const NAMESPACES_MAX: usize = 250;
/// Number of namespaces from which the log warns about the cost of individual watches.
const NAMESPACES_MANY: usize = 25;
/// Watches per namespace, each with a connection of its own.
const WATCHES_PER_NAMESPACE: usize = 8;

impl Run {
    /// Name of the Lease, derived from the namespaces if not set.
    #[must_use]
    pub fn lease_name(&self) -> String {
        let named = self.lease_name.clone().filter(|name| !name.is_empty());
        named.unwrap_or_else(|| {
            let scopes: Vec<String> = self.scopes().into_iter().flatten().collect();
            if scopes.is_empty() {
                return "ropewalk-operator".to_owned();
            }
            format!("ropewalk-operator-{}", &intent::hash(&scopes)[..8])
        })
    }

    /// Refuses combinations of flags that cannot work.
    ///
    /// # Errors
    ///
    /// When more namespaces are named than can be watched individually.
    pub fn check(&self) -> anyhow::Result<()> {
        let namespaces = self.scopes().into_iter().flatten().count();
        let watches = namespaces * WATCHES_PER_NAMESPACE;
        if namespaces > NAMESPACES_MAX {
            anyhow::bail!(
                "--watch-namespaces names {namespaces} namespaces, must be at most {NAMESPACES_MAX}: each costs {WATCHES_PER_NAMESPACE} connections to the API server. Leave it empty to watch all namespaces with {WATCHES_PER_NAMESPACE} connections"
            );
        }
        if namespaces >= NAMESPACES_MANY {
            tracing::warn!(
                namespaces,
                watches,
                "many namespaces watched individually: each costs 8 connections to the API server, an empty --watch-namespaces watches all with 8"
            );
        }
        Ok(())
    }

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

    fn run(arguments: &[&str]) -> Run {
        let all = ["ropewalk-operator", "run"].iter().chain(arguments);
        match Flags::parse_from(all).command {
            Command::Run(run) => *run,
            Command::Crd => panic!("run was asked for"),
        }
    }

    #[test]
    fn operators_of_different_namespaces_do_not_share_a_lease() {
        let name = |arguments: &[&str]| run(arguments).lease_name();
        assert_eq!(name(&[]), "ropewalk-operator");
        assert_ne!(name(&["--watch-namespaces", "a"]), name(&["--watch-namespaces", "b"]));
        assert_ne!(name(&["--watch-namespaces", "a"]), name(&[]));
        assert_eq!(name(&["--watch-namespaces", "a,b"]), name(&["--watch-namespaces", "b, a"]));
        assert_eq!(name(&["--lease-name", "mine", "--watch-namespaces", "a"]), "mine");
        assert_eq!(name(&["--lease-name", ""]), "ropewalk-operator", "empty is absent");
    }

    #[test]
    fn more_namespaces_than_can_be_watched_are_refused() {
        let named =
            |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
        let check = |count| run(&["--watch-namespaces", &named(count)]).check();
        assert!(check(NAMESPACES_MAX).is_ok());
        let refused = check(NAMESPACES_MAX + 1).expect_err("refused").to_string();
        assert!(refused.contains("251") && refused.contains("250"), "{refused}");
    }

    #[test]
    fn every_exit_code_is_documented() {
        use crate::supervision::Task;
        let command = Flags::command();
        let run = command.find_subcommand("run").expect("a command");
        let help = run.get_long_about().expect("a text").to_string();
        for task in Task::ALL {
            assert!(help.contains(&format!("{} ", task.exit_code())), "{task:?} is not in: {help}");
        }
    }

    #[test]
    fn a_cluster_that_is_made_for_a_queue_is_as_the_flag_says() {
        let spec = cluster_spec(r#"{"storage": {"size": "5Gi", "storageClassName": "fast"}}"#);
        let spec = spec.expect("a spec");
        assert_eq!((spec.replicas, spec.storage.storage_class_name.as_deref()), (1, Some("fast")));
        assert_eq!(cluster_spec("{}").expect("a spec").storage.size.to_string(), "20Gi");
        let refused = cluster_spec(r#"{"storage": {"class": "fast"}}"#).expect_err("a typo");
        assert!(refused.contains("a field that a BrokerCluster does not have"), "{refused}");
    }

    #[test]
    fn namespaces_are_one_several_or_all() {
        let scopes = |arguments: &[&str]| run(arguments).scopes();
        assert_eq!(scopes(&[]), [None]);
        assert_eq!(scopes(&["--watch-namespaces", ""]), [None]);
        assert_eq!(scopes(&["--watch-namespaces", "b, a,b"]), [Some("a".into()), Some("b".into())]);
    }
}
