//! Accepts the connections that peers dial, and serves them.

use std::sync::Arc;

use quinn::{Endpoint, Incoming};
use ropewalk_shard::BrokerId;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::handshake::{Accepted, Failure, welcome};
use crate::hello::Class;
use crate::limits;
use crate::link;
use crate::local::Local;
use crate::notices::Subject;
use crate::tasks::Tasks;

/// The port of one class.
pub(crate) struct Port {
    pub(crate) local: Arc<Local>,
    pub(crate) endpoint: Endpoint,
    pub(crate) class: Class,
}

impl Port {
    /// Accepts connections until the endpoint is closed.
    pub(crate) async fn run(self) {
        let port = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(limits::HANDSHAKES_MAX));
        let mut tasks = Tasks::default();
        loop {
            tokio::select! {
                incoming = port.endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    match handshakes.clone().try_acquire_owned() {
                        Ok(place) => {
                            let port = port.clone();
                            tasks.start(async move {
                                let accepted = port.accept(incoming).await;
                                drop(place);
                                if let Some(accepted) = accepted {
                                    port.serve(accepted).await;
                                }
                            });
                        }
                        Err(_) => {
                            port.local.refused_unknown();
                            incoming.refuse();
                        }
                    }
                }
                panic = tasks.panicked() => {
                    tracing::error!(class = %port.class, error = panic, "connection of broker lost");
                }
            }
        }
    }

    async fn accept(&self, incoming: Incoming) -> Option<Accepted> {
        let address = incoming.remote_address().ip();
        let unknown = Subject::Unknown(address, self.class);
        let failed = match timeout(limits::CONNECT_TIMEOUT, self.welcome(incoming)).await {
            Ok(Ok(accepted)) => {
                self.local.is_over(&unknown);
                self.local.is_over(&Subject::Accepted(accepted.peer.broker, self.class));
                return Some(accepted);
            }
            Ok(Err(failed)) => failed,
            Err(_) => {
                let text = format!("no hello within {:?}", limits::CONNECT_TIMEOUT);
                (None, Failure::Broken(text))
            }
        };
        let (named, failure) = failed;
        if matches!(failure, Failure::Broken(_)) {
            self.local.refused_unknown();
        }
        let subject = named.map_or(unknown, |broker| Subject::Accepted(broker, self.class));
        if !failure.is_duplicate() && self.local.is_new(subject, &failure) {
            tracing::warn!(
                broker = named.map(|broker| broker.0),
                class = %self.class,
                %address,
                error = %failure,
                "connection of broker refused"
            );
        }
        None
    }

    async fn welcome(&self, incoming: Incoming) -> Result<Accepted, (Option<BrokerId>, Failure)> {
        let broken =
            |error: quinn::ConnectionError| (None::<BrokerId>, Failure::Broken(error.to_string()));
        let server = self.local.configs(self.class).server;
        let connecting = incoming.accept_with(server).map_err(broken)?;
        let connection = connecting.await.map_err(broken)?;
        welcome(&self.local, self.class, &connection).await
    }

    async fn serve(&self, accepted: Accepted) {
        let (broker, class) = (accepted.peer.broker.0, self.class);
        let address = accepted.connection.remote_address();
        tracing::info!(broker, %class, %address, "broker connected");
        let error = link::run(accepted).await;
        tracing::info!(broker, %class, %error, "connection of broker ended");
    }
}
