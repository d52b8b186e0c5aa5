//! Leader election through a Lease: one operator acts, the others are standbys.
//!
//! `run` waits for [`Leadership`] before it starts a controller, and every disruptive action calls
//! [`Leadership::check`] first. [`election`] decides; this module reads and writes the Lease.
//!
//! # Invariants
//!
//! - **K2** fail-stop: a leader that could not renew in time is no longer leader by its own
//!   monotonic clock, and the process ends. It never leads again without a restart.
//! - The Lease alone does not fence. Changes that are sent to brokers carry the epoch that the
//!   brokers issued; the Lease only decides which operator may claim one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::sync::watch;

pub mod election;

use election::{Election, Step};

/// Whether this process leads. Clones share the state.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Mutex<LeaseState>>);

#[derive(Debug)]
struct LeaseState {
    identity: String,
    lease_uid: String,
    until: Option<Instant>,
    /// Identity of another holder, as last read.
    other: Option<String>,
}

/// This process does not lead, or no longer leads.
#[derive(Debug, thiserror::Error)]
#[error("this operator does not hold the Lease")]
pub struct NotLeader;

impl Leadership {
    /// The state of a process that does not lead yet.
    #[must_use]
    pub fn none(identity: &str) -> Self {
        let (identity, lease_uid) = (identity.to_owned(), String::new());
        let held = LeaseState { identity, lease_uid, until: None, other: None };
        Self(Arc::new(Mutex::new(held)))
    }

    /// The state of a process that leads until `until` without any Lease, for tests.
    #[must_use]
    pub fn assumed(identity: &str, until: Instant) -> Self {
        let leadership = Self::none(identity);
        leadership.set("assumed", Some(until));
        leadership
    }

    /// Whether this process leads at this moment.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.lock().until.is_some_and(|until| Instant::now() < until)
    }

    /// [`Self::holds`] as a `Result`, for use before a disruptive action.
    ///
    /// # Errors
    ///
    /// [`NotLeader`] when this process does not lead.
    pub fn check(&self) -> Result<(), NotLeader> {
        if self.holds() { Ok(()) } else { Err(NotLeader) }
    }

    /// Identity of this process in the Lease.
    #[must_use]
    pub fn identity(&self) -> String {
        self.0.lock().identity.clone()
    }

    /// Uid of the Lease that this process holds or held; empty before.
    #[must_use]
    pub fn lease_uid(&self) -> String {
        self.0.lock().lease_uid.clone()
    }

    /// Identity of another holder of the Lease, as last read.
    #[must_use]
    pub fn other(&self) -> Option<String> {
        self.0.lock().other.clone()
    }

    pub(crate) fn set(&self, lease_uid: &str, until: Option<Instant>) {
        let mut held = self.0.lock();
        held.other = None;
        held.lease_uid = lease_uid.to_owned();
        held.until = until;
    }
}

/// Result of one attempt to acquire or renew the Lease.
#[derive(Debug)]
enum Attempt {
    /// This candidate holds the Lease, as returned by the write.
    Ours(Box<Lease>),
    /// Another process holds it, with its identity if known.
    Theirs(Option<String>),
}

/// Contends for the Lease until `stopping` turns true, and releases it then.
///
/// # Errors
///
/// [`NotLeader`] when this process led and lost the Lease: the process must end.
pub async fn contest(
    api: Api<Lease>,
    mut candidate: Election,
    leadership: Leadership,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), NotLeader> {
    let (name, timing) = (candidate.name().to_owned(), candidate.timing());
    let mut led = false;
    let mut held = None;
    loop {
        let attempt = attempt(&api, &name, &mut candidate, &mut held);
        // The time-out lets the loop check its deadline although the server does not answer.
        match tokio::time::timeout(timing.renew_deadline / 2, attempt).await {
            Ok(Ok(Attempt::Ours(lease))) => {
                let uid = lease.metadata.uid.as_deref().unwrap_or_default();
                leadership.set(uid, candidate.holds_until());
                if !led {
                    tracing::info!(
                        lease = name,
                        identity = leadership.identity(),
                        "Lease acquired, operator leads"
                    );
                    led = true;
                }
            }
            Ok(Ok(Attempt::Theirs(holder))) => leadership.0.lock().other = holder,
            Ok(Err(error)) => {
                tracing::warn!(%error, "reading or writing the Lease failed, will retry")
            }
            Err(_) => tracing::warn!("reading or writing the Lease timed out, will retry"),
        }
        if led && !leadership.holds() {
            leadership.set("", None);
            return Err(NotLeader);
        }
        let pause = tokio::time::sleep(timing.retry_period);
        tokio::select! {
            () = pause => {}
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    leadership.set("", None);
    if led {
        release(&api, &name, &candidate).await;
    }
    Ok(())
}

/// One attempt to acquire or renew the Lease. `held` is the Lease as last written by this process:
/// a holder does not read before a renewal, because a stale write is rejected.
async fn attempt(
    api: &Api<Lease>,
    name: &str,
    candidate: &mut Election,
    held: &mut Option<Lease>,
) -> Result<Attempt, kube::Error> {
    let begun = Instant::now();
    let read = match held.take() {
        Some(held) => Some(held),
        None => api.get_opt(name).await?,
    };
    let written = match candidate.step(read.as_ref(), Instant::now(), Timestamp::now()) {
        Step::Wait => {
            let holder = read.and_then(|lease| lease.spec?.holder_identity);
            return Ok(Attempt::Theirs(holder));
        }
        Step::Create(lease) => api.create(&PostParams::default(), &lease).await,
        Step::Replace(lease) => api.replace(name, &PostParams::default(), &lease).await,
    };
    match written {
        Ok(lease) => {
            candidate.wrote(&lease, begun);
            *held = Some(lease.clone());
            Ok(Attempt::Ours(Box::new(lease)))
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Ok(Attempt::Theirs(None))
        }
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, name: &str, candidate: &Election) {
    let release = async {
        let Some(lease) = api.get_opt(name).await? else { return Ok(()) };
        if let Some(freed) = candidate.release(&lease, Timestamp::now()) {
            api.replace(name, &PostParams::default(), &freed).await?;
        }
        Ok::<(), kube::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(3), release).await {
        Ok(Ok(())) => tracing::info!("Lease released"),
        Ok(Err(error)) => tracing::warn!(%error, "releasing the Lease failed"),
        Err(_) => tracing::warn!("releasing the Lease timed out"),
    }
}

#[cfg(test)]
mod tests;
