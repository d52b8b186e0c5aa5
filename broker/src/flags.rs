//! The command line.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use ropewalk_broker::settings::Endpoint;

mod tier;

pub(crate) use tier::{BucketFlags, Restore, Tier, TierCheck};

/// A durable message queue for any Kafka client.
#[derive(Debug, Parser)]
#[command(
    name = "ropewalk-broker",
    version,
    after_help = "Exit codes: 0 stopped as asked, 1 other failures, 2 wrong flags or settings, 3 the data \
                  directory is in use by another broker, 4 the data directory cannot be used, or the \
                  cluster does not let the broker join, 5 the disk \
                  failed while running, 6 an address cannot be listened on, 7 the data directory is empty \
                  and no flag or setting formats it: a new broker, or a lost disk, 8 repair found damage \
                  that it did not repair, 9 a thread or task ended that the broker needs: a bug in the \
                  program, and the last line names it."
)]
pub(crate) struct Flags {
    /// The command to run.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// The format of log lines, which are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// The log filter: a level (off, error, warn, info, debug, trace), or levels by module such as
    /// info,ropewalk_broker::listen=debug.
    #[arg(
        long,
        global = true,
        env = "ROPEWALK_LOG",
        default_value = "info",
        value_name = "FILTER",
        value_parser = log_filter
    )]
    pub(crate) log: String,

    /// A file that receives one line with the reason if the process ends by itself. Default:
    /// /dev/termination-log, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) termination_log: Option<PathBuf>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people to read.
    Text,
    /// One JSON object a line.
    Json,
}

/// The broker's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker to try things out: queues are created on first use, no setup is needed.
    Dev(Dev),
    /// Run a broker from a configuration file.
    Run(Run),
    /// Format an empty data directory for a broker and a cluster, then exit.
    Format(Format),
    /// Show the cluster of a running broker.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Send one message to a queue of a running broker and receive it, as a client would, then
    /// exit.
    Probe(Probe),
    /// Find damage in a data directory that no broker uses, and repair the rest by accepting the
    /// loss.
    Repair(Repair),
    /// Check the older records that a cluster has in a bucket.
    #[command(subcommand)]
    Tier(Tier),
    /// Restore a cluster that lost all its brokers from its bucket, into the data directory of a
    /// first broker. The same command again continues after a failure.
    Restore(Restore),
}

impl LogFormat {
    /// The value of the flag.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Commands about the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Print the brokers, and for each shard its leader and replicas, as one broker sees them.
    Status(ClusterStatus),
    /// Move the replicas of a broker to other brokers. The same command again prints what is left.
    Drain(ClusterDrain),
    /// Hand over what a broker leads, because it is to be restarted. The same command again prints
    /// what is left.
    PrepareRestart(ClusterPrepareRestart),
    /// End a drain or the preparation of a restart.
    Admit(ClusterChange),
    /// Remove a broker that is stopped and drained for good. Its id is not used again.
    Remove(ClusterChange),
}

/// The broker that is changed, and the one that is asked.
#[derive(Debug, Args)]
pub(crate) struct ClusterChange {
    /// The node.id of the broker that is changed.
    #[arg(value_name = "ID")]
    pub(crate) id: i32,

    /// The address of the admin HTTP server of any broker of the cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", value_parser = host_and_port)]
    pub(crate) admin: String,

    /// The file with the token of the cluster (ropewalk.admin.token.file of the broker). Without it
    /// the broker on the same machine accepts the command, if it has no token either.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Print the answer of the admin API instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `cluster drain`.
#[derive(Debug, Args)]
pub(crate) struct ClusterDrain {
    #[command(flatten)]
    pub(crate) change: ClusterChange,

    /// Drain the broker also if fewer brokers stay than shards have replicas: such shards get
    /// fewer.
    #[arg(long)]
    pub(crate) accept_fewer_replicas: bool,
}

/// Flags of `cluster prepare-restart`.
#[derive(Debug, Args)]
pub(crate) struct ClusterPrepareRestart {
    #[command(flatten)]
    pub(crate) change: ClusterChange,

    /// Time after which the preparation ends if the broker was not restarted.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) deadline_seconds: u32,
}

/// Flags of `cluster status`.
#[derive(Debug, Args)]
pub(crate) struct ClusterStatus {
    /// The address of the admin HTTP server of any broker of the cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", value_parser = host_and_port)]
    pub(crate) admin: String,

    /// Print the answer of GET /v1/cluster instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The number of brokers, from 1 to 9. Several brokers are a cluster: each runs as a process of
    /// its own with a data directory below that of --data, ports are counted up from the given
    /// ones, and a broker whose process ends is started again after a few seconds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) brokers: u8,

