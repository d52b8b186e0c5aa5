//! Runs the command that the flags name.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_broker::boot::{Broker, Start, StartError};
use ropewalk_broker::settings::Settings;
use ropewalk_broker::supervision::{self, Fatal};
use ropewalk_node::supervision::OnFatal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::cluster_change;
use crate::cluster_id::new_cluster_id;
use crate::cluster_status;
use crate::config_file::{from_file, read_settings};
use crate::dev;
use crate::flags::{Cluster, Command, Dev, Flags, Format, LogFormat, Run, Tier};
use crate::probe::probe;
use crate::repair;
use crate::stop::Stop;
use crate::termination::TerminationMessage;
use crate::tier_check::tier_check;
use crate::tier_restore;

/// Runs the command that the flags name.
pub(crate) fn run(flags: Flags, termination: &TerminationMessage) -> Result<(), Stop> {
    begin_logging(&flags)?;
    supervision::log_panics();
    let start = match &flags.command {
        Command::Dev(dev) if dev.brokers > 1 => {
            let dir = dev.data.clone().map_or_else(|| dev_dir("dev-cluster"), Ok)?;
            let log = (flags.log_format, flags.log.clone());
            return runtime()?.block_on(dev::run(dev, dir, log));
        }
        Command::Dev(dev) => prepare_dev(dev, termination)?,
        Command::Run(run) => prepare_run(run, termination)?,
        Command::Format(format) => return format_data_dir(format),
        Command::Repair(flags) => return repair::repair(flags),
        Command::Cluster(Cluster::Status(flags)) => {
            print!("{}", runtime()?.block_on(cluster_status::status(flags))?);
            return Ok(());
        }
        Command::Cluster(change) => {
            print!("{}", runtime()?.block_on(cluster_change::change(change))?);
            return Ok(());
        }
        Command::Tier(Tier::Check(flags)) => return runtime()?.block_on(tier_check(flags)),
        Command::Restore(flags) => {
            return runtime()?.block_on(tier_restore::restore(flags, on_fatal(termination)));
        }
        Command::Probe(flags) => {
            let timeout = Duration::from_secs(flags.timeout_seconds);
            println!("{}", probe(&flags.bootstrap, &flags.topic, timeout)?);
            return Ok(());
        }
    };
    let prints_welcome = matches!(flags.command, Command::Dev(_));
    let ends_with_input =
        matches!(flags.command, Command::Run(Run { stop_at_end_of_input: true, .. }));
    let stop = StopSignals::new(ends_with_input);
    runtime()?.block_on(serve(start, prints_welcome, stop))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn begin_logging(flags: &Flags) -> Result<(), Stop> {
    let filter = EnvFilter::try_new(&flags.log)
        .map_err(|error| Stop::Usage(format!("--log {}: {error}", flags.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let log = log.with_ansi(io::stderr().is_terminal());
    match flags.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

fn prepare_dev(dev: &Dev, termination: &TerminationMessage) -> Result<Start, Stop> {
    let own = |key: &str, value: String| (key.to_owned(), value);
    let mut pairs = vec![
        own("listeners", format!("PLAINTEXT://{}", dev.kafka)),
        own("ropewalk.admin.listener", dev.admin.clone()),
        own("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    let is_placed = dev.set.iter().any(|(key, _)| matches!(key.as_str(), "log.dirs" | "log.dir"));
    if !is_placed {
        let dir = dev.data.clone().map_or_else(|| dev_dir("dev"), Ok)?;
        pairs.push(own("log.dirs", dir.display().to_string()));
    }
    pairs.extend(dev.tier_setting()?);
    pairs.extend(dev.set.iter().cloned());
    let settings = read_settings(Vec::new(), pairs)?;
    let dir = settings.data_dir().ok().flatten().expect("it is set above");
    let format = settings.format_cluster_id().unwrap_or_else(new_cluster_id);
    Ok(start(settings, dir, Some(format), termination))
}

fn prepare_run(run: &Run, termination: &TerminationMessage) -> Result<Start, Stop> {
    let (settings, dir) = from_file(&run.config, &run.set)?;
    let format = run.format.clone().or_else(|| settings.format_cluster_id());
    Ok(start(settings, dir, format, termination))
}

/// `format`: creates the data directory of a broker without starting one.
fn format_data_dir(format: &Format) -> Result<(), Stop> {
    let (settings, dir) = from_file(&format.config, &format.set)?;
    let asked = format.cluster_id.clone().or_else(|| settings.format_cluster_id());
    let cluster_id = asked.unwrap_or_else(new_cluster_id);
    ropewalk_broker::boot::format(&settings, &dir, &cluster_id)
        .map_err(|error| Stop::Start(StartError::Node(error)))?;
    println!("{} belongs to broker {} of cluster {cluster_id}", dir.display(), settings.node_id());
    Ok(())
}

fn start(
    settings: Settings,
    dir: PathBuf,
    format: Option<String>,
    termination: &TerminationMessage,
) -> Start {
    Start { settings, dir, format, on_fatal: on_fatal(termination) }
}

/// Ends the process after an error without which it cannot go on.
fn on_fatal(termination: &TerminationMessage) -> OnFatal {
    let termination = termination.clone();
    Arc::new(move |fatal: Fatal| {
        tracing::error!("process exits: {fatal}");
        termination.write(&fatal.to_string());
        std::process::exit(supervision::exit_code(&fatal))
    })
}

/// The default data directory of `dev`, with this name.
fn dev_dir(name: &str) -> Result<PathBuf, Stop> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    let unknown = || Stop::Usage("neither XDG_DATA_HOME nor HOME is set: give --data".into());
    Ok(base.ok_or_else(unknown)?.join("ropewalk").join(name))
}

/// How long a start may still take after the order to stop. A broker that waits for others, such as
/// one that joins a cluster, would wait forever.
const START_TIME_MAX: Duration = Duration::from_secs(5);

/// What orders the process to stop.
struct StopSignals {
    /// Ends when standard input has ended.
    input: Option<oneshot::Receiver<()>>,
}

impl StopSignals {
    /// With `ends_with_input`, the end of standard input is an order to stop.
    fn new(ends_with_input: bool) -> Self {
        let input = ends_with_input.then(|| {
            let (sender, receiver) = oneshot::channel();
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                drop(sender);
            });
            receiver
        });
        Self { input }
    }

    /// Waits for one. The signal handlers are installed when it is called, not when it is awaited.
    fn wait(self) -> io::Result<impl Future<Output = ()>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let input = async move {
            match self.input {
                Some(input) => drop(input.await),
                None => std::future::pending().await,
            }
        };
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: stopping"),
                _ = interrupt.recv() => info!("SIGINT: stopping"),
                () = input => info!("standard input has ended: stopping"),
            }
        })
    }
}

