//! Dials a peer until there is a connection, serves the connection, and dials again.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ConnectError, Endpoint};
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff;
use crate::handshake::{Accepted, Failure, greet};
use crate::hello::Class;
use crate::limits;
use crate::link;
use crate::local::Local;
use crate::name::BrokerName;
use crate::notices::Subject;
use crate::peer::Peer;

/// The connections of one class to one peer that this broker dials. It never ends.
pub(crate) struct Dial {
    pub(crate) local: Arc<Local>,
    pub(crate) endpoint: Endpoint,
    pub(crate) peer: Arc<Peer>,
    pub(crate) class: Class,
}

impl Dial {
    pub(crate) async fn run(self) {
        let (own, broker) = (self.local.identity.broker, self.peer.broker);
        let subject = Subject::Dialled(broker, self.class);
        let mut failures = 0;
        loop {
            while self.peer.is_linked(self.class) {
                self.peer.unlinked[self.class.index()].notified().await;
                failures = 0;
            }
            sleep(backoff::delay(own, broker, failures, random())).await;
            if self.peer.is_linked(self.class) {
                continue;
            }
            match self.attempt(failures).await {
                Ok(accepted) => {
                    self.local.is_over(&subject);
                    let start = Instant::now();
                    self.serve(accepted).await;
                    // A connection that ends as soon as it begins is dialled no more often than one
                    // that fails.
                    let is_stable = start.elapsed() >= backoff::LAST;
                    failures = if is_stable { 0 } else { failures.saturating_add(1) };
                }
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    self.peer.failed(self.class);
                    self.report(&subject, &failure);
                }
            }
        }
    }

    async fn serve(&self, accepted: Accepted) {
        let (broker, class) = (self.peer.broker.0, self.class);
        let address = accepted.connection.remote_address();
        tracing::info!(broker, %class, %address, "connected to broker");
        let error = link::run(accepted).await;
        tracing::info!(broker, %class, %error, "connection to broker ended");
    }

    fn report(&self, subject: &Subject, failure: &Failure) {
        if !failure.is_duplicate() && self.local.is_new(subject.clone(), failure) {
            let (broker, class) = (self.peer.broker.0, self.class);
            tracing::warn!(broker, %class, error = %failure, "connecting to broker failed, will retry");
        }
    }

    async fn attempt(&self, failures: u32) -> Result<Accepted, Failure> {
        let timed_out =
            || Failure::Broken(format!("no answer within {:?}", limits::CONNECT_TIMEOUT));
        timeout(limits::CONNECT_TIMEOUT, self.connect(failures)).await.map_err(|_| timed_out())?
    }

    async fn connect(&self, failures: u32) -> Result<Accepted, Failure> {
        let name = BrokerName::new(self.peer.broker, &self.local.identity.cluster_id);
        let name = name.map_err(broken)?.to_string();
        let address = self.resolve(failures).await?;
        let client = self.local.configs(self.class).client;
        let connecting = match self.endpoint.connect_with(client, address, &name) {
            // The service ends this task.
            Err(ConnectError::EndpointStopping) => pending().await,
            connecting => connecting.map_err(broken)?,
        };
        let connection = connecting.await.map_err(broken)?;
        // A connection that nothing uses any more is closed.
        greet(&self.local, &self.peer, self.class, &connection).await
    }

    /// The address of this attempt. When the name has several, the attempts take turns.
    async fn resolve(&self, failures: u32) -> Result<SocketAddr, Failure> {
        let (host, port) = {
            let address = self.peer.address.lock();
            (address.host.clone(), address.ports[self.class.index()])
        };
        let resolved = lookup_host((host.as_str(), port)).await;
        let resolved = resolved.map_err(|error| broken(format!("{host} not resolved: {error}")))?;
        let takes_ipv6 = self.endpoint.local_addr().is_ok_and(|own| own.is_ipv6());
        let all: Vec<SocketAddr> =
            resolved.filter(|address| takes_ipv6 || address.is_ipv4()).collect();
        let turn = usize::try_from(failures).unwrap_or_default() % all.len().max(1);
        all.get(turn).copied().ok_or_else(|| broken(format!("{host} has no usable address")))
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

/// A random number for the delay; 0 if the system has none.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}
