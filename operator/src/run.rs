//! From flags to a running operator, and its orderly end.
//!
//! # Order
//!
//! 1. Serve health, so that whatever follows can be watched.
//! 2. Wait for the definitions.
//! 3. Contest the Lease. Until it is held nothing is watched and nothing is written.
//! 4. Run the controllers.
//! 5. On SIGTERM: controllers stop, then the Lease is given back, so that the next one need not wait.
//!    When the Lease is lost: the process ends at once, with [`LEASE_LOST`].

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use ropewalk_operator_plan::cluster::validate::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::flags::{LogFormat, Run};
use crate::health::Health;
use crate::lease::{self, Leadership, NotLeader};
use crate::metrics::Metrics;
use crate::{cluster, figures, installed, queue, scaling, signals};

/// The exit code when the Lease was lost.
pub const LEASE_LOST: u8 = 3;
/// Controllers have so long to end what they began.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether the Lease is held.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the operator until it is told to stop.
///
/// # Errors
///
/// When it cannot start.
pub async fn run(flags: Run) -> anyhow::Result<ExitCode> {
    log(&flags)?;
    // Two providers may be compiled in one day; the choice is made here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (stop, stopping) = watch::channel(false);
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    let listener = bind(flags.listen)
        .await
        .with_context(|| format!("--listen {} cannot be used", flags.listen))?;
    let served = tokio::spawn(health.clone().serve(listener, stopping.clone()));
    on_signal(stop.clone())?;
    let client = Client::try_default().await.context("no way to the API server is configured")?;
    let namespace =
        flags.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let leadership = Leadership::none(&identity(&flags));
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
    if !installed::wait(&context, &health, pod.as_ref(), stopping.clone()).await {
        return Ok(ExitCode::SUCCESS);
    }
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    // The Lease is given back last: it has a stop of its own.
    let (free, freeing) = watch::channel(false);
    let contest = lease::contest(leases, flags.lease_name.clone(), leadership, freeing);
    let contest = tokio::spawn(contest);
    let ended = lead(&context, &flags, contest, stopping, free).await;
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
    Ok(ended)
}

/// Listens at an address; where there is no IPv6, all of them means all of IPv4.
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

/// Waits for the Lease, runs the controllers under it, and gives it back.
async fn lead(
    context: &Arc<Context>,
    flags: &Run,
    mut contest: tokio::task::JoinHandle<Result<(), NotLeader>>,
    mut stopping: watch::Receiver<bool>,
    free: watch::Sender<bool>,
) -> ExitCode {
    let leading = async {
        while !context.leadership.holds() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let mut controllers = JoinSet::new();
    let stops = stopping.clone();
    tokio::select! {
        () = leading => {
            context.metrics.leading(true);
            start(&mut controllers, context, flags, &stops);
        }
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        _ = &mut contest => {
            tracing::error!("the Lease was lost: ending, so that two never act");
            return ExitCode::from(LEASE_LOST);
        }
        Some(_) = controllers.join_next() => {
            // Controllers end when they are told to; one that ends by itself leaves a gap.
            tracing::error!("a controller ended by itself: ending, to start anew");
            return ExitCode::FAILURE;
        }
    }
    let rest = async { while controllers.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WITHIN, rest).await.is_err() {
        tracing::warn!("a controller did not end in time");
        controllers.shutdown().await;
    }
    context.metrics.leading(false);
    let _ = free.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(5), contest).await;
    ExitCode::SUCCESS
}

fn start(
    controllers: &mut JoinSet<()>,
    context: &Arc<Context>,
    flags: &Run,
    stopping: &watch::Receiver<bool>,
) {
    for scope in flags.scopes() {
        tracing::info!(namespace = scope.as_deref().unwrap_or("(all)"), "watching");
        controllers.spawn(cluster::run(context.clone(), scope.clone(), stopping.clone()));
        controllers.spawn(queue::run(context.clone(), scope, stopping.clone()));
    }
    controllers.spawn(figures::run(context.clone(), stopping.clone()));
    controllers.spawn(signals::stream::run(context.clone(), stopping.clone()));
    controllers.spawn(scaling::run(context.clone(), stopping.clone()));
}

fn log(flags: &Run) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&flags.log)
        .with_context(|| format!("--log {} is not understood", flags.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match flags.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Of this process and of no other, also not of the one that ran before in the same pod.
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

/// The pod this runs in, to hang Events on; outside of a cluster there is none.
async fn own_pod(client: &Client, namespace: &str, flags: &Run) -> Option<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = tokio::time::timeout(Duration::from_secs(5), pods.get_opt(&pod_name(flags))).await;
    found.ok()?.ok()?
}

fn on_signal(stop: watch::Sender<bool>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    Ok(())
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