async fn serve(start: Start, prints_welcome: bool, stop: StopSignals) -> Result<(), Stop> {
    // The signal handlers are installed before the directory is opened, so that a signal during
    // recovery is not lost.
    let mut stop = pin!(stop.wait()?);
    let dir = start.dir.clone();
    let mut starting = pin!(Broker::start(start));
    let broker = tokio::select! {
        broker = &mut starting => broker?,
        () = &mut stop => {
            match timeout(START_TIME_MAX, starting).await {
                Ok(broker) => broker?.stop().await,
                Err(_) => info!("stopped before the start was complete"),
            }
            return Ok(());
        }
    };
    if prints_welcome {
        print_welcome(&broker, &dir);
    }
    stop.await;
    broker.stop().await;
    Ok(())
}

/// Prints what to try next. A closed standard output is not an error.
fn print_welcome(broker: &Broker, dir: &Path) {
    let kafka = broker.kafka().first().map(ToString::to_string).unwrap_or_default();
    let admin = broker.admin();
    let dir = dir.display();
    let text = format!(
        "Ropewalk {} is ready: Kafka clients at {kafka}, admin at http://{admin}, data in {dir}\n\
         \n\
         Try it with Python (pip install kafka-python):\n\
         \n\
         \x20   from kafka import KafkaProducer, KafkaConsumer\n\
         \x20   KafkaProducer(bootstrap_servers='{kafka}').send('my-topic', value=b'Hello, World!').get()\n\
         \x20   for message in KafkaConsumer('my-topic', bootstrap_servers='{kafka}', auto_offset_reset='earliest'): print(message.value)\n\
         \n\
         Consumer lag, delay and throughput of each queue:\n\
         \n\
         \x20   curl http://{admin}/v1/queues\n\
         \n\
         Ctrl-C stops it; the data stays.\n",
        env!("CARGO_PKG_VERSION"),
    );
    let _ = io::stdout().write_all(text.as_bytes());
}