    /// The data directory. Default: $XDG_DATA_HOME/ropewalk/dev, or ~/.local/share/ropewalk/dev,
    /// with several brokers dev-cluster instead of dev. It is created if it does not exist. A new
    /// one takes about 260 MB for each broker at once, most of it for preallocated files of the
    /// write-ahead log.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// The address for Kafka clients. Port 0 picks a free port. Clients then connect to the host
    /// that the broker advertises: this one, or this machine's name if this one is 0.0.0.0. If they
    /// cannot resolve that name, add --set advertised.listeners=PLAINTEXT://HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = host_and_port)]
    pub(crate) kafka: String,

    /// The address of the admin HTTP server: /live, /ready, /metrics, /v1/queues.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", value_parser = host_and_port)]
    pub(crate) admin: String,

    /// A directory to which queues with remote.storage.enable=true move their older records, as to
    /// a bucket of S3. It is created if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) tier: Option<PathBuf>,

    /// With several brokers, the UDP address for messages between them. Each broker uses two
    /// ports.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9744", value_parser = host_and_port)]
    pub(crate) peer: String,

    /// A setting, with Kafka's name where Kafka has it (log.retention.hours=24). May be repeated;
    /// it overrides the other flags. By default dev differs from a production broker in one
    /// setting: group.initial.rebalance.delay.ms is 0.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

impl Dev {
    /// The setting of `--tier`.
    pub(crate) fn tier_setting(&self) -> io::Result<Option<(String, String)>> {
        let Some(dir) = &self.tier else { return Ok(None) };
        let url = format!("file://{}", std::path::absolute(dir)?.display());
        Ok(Some(("ropewalk.tier.url".to_owned(), url)))
    }
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file, in the format of Kafka's server.properties.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Format the data directory for this cluster if it is empty. Without this flag and without
    /// format.cluster.id in the file, an empty directory is refused, because it may be a lost disk.
    #[arg(long, value_name = "CLUSTER_ID")]
    pub(crate) format: Option<String>,

    /// A setting that overrides the file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,

    /// Stop when standard input ends: `dev` starts its brokers with this flag, so that none
    /// outlives it.
    #[arg(long, hide = true)]
    pub(crate) stop_at_end_of_input: bool,
}

/// Flags of `format`.
#[derive(Debug, Args)]
pub(crate) struct Format {
    /// The configuration file; node.id and log.dirs are read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// The id of the broker's cluster. Without it a new random id is used and printed.
    #[arg(long, value_name = "ID")]
    pub(crate) cluster_id: Option<String>,

    /// A setting that overrides the file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// The address for Kafka clients.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = host_and_port)]
    pub(crate) bootstrap: String,

    /// The queue, which must exist. The message stays in it.
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: String,

    /// How long failed attempts are repeated.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout_seconds: u64,
}

/// Flags of `repair`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["data", "config"])))]
pub(crate) struct Repair {
    /// Remove the damaged data permanently, so that the broker serves the rest again. Without this
    /// flag the damage is only listed, with the records that would be lost.
    #[arg(long)]
    pub(crate) accept_loss: bool,

    /// With --accept-loss: all other replicas of this broker's shards are lost for good. Each shard
    /// continues with this directory alone, in a new history that the other replicas cannot join.
    /// Without this flag a repair refuses where others vote: start this broker with an empty
    /// directory, so that they restore it.
    #[arg(long, requires = "accept_loss")]
    pub(crate) i_am_the_only_survivor: bool,

    /// Let the next start remove the records of queues that the catalog does not list. They are
    /// kept after the repair of a damaged catalog, because it may have lost the queues and not the
    /// records.
    #[arg(long, conflicts_with = "accept_loss")]
    pub(crate) drop_orphans: bool,

