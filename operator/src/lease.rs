//! Leader election: one operator acts, the others wait.
//!
//! # Place in the walk
//!
//! `run` waits for [`Leadership`] before it starts a controller. Every act that disrupts somebody asks
//! [`Leadership::holds`] first. The decision itself is in [`election`]; here is the loop that reads
//! and writes the Lease.
//!
//! # Invariants
//!
//! - **K2** fail-stop: a leader that could not renew in time is none, by its own monotonic clock, and
//!   the process ends. It never tries to lead again without a fresh start.
//! - The Lease is not the fence. What the brokers are told carries the epoch that they gave out; the
//!   Lease only says who may claim one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::sync::watch;

pub mod election;

use election::{Election, Step};

/// Whether this process leads. A clone speaks of the same.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    identity: String,
    lease_uid: String,
    until: Option<Instant>,
    /// Who holds the Lease instead, as it was last read.
    other: Option<String>,
}

/// This process does not lead, or no longer.
#[derive(Debug, thiserror::Error)]
#[error("this operator does not hold the Lease")]
pub struct NotLeader;

impl Leadership {
    /// Of a process that does not lead yet.
    #[must_use]
    pub fn none(identity: &str) -> Self {
        let (identity, lease_uid) = (identity.to_owned(), String::new());
        let held = Held { identity, lease_uid, until: None, other: None };
        Self(Arc::new(Mutex::new(held)))
    }

    /// Of a process that leads until `until`, whatever any Lease says: for tests of what follows.
    #[must_use]
    pub fn assumed(identity: &str, until: Instant) -> Self {
        let leadership = Self::none(identity);
        leadership.set("assumed", Some(until));
        leadership
    }

    /// Whether it leads at this moment.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.lock().until.is_some_and(|until| Instant::now() < until)
    }

    /// The same as an error, for use before a disruptive act.
    ///
    /// # Errors
    ///
    /// [`NotLeader`] when it does not.
    pub fn check(&self) -> Result<(), NotLeader> {
        if self.holds() { Ok(()) } else { Err(NotLeader) }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> String {
        self.0.lock().identity.clone()
    }

    /// The uid of the Lease it holds or held.
    #[must_use]
    pub fn lease_uid(&self) -> String {
        self.0.lock().lease_uid.clone()
    }

    /// Who holds the Lease instead, as it was last read.
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

/// What one look at the Lease brought.
#[derive(Debug)]
enum Attempt {
    /// It is this candidate's, as written here.
    Ours(Box<Lease>),
    /// Somebody else has it, by name if that is known.
    Theirs(Option<String>),
}

/// Runs for the Lease until `stopping` turns true, and gives it back then. Returns early, with
/// [`NotLeader`], when it led and lost it: the process must end.
///
/// # Errors
///
/// [`NotLeader`] as said.
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
        // A server that does not answer must not keep the loop from seeing that its time is over.
        match tokio::time::timeout(timing.renew_deadline / 2, attempt).await {
            Ok(Ok(Attempt::Ours(lease))) => {
                let uid = lease.metadata.uid.as_deref().unwrap_or_default();
                leadership.set(uid, candidate.holds_until());
                if !led {
                    tracing::info!(lease = name, identity = leadership.identity(), "leading");
                    led = true;
                }
            }
            Ok(Ok(Attempt::Theirs(holder))) => leadership.0.lock().other = holder,
            Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be read or written"),
            Err(_) => tracing::warn!("the Lease cannot be reached in time"),
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

/// One look at the Lease. `held` is the Lease as this process wrote
/// it last: who holds it need not read it, because a write on what is old is refused.
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
    let give_back = async {
        let Some(lease) = api.get_opt(name).await? else { return Ok(()) };
        if let Some(freed) = candidate.release(&lease, Timestamp::now()) {
            api.replace(name, &PostParams::default(), &freed).await?;
        }
        Ok::<(), kube::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(3), give_back).await {
        Ok(Ok(())) => tracing::info!("the Lease was given back"),
        Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given back"),
        Err(_) => tracing::warn!("the Lease could not be given back in time"),
    }
}

#[cfg(test)]
mod tests;
