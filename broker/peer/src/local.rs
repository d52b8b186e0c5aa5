//! What all connections of this broker share: its identity, its certificates, the list of peers.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use quinn::Connection;
use ropewalk_shard::BrokerId;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use crate::admission::Identity;
use crate::certificates::{CertificateError, CertificateFiles, Credentials, Stamp};
use crate::hello::Class;
use crate::inbox::Inbox;
use crate::limits;
use crate::name::{BrokerName, NameError};
use crate::notices::{Notices, Subject};
use crate::peer::{Peer, PeerAddress};
use crate::transport::Configs;

pub(crate) struct Local {
    pub(crate) identity: Identity,
    pub(crate) inbox: Arc<dyn Inbox>,
    name: BrokerName,
    files: CertificateFiles,
    tls: RwLock<Tls>,
    /// The state of the files at the last attempt to use them.
    stamp: Mutex<Stamp>,
    peers: RwLock<BTreeMap<BrokerId, Arc<Peer>>>,
    /// Wakes the task that starts a task for each peer.
    pub(crate) peers_changed: Notify,
    notices: Mutex<Notices>,
    unknown_refused: AtomicU64,
}

struct Tls {
    credentials: Credentials,
    /// Indexed by [`Class::index`].
    configs: [Configs; 2],
}

impl Tls {
    fn load(files: &CertificateFiles, name: &BrokerName) -> Result<Self, CertificateError> {
        let credentials = Credentials::load(files, name)?;
        let configs = Class::ALL.map(|class| Configs::new(&credentials, class));
        Ok(Self { credentials, configs })
    }
}

impl Local {
    pub(crate) fn new(
        identity: Identity,
        name: BrokerName,
        files: CertificateFiles,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Self, CertificateError> {
        let stamp = Stamp::of(&files);
        let tls = Tls::load(&files, &name)?;
        Ok(Self {
            identity,
            inbox,
            name,
            files,
            tls: RwLock::new(tls),
            stamp: Mutex::new(stamp),
            peers: RwLock::default(),
            peers_changed: Notify::new(),
            notices: Mutex::default(),
            unknown_refused: AtomicU64::new(0),
        })
    }

    pub(crate) fn configs(&self, class: Class) -> Configs {
        self.tls.read().configs[class.index()].clone()
    }

    /// Reads the certificate files. Later connections use them; present ones stay if the new
    /// authorities vouch for the certificate that the peer has presented.
    pub(crate) fn reload(&self) -> Result<(), CertificateError> {
        // Held to the end, so that two reloads do not overtake each other. The state is read first:
        // a change during the reload is noticed later.
        let mut stamp = self.stamp.lock();
        *stamp = Stamp::of(&self.files);
        match Tls::load(&self.files, &self.name) {
            Ok(tls) => *self.tls.write() = tls,
            Err(error) => {
                if self.is_new(Subject::Certificates, &error) {
                    tracing::error!(
                        %error,
                        "certificate files refused, the earlier ones stay in use"
                    );
                }
                return Err(error);
            }
        }
        self.notices.lock().is_over(&Subject::Certificates);
        tracing::info!(chain = %self.files.chain.display(), "certificate files reloaded");
        for peer in self.peers.read().values() {
            peer.recheck(|connection| self.trusts(connection));
        }
        Ok(())
    }

    /// Whether the present authorities vouch for the certificate of the other side.
    pub(crate) fn trusts(&self, connection: &Connection) -> Result<(), String> {
        let chain = chain_of(connection);
        self.tls.read().credentials.trusts(&chain).map_err(|error| error.to_string())
    }

    /// Reads the certificate files if they have changed since the last attempt.
    pub(crate) fn reload_if_changed(&self) {
        if *self.stamp.lock() != Stamp::of(&self.files) {
            // The error has been logged.
            let _ = self.reload();
        }
    }

    pub(crate) fn peer(&self, broker: BrokerId) -> Option<Arc<Peer>> {
        self.peers.read().get(&broker).cloned()
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    /// Replaces the list of peers. This broker itself is skipped, and so are those beyond
    /// [`limits::PEERS_MAX`], the highest ids first.
    pub(crate) fn set_peers(&self, addresses: &BTreeMap<BrokerId, PeerAddress>) {
        let own = self.identity.broker;
        let mut peers = self.peers.write();
        let others = || addresses.iter().filter(move |(broker, _)| **broker != own);
        let wanted: BTreeMap<_, _> = others().take(limits::PEERS_MAX).collect();
        if others().count() > wanted.len() {
            tracing::error!(
                max = limits::PEERS_MAX,
                "brokers skipped: the cluster has more than are supported"
            );
        }
        peers.retain(|broker, peer| {
            let stays = wanted.contains_key(broker);
            if !stays {
                peer.remove();
            }
            stays
        });
        for (broker, address) in wanted {
            let peer =
                peers.entry(*broker).or_insert_with(|| Peer::new(own, *broker, address.clone()));
            *peer.address.lock() = address.clone();
        }
        drop(peers);
        self.peers_changed.notify_one();
    }

    /// Whether the problem has to be logged.
    pub(crate) fn is_new(&self, subject: Subject, problem: impl Display) -> bool {
        self.notices.lock().is_new(subject, &problem.to_string())
    }

    pub(crate) fn is_over(&self, subject: &Subject) {
        self.notices.lock().is_over(subject);
    }

    /// Counts a connection that was refused before a peer was identified.
    pub(crate) fn refused_unknown(&self) {
        self.unknown_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unknown_refused(&self) -> u64 {
        self.unknown_refused.load(Ordering::Relaxed)
    }
}

/// The broker that the certificate of the other side names.
pub(crate) fn name_of(connection: &Connection) -> Result<BrokerName, NameError> {
    let chain = chain_of(connection);
    chain.first().ok_or(NameError::Missing).and_then(BrokerName::of_certificate)
}

/// The certificates that the other side has presented; none before the end of the handshake.
fn chain_of(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.map(|chain| *chain).unwrap_or_default()
}
