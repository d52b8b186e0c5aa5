//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use ropewalk_broker::settings::Endpoint;

/// A durable message queue that any Kafka client can talk to.
#[derive(Debug, Parser)]
#[command(
    name = "ropewalk-broker",
    version,
    after_help = "Exit codes: 0 stopped as asked, 1 other failures, 2 wrong flags or settings, 3 the data \
                  directory is in use by another broker, 4 the data directory cannot be used, 5 the disk \
                  failed while running, 6 an address cannot be listened on, 7 the data directory is empty \
                  and nobody said to format it: a new broker, or a disk that was lost, 8 repair found damage \
                  that is left as it is, 9 a thread or task ended that the broker needs: a fault in the \
                  program, and the last line says which."
)]
pub(crate) struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How log lines are written, to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// What is logged: a level (off, error, warn, info, debug, trace), or levels by module such as
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

    /// A file that is told in one line why the process ended, if it ends by itself. Without it:
    /// /dev/termination-log, where that is there.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) termination_log: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker to try things out: queues are made on first use, nothing has to be prepared.
    Dev(Dev),
    /// Run a broker from a configuration file.
    Run(Run),
    /// Make an empty data directory belong to a broker and a cluster, then end.
    Format(Format),
    /// Send one message to a queue of a running broker and receive it, as a client would, then end.
    Probe(Probe),
    /// Look for damage in a data directory that no broker uses, and give up what it took.
    Repair(Repair),
}

/// Flags of `dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where everything is kept. Without it: $XDG_DATA_HOME/ropewalk/dev, or
    /// ~/.local/share/ropewalk/dev. It is made if it is not there. A new one takes about 260 MB at once,
    /// most of it for files of the write-ahead log that are reserved before they are needed.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Where Kafka clients connect. Port 0 takes any that is free. Clients connect again to the host that
    /// the broker advertises: this one, or with 0.0.0.0 this machine's name. Where they cannot resolve that,
    /// add --set advertised.listeners=PLAINTEXT://HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = host_and_port)]
    pub(crate) kafka: String,

    /// Where the admin HTTP server listens: /live, /ready, /metrics, /v1/queues.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", value_parser = host_and_port)]
    pub(crate) admin: String,

    /// A setting, with Kafka's name where Kafka has it (log.retention.hours=24). May be repeated; it
    /// wins over the other flags. Without it dev differs from a production broker in one setting:
    /// group.initial.rebalance.delay.ms is 0.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file, in the format of Kafka's server.properties.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Make the data directory belong to this cluster if it is empty. Without it, and without
    /// format.cluster.id in the file, an empty one is refused, because it may be a disk that was lost.
    #[arg(long, value_name = "CLUSTER_ID")]
    pub(crate) format: Option<String>,

    /// A setting that wins over the file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// Flags of `format`.
#[derive(Debug, Args)]
pub(crate) struct Format {
    /// The configuration file: node.id and log.dirs are read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// The cluster that the broker is to belong to. Without it a new id is drawn and printed.
    #[arg(long, value_name = "ID")]
    pub(crate) cluster_id: Option<String>,

    /// A setting that wins over the file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Where Kafka clients connect.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = host_and_port)]
    pub(crate) bootstrap: String,

    /// The queue; it has to be there. The message stays in it.
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: String,

    /// How long to try again what fails.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout_seconds: u64,
}

/// Flags of `repair`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["data", "config"])))]
pub(crate) struct Repair {
    /// Give up for ever what is damaged, so that the broker serves the rest again. Without it the damage is
    /// only listed, with what giving it up would cost.
    #[arg(long)]
    pub(crate) accept_loss: bool,

    /// Let the next start remove the records of queues that the catalog does not know. They are kept after a
    /// damaged catalog was repaired, because it may have lost the queues and not the records.
    #[arg(long, conflicts_with = "accept_loss")]
    pub(crate) drop_orphans: bool,

    /// The configuration file: log.dirs is read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The data directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// A word alone is a level to the reader and a module to the filter, which takes any.
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
                "'{level}' is not a level: the levels are {levels}; one module's is set with MODULE=LEVEL"
            ));
        }
    }
    Ok(text.to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    if Endpoint::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    // An address of IPv6 without brackets has colons, and may lack a port all the same.
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
        assert_eq!(dev.data, Some("/d".into()));
        assert_eq!((dev.kafka.as_str(), dev.admin.as_str()), ("127.0.0.1:0", "127.0.0.1:0"));
        assert_eq!(dev.set[0], ("num.partitions".to_owned(), "4".to_owned()));
        assert_eq!(dev.set[1], ("compression.type".to_owned(), "zstd".to_owned()));
    }

    #[test]
    fn every_flag_is_explained() {
        let mut command = Flags::command();
        let help = |command: &mut clap::Command| command.render_long_help().to_string();
        let mut all = help(&mut command);
        for name in ["dev", "run", "format", "probe"] {
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
        for text in ["advertised.listeners=PLAINTEXT://HOST:PORT", "260 MB"] {
            assert!(help.contains(text), "{text} is missing in\n{help}");
        }
    }

    #[test]
    fn a_setting_without_a_value_is_refused() {
        let flags = Flags::try_parse_from(["ropewalk-broker", "dev", "--set", "num.partitions"]);
        assert!(flags.expect_err("refused").to_string().contains("KEY=VALUE"));
    }
}
