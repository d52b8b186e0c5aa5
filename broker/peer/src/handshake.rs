//! The exchange of hellos on a connection whose TLS handshake is complete.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, SendStream};
use ropewalk_shard::BrokerId;
use tokio::time::timeout;

use crate::admission::{self, Dialler};
use crate::hello::{Answer, Class, Hello, PROTOCOLS, Reason, Refusal};
use crate::inbox::Connected;
use crate::limits;
use crate::local::{Local, name_of};
use crate::name::BrokerName;
use crate::peer::{Close, Peer};
use crate::queue::LinkId;
use crate::stream;

/// A connection with an accepted hello. Dropping it closes the connection.
pub(crate) struct Accepted {
    pub(crate) local: Arc<Local>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) class: Class,
    pub(crate) id: LinkId,
    pub(crate) protocol: u16,
    pub(crate) connection: Connection,
    incarnation: u64,
    features: u32,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This broker refused the other's hello.
    Refused(Refusal),
    /// The other broker refused this one's hello.
    Rejected(Refusal),
    /// The connection failed.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused here: {refusal}"),
            Self::Rejected(refusal) => write!(f, "refused by the other broker: {refusal}"),
            Self::Broken(error) => f.write_str(error),
        }
    }
}

impl Failure {
    /// Whether the two brokers are connected already, which is no problem.
    pub(crate) fn is_duplicate(&self) -> bool {
        match self {
            Self::Refused(refusal) | Self::Rejected(refusal) => refusal.reason == Reason::Duplicate,
            Self::Broken(_) => false,
        }
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

impl Accepted {
    fn new(
        local: &Arc<Local>,
        peer: &Arc<Peer>,
        theirs: &Hello,
        dialler: Dialler,
        connection: &Connection,
    ) -> Result<Self, Refusal> {
        let id = peer.admit(theirs, dialler, connection)?;
        let accepted = Self {
            local: local.clone(),
            peer: peer.clone(),
            class: theirs.class,
            id,
            protocol: PROTOCOLS.highest.min(theirs.protocols.highest),
            connection: connection.clone(),
            incarnation: theirs.incarnation,
            features: theirs.features,
        };
        // The authorities may have changed since the TLS handshake. A change from here on finds the
        // connection among the current ones.
        match local.trusts(connection) {
            Ok(()) => Ok(accepted),
            Err(error) => Err(Refusal::new(Reason::Broker, error)),
        }
    }

    /// Reports a connection for messages to the caller, if it is still the current one.
    pub(crate) fn report(&self) {
        // Held during the call, so that the caller learns of changes in their order.
        let mut is_reported = self.peer.is_reported.lock();
        if self.class == Class::Raft && self.peer.is_current(self.class, self.id) {
            *is_reported = true;
            self.local.inbox.connected(Connected {
                broker: self.peer.broker,
                incarnation: self.incarnation,
                features: self.features,
                protocol: self.protocol,
            });
        }
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        Close::Failed.close(&self.connection, "the connection is no longer used");
        let mut is_reported = self.peer.is_reported.lock();
        let is_last = self.peer.release(self.class, self.id) && self.class == Class::Raft;
        if is_last && std::mem::take(&mut *is_reported) {
            self.local.inbox.disconnected(self.peer.broker);
        }
    }
}

/// Greets the broker that was dialled.
pub(crate) async fn greet(
    local: &Arc<Local>,
    peer: &Arc<Peer>,
    class: Class,
    connection: &Connection,
) -> Result<Accepted, Failure> {
    let certificate = name_of(connection).map_err(broken)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    let hello = local.identity.hello(peer.broker, class);
    // An error is in the answer, too, and with its reason.
    let _ = stream::write_hello(&mut send, hello.encode()).await;
    let answer = stream::read_hello(&mut receive).await;
    // The reason for which the other side closes the connection says more than that it does.
    let closed = || connection.close_reason().map(broken);
    let answer = answer.map_err(|error| closed().unwrap_or_else(|| broken(error)))?;
    let (protocol, theirs) = match Answer::decode(&answer).map_err(broken)? {
        Answer::Accepted { protocol, hello } => (protocol, hello),
        Answer::Refused(refusal) => {
            peer.rejected();
            return Err(Failure::Rejected(refusal));
        }
    };
    let accepted = local.identity.check(&certificate, &theirs, class).and_then(|common| {
        if protocol != common {
            let text = format!("version {protocol} of the protocol answers, not {common}");
            return Err(Refusal::new(Reason::Protocol, text));
        }
        if theirs.broker != peer.broker {
            let text = format!("broker {} answers for {}", theirs.broker.0, peer.broker.0);
            return Err(Refusal::new(Reason::Broker, text));
        }
        Accepted::new(local, peer, &theirs, Dialler::Own, connection)
    });
    accepted.map_err(|refusal| {
        if refusal.reason != Reason::Duplicate {
            peer.refused();
        }
        Close::Refused.close(connection, &refusal.text);
        Failure::Refused(refusal)
    })
}

/// Answers the hello of a broker that has dialled. An error comes with the broker that the
/// certificate names.
pub(crate) async fn welcome(
    local: &Arc<Local>,
    class: Class,
    connection: &Connection,
) -> Result<Accepted, (Option<BrokerId>, Failure)> {
    let certificate = name_of(connection);
    let named = certificate.as_ref().ok().map(BrokerName::broker);
    let answered = async {
        let (mut send, mut receive) = connection.accept_bi().await.map_err(broken)?;
        let hello = stream::read_hello(&mut receive).await.map_err(broken)?;
        let certificate =
            certificate.map_err(|error| Refusal::new(Reason::Broker, error.to_string()));
        let decided = certificate.and_then(|name| decide(local, &name, class, &hello, connection));
        match decided {
            Ok((accepted, answer)) => {
                stream::write_hello(&mut send, answer).await.map_err(broken)?;
                Ok(accepted)
            }
            Err(refusal) => {
                if refusal.reason != Reason::Duplicate {
                    count_refusal(local, named);
                }
                refuse(send, &refusal, connection).await;
                Err(Failure::Refused(refusal))
            }
        }
    };
    answered.await.map_err(|failure| (named, failure))
}

/// Decides on a hello. Returns the connection and the bytes of the answer.
fn decide(
    local: &Arc<Local>,
    certificate: &BrokerName,
    class: Class,
    hello: &[u8],
    connection: &Connection,
) -> Result<(Accepted, Bytes), Refusal> {
    let theirs =
        Hello::decode(hello).map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
    let protocol = local.identity.check(certificate, &theirs, class)?;
    let own = local.identity.broker;
    let peer =
        local.peer(theirs.broker).ok_or_else(|| admission::not_a_member(theirs.broker, own))?;
    let accepted = Accepted::new(local, &peer, &theirs, Dialler::Peer, connection)?;
    let hello = local.identity.hello(theirs.broker, class);
    Ok((accepted, Answer::Accepted { protocol, hello }.encode()))
}

fn count_refusal(local: &Local, named: Option<BrokerId>) {
    match named.and_then(|broker| local.peer(broker)) {
        Some(peer) => peer.refused(),
        None => local.refused_unknown(),
    }
}

/// Sends the refusal, waits until the other side has read it and closes the connection, and closes
/// it otherwise: a close overtakes what is not read yet.
async fn refuse(mut send: SendStream, refusal: &Refusal, connection: &Connection) {
    let answer = Answer::Refused(refusal.clone()).encode();
    if stream::write_hello(&mut send, answer).await.is_ok() {
        let _ = timeout(limits::REFUSAL_TIMEOUT, connection.closed()).await;
    }
    Close::Refused.close(connection, &refusal.text);
}
