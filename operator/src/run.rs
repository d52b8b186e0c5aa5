//! Starts the operator from its flags and stops it in order.
//!
//! 1. Serve health, so that every later step can be monitored.
//! 2. Wait for the custom resource definitions.
//! 3. Contend for the Lease. Nothing is watched or written until it is held.
//! 4. Run the controllers.
//! 5. On SIGTERM, stop the controllers, then release the Lease, so that the next leader does not
//!    wait for it to expire. When a task ends by itself, the process ends at once with the exit
//!    code of that task ([`crate::supervision`]).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::{Client, Config};
use ropewalk_operator_plan::cluster::validate::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::context::Context;
use crate::flags::{LogFormat, Run};
use crate::health::Health;
use crate::lease::election::{Election, Timing};
use crate::lease::{self, Leadership};
use crate::metrics::Metrics;
use crate::supervision::{self, Supervisor, Task};
use crate::{cluster, installed, queue, scaling, signal_streams, status_metrics};

/// Time that the controllers have to complete running reconciles after a stop signal.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Interval at which the process checks whether it holds the Lease.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// A connection to the API server that receives nothing for this long is considered dead. Longer
/// than any watch, which the server ends after 290 s.
const SILENCE_MAX: Duration = Duration::from_secs(330);

/// Runs the operator until a stop signal arrives or a task ends by itself.
///
/// # Errors
///
/// When a flag is invalid, the listen address is not usable, or the API server is not configured.
pub async fn run(flags: Run) -> anyhow::Result<ExitCode> {
    log(&flags)?;
    supervision::log_panics();
    flags.check()?;
    // Dependencies may compile in two providers; rustls needs an explicit choice then.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (stop, stopping) = watch::channel(false);
    let mut tasks = Supervisor::default();
    let metrics = Metrics::default();
    let leadership = Leadership::none(&identity(&flags));
    let health = Health::new(metrics.clone(), leadership.clone(), &flags.lease_name());
    let listener = bind(flags.listen)
        .await
        .with_context(|| format!("listening at --listen {} failed", flags.listen))?;
    tasks.spawn(Task::Health, health.clone().serve(listener, stopping.clone()));
    tasks.spawn(Task::StopSignals, stop_signals(stop.clone())?);
    let client = client().await?;
    let namespace =
        flags.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let settings = Settings { broker_image: flags.broker_image.clone() };
    let mut context = Context::new(
        client.clone(),
        leadership.clone(),
        metrics,
        settings,
        flags.broker_address.clone(),
    );
    context.default_cluster = flags.default_cluster.clone();
    let context = Arc::new(context);
    let pod = own_pod(&client, &namespace, &flags).await;
    let installed = tokio::select! {
        installed = installed::wait(&context, &health, pod.as_ref(), stopping.clone()) => installed,
        task = tasks.unexpected_end(&stopping) => return Ok(ExitCode::from(task.exit_code())),
    };
    if !installed {
        return Ok(ExitCode::SUCCESS);
    }
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    // The Lease is released last and has a stop channel of its own.
    let (free, freeing) = watch::channel(false);
    let election = Election::new(flags.lease_name(), leadership.identity(), Timing::default());
    let contest = lease::contest(leases, election, leadership, freeing);
    tasks.spawn(Task::Lease, async move {
        if contest.await.is_err() {
            tracing::error!("Lease lost, process ends: two leaders must not act at the same time");
        }
    });
    let ended = lead(&context, &flags, &mut tasks, stopping, free).await;
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.has_ended(Task::Health)).await;
    Ok(ended)
}

/// Listens at an address. Where there is no IPv6, `[::]` means every IPv4 address.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let every = (Ipv6Addr::UNSPECIFIED, address.port());
    match TcpListener::bind(address).await {
        Err(error) if address == SocketAddr::from(every) && !is_in_use(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        outcome => outcome,
    }
}

fn is_in_use(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}

/// Waits for the Lease, runs the controllers while it is held, and releases it.
async fn lead(
    context: &Arc<Context>,
    flags: &Run,
    tasks: &mut Supervisor,
    mut stopping: watch::Receiver<bool>,
    free: watch::Sender<bool>,
) -> ExitCode {
    let leading = async {
        while !context.leadership.holds() {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    };
    let stops = stopping.clone();
    let code = |task: Task| ExitCode::from(task.exit_code());
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => {}
        task = tasks.unexpected_end(&stops) => return code(task),
        () = leading => {
            context.metrics.leading(true);
            start(tasks, context, flags, &stops);
        }
    }
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => {}
        task = tasks.unexpected_end(&stops) => return code(task),
    }
    if tokio::time::timeout(STOP_WITHIN, tasks.controllers_ended()).await.is_err() {
        tracing::warn!(
            within_s = STOP_WITHIN.as_secs(),
            "Lease not released: a controller did not end in time"
        );
        return ExitCode::SUCCESS;
    }
    context.metrics.leading(false);
    let _ = free.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.has_ended(Task::Lease)).await;
    ExitCode::SUCCESS
}

fn start(
    tasks: &mut Supervisor,
    context: &Arc<Context>,
    flags: &Run,
    stopping: &watch::Receiver<bool>,
) {
    for scope in flags.scopes() {
        tracing::info!(namespace = scope.as_deref().unwrap_or("(all)"), "namespace watched");
        let (context, stopping) = (context.clone(), stopping.clone());
        let clusters = cluster::run(context.clone(), scope.clone(), stopping.clone());
        tasks.spawn(Task::Clusters, clusters);
        tasks.spawn(Task::Queues, queue::run(context, scope, stopping));
    }
    tasks.spawn(Task::StatusMetrics, status_metrics::run(context.clone(), stopping.clone()));
    tasks.spawn(Task::Signals, signal_streams::run(context.clone(), stopping.clone()));
    tasks.spawn(Task::Scaling, scaling::run(context.clone(), stopping.clone()));
}

/// A client of the API server with a read timeout, so that a dead connection is detected.
async fn client() -> anyhow::Result<Client> {
    let mut config =
        Config::infer().await.context("no configuration for the API server was found")?;
    config.read_timeout = Some(SILENCE_MAX);
    // Without this the idle time of a pooled connection counts against the next response.
    config.reset_reader_on_write = true;
    Client::try_from(config).context("the configuration for the API server is not usable")
}

fn log(flags: &Run) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&flags.log)
        .with_context(|| format!("--log {} is not a valid filter", flags.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match flags.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// An identity that is unique to this process, also among restarts in the same pod.
fn identity(flags: &Run) -> String {
    let mut bytes = [0_u8; 4];
    let _ = getrandom::fill(&mut bytes);
    format!("{}_{:08x}", pod_name(flags), u32::from_ne_bytes(bytes) ^ std::process::id())
}

fn pod_name(flags: &Run) -> String {
    let host = || std::fs::read_to_string("/etc/hostname").ok();
    let name = flags.pod_name.clone().or_else(host).unwrap_or_default();
    if name.trim().is_empty() { "ropewalk-operator".to_owned() } else { name.trim().to_owned() }
}

/// The pod of this process, the object of its Events; `None` outside of a cluster.
async fn own_pod(client: &Client, namespace: &str, flags: &Run) -> Option<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = tokio::time::timeout(Duration::from_secs(5), pods.get_opt(&pod_name(flags))).await;
    found.ok()?.ok()?
}

/// Sets the stop channel on the first SIGTERM or SIGINT.
fn stop_signals(stop: watch::Sender<bool>) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stop signal received, operator stops");
        let _ = stop.send(true);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_is_listened_at_in_both_families() {
        let listener = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let reached = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        reached.expect("reached over IPv4");
    }
}
