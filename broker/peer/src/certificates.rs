//! The certificate of this broker and the authorities that it trusts, from PEM files.
//!
//! TLS 1.3 with certificates on both sides, and nothing else. Sessions are not resumed: a resumed
//! session would not be verified against the present authorities. `name.rs` describes the names.
//!
//! The files may change at any time, because certificates are renewed. New files are verified as a
//! peer would verify them before they are used; what does not verify is refused as a whole, and the
//! earlier files stay in use.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::limits;
use crate::name::{BrokerName, NameError};

/// The application protocol in the TLS handshake. Versions are agreed on in the hello.
const ALPN: &[u8] = b"ropewalk-peer";

/// The PEM files of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate of the broker, then intermediate ones.
    pub chain: PathBuf,
    /// The private key of the certificate: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The certificates of the trusted authorities. While an authority is replaced, the old and the
    /// new one.
    pub ca: PathBuf,
}

/// Why certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// A file contains no valid PEM of the expected kind.
    #[error("{} contains no {what}: {error}", path.display())]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// Why it failed.
        error: rustls::pki_types::pem::Error,
    },
    /// The certificate has not the name of this broker.
    #[error("the certificate in {} is not that of {expected}: {found}", path.display())]
    Name {
        /// The file of the certificate.
        path: PathBuf,
        /// The name of this broker.
        expected: BrokerName,
        /// The name in the certificate, or why it has none.
        found: String,
    },
    /// The authorities do not vouch for the certificate.
    #[error("peers would refuse the certificate in {}: {error}", path.display())]
    Untrusted {
        /// The file of the certificate.
        path: PathBuf,
        /// Why it failed.
        error: rustls::Error,
    },
    /// The files contradict each other, or their algorithms are not supported.
    #[error("the certificate files cannot be used: {0}")]
    Unusable(String),
}

impl From<VerifierBuilderError> for CertificateError {
    fn from(error: VerifierBuilderError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// What TLS needs of the files.
pub(crate) struct Credentials {
    pub(crate) server: Arc<QuicServerConfig>,
    pub(crate) client: Arc<QuicClientConfig>,
    peers: Arc<dyn ClientCertVerifier>,
}

impl Credentials {
    /// Reads and verifies the files of the broker with the name `own`.
    pub(crate) fn load(
        files: &CertificateFiles,
        own: &BrokerName,
    ) -> Result<Self, CertificateError> {
        let chain = certificates(&files.chain)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| {
            CertificateError::Pem { path: files.key.clone(), what: "private key", error }
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca)? {
            roots.add(root).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let peers =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let servers =
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let credentials = |error| CertificateError::Untrusted { path: files.chain.clone(), error };
        verify_own(&chain, own, files)?;
        let name = server_name(own);
        let (leaf, rest) = chain.split_first().expect("there is at least one certificate");
        let now = UnixTime::now();
        servers.verify_server_cert(leaf, rest, &name, &[], now).map_err(credentials)?;
        peers.verify_client_cert(leaf, rest, now).map_err(credentials)?;

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(peers.clone())
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            server: Arc::new(server.try_into().map_err(unusable)?),
            client: Arc::new(client.try_into().map_err(unusable)?),
            peers,
        })
    }

    /// Whether the authorities vouch for the certificates that a peer has presented.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (leaf, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.peers.verify_client_cert(leaf, rest, UnixTime::now()).map(|_| ())
    }
}

fn unusable(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Unusable(error.to_string())
}

/// The name of a broker as TLS compares it.
fn server_name(name: &BrokerName) -> ServerName<'static> {
    ServerName::try_from(name.to_string()).expect("a broker's name is a DNS name")
}

fn verify_own(
    chain: &[CertificateDer<'_>],
    own: &BrokerName,
    files: &CertificateFiles,
) -> Result<(), CertificateError> {
    let leaf = chain.first().ok_or(NameError::Missing);
    let found = match leaf.and_then(BrokerName::of_certificate) {
        Ok(name) if name == *own => return Ok(()),
        Ok(name) => format!("it is that of {name}"),
        Err(error) => error.to_string(),
    };
    Err(CertificateError::Name { path: files.chain.clone(), expected: own.clone(), found })
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let pem = |error| CertificateError::Pem { path: path.to_owned(), what: "certificate", error };
    let all = all.map_err(pem)?;
    if all.is_empty() {
        return Err(pem(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut bytes = Vec::new();
    let max = limits::CERTIFICATE_FILE_BYTES_MAX;
    let result = File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    let result = result.and_then(|read| {
        let is_small = read as u64 <= max;
        is_small.then_some(()).ok_or_else(|| io::Error::other(format!("it has over {max} bytes")))
    });
    match result {
        Ok(()) => Ok(bytes),
        Err(error) => Err(CertificateError::Read { path: path.to_owned(), error }),
    }
}

/// When the files were changed last. Kubernetes replaces all files of a Secret at once by changing
/// a symbolic link, which this follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp([Option<(SystemTime, u64)>; 3]);

impl Stamp {
    pub(crate) fn of(files: &CertificateFiles) -> Self {
        Self([&files.chain, &files.key, &files.ca].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        }))
    }
}