    /// The configuration file; log.dirs is read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The data directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// Checks a log filter. `EnvFilter` reads any single word as a module, so a misspelt level would be
/// accepted silently.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    for directive in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if directive.contains('[') {
            continue; // A filter by span and field.
        }
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level.trim());
        if !is_level(level) {
            let levels = LEVELS.join(", ");
            return Err(format!(
                "'{level}' is not a level: the levels are {levels}; a module's level is set with MODULE=LEVEL"
            ));
        }
    }
    Ok(text.to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    if Endpoint::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    // An IPv6 address without brackets contains colons even if the port is missing.
    let example = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{text}]:9092"),
        _ => format!("{}:9092", text.split(':').next().unwrap_or_default()),
    };
    Err(format!(
        "it is not of the form HOST:PORT, with a port from 0 to 65535: for example {example}"
    ))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not of the form KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn the_flags_that_others_rely_on_are_there() {
        let flags = Flags::try_parse_from([
            "ropewalk-broker",
            "dev",
            "--data=/d",
            "--kafka=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            "--set=num.partitions=4",
            "--set",
            "compression.type=zstd",
            "--log-format=json",
        ]);
        let flags = flags.expect("they parse");
        assert_eq!(flags.log_format, LogFormat::Json);
        let Command::Dev(dev) = flags.command else { panic!("it is dev") };
        assert_eq!((dev.brokers, dev.data), (1, Some("/d".into())));
        assert_eq!((dev.kafka.as_str(), dev.admin.as_str()), ("127.0.0.1:0", "127.0.0.1:0"));
        assert_eq!(dev.set[0], ("num.partitions".to_owned(), "4".to_owned()));
        assert_eq!(dev.set[1], ("compression.type".to_owned(), "zstd".to_owned()));
    }

    #[test]
    fn every_flag_is_explained() {
        let mut command = Flags::command();
        let help = |command: &mut clap::Command| command.render_long_help().to_string();
        let mut all = help(&mut command);
        for name in ["dev", "run", "format", "probe", "cluster", "tier", "restore"] {
            let sub = command.find_subcommand_mut(name).expect("it is there");
            for argument in sub.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
            }
            all += &help(sub);
        }
        for text in ["--data <DIR>", "[default: 127.0.0.1:9092]", "Exit codes", "server.properties"]
        {
            assert!(all.contains(text), "{text} is missing in\n{all}");
        }
    }

    fn refused(arguments: &[&str]) -> String {
        let all = ["ropewalk-broker"].into_iter().chain(arguments.iter().copied());
        Flags::try_parse_from(all).expect_err("refused").to_string()
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused() {
        for wrong in ["inof", "info,ropewalk_broker=debgu", "ropewalk_broker", "1nfo"] {
            let error = refused(&["--log", wrong, "dev"]);
            assert!(error.contains("is not a level: the levels are off, error"), "{error}");
        }
        for right in
            ["info", "WARN", "info,ropewalk_broker::listen=debug", "off", "a=info, b=off", ""]
        {
            assert!(Flags::try_parse_from(["ropewalk-broker", "--log", right, "dev"]).is_ok());
        }
    }

    #[test]
    fn an_address_without_a_port_is_refused_in_words_about_the_flag() {
        for (flag, wrong, example) in [
            ("--kafka", "127.0.0.1", "127.0.0.1:9092"),
            ("--admin", "localhost:http", "localhost:9092"),
            ("--kafka", "::1", "[::1]:9092"),
        ] {
            let error = refused(&["dev", flag, wrong]);
            assert!(error.contains(flag) && error.contains("HOST:PORT"), "{error}");
            assert!(error.contains(&format!("for example {example}")), "{error}");
            assert!(!error.contains("PLAINTEXT"), "{error}");
        }
    }

    #[test]
    fn repair_without_a_place_names_both_flags() {
        let error = refused(&["repair"]);
        assert!(error.contains("--data <DIR>") && error.contains("--config <FILE>"), "{error}");
        let both = refused(&["repair", "--data", "/d", "--config", "/f"]);
        assert!(both.contains("cannot be used with"), "{both}");
    }

    #[test]
    fn help_says_what_a_newcomer_has_to_know() {
        let mut command = Flags::command();
        let dev = command.find_subcommand_mut("dev").expect("it is there");
        let help = dev.render_long_help().to_string();
        for text in
            ["several brokers dev-cluster", "advertised.listeners=PLAINTEXT://HOST:PORT", "260 MB"]
        {
            assert!(help.contains(text), "{text} is missing in\n{help}");
        }
    }

    #[test]
    fn a_survivor_accepts_the_loss_too() {
        let repair = |more: &[&str]| {
            let command = ["ropewalk-broker", "repair", "--data", "/d"];
            Flags::try_parse_from(command.iter().chain(more)).map(|_| ())
        };
        let alone = repair(&["--i-am-the-only-survivor"]).expect_err("refused").to_string();
        assert!(alone.contains("--accept-loss"), "{alone}");
        repair(&["--accept-loss", "--i-am-the-only-survivor"]).expect("accepted");
    }

    #[test]
    fn a_cluster_has_from_1_to_9_brokers() {
        for wrong in ["0", "10", "many"] {
            let error = refused(&["dev", "--brokers", wrong]);
            assert!(error.contains("--brokers <N>"), "{error}");
        }
        assert!(Flags::try_parse_from(["ropewalk-broker", "dev", "--brokers", "9"]).is_ok());
    }

    #[test]
    fn the_names_of_log_formats_are_those_of_the_flag() {
        for format in LogFormat::value_variants() {
            let value = format.to_possible_value().expect("it is no secret");
            assert_eq!(value.get_name(), format.name());
        }
    }

    #[test]
    fn a_setting_without_a_value_is_refused() {
        let flags = Flags::try_parse_from(["ropewalk-broker", "dev", "--set", "num.partitions"]);
        assert!(flags.expect_err("refused").to_string().contains("KEY=VALUE"));
    }
}
