//! A certificate authority, and the certificate files of a broker.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ropewalk_peer::CertificateFiles;
use tempfile::TempDir;

/// The cluster of all tests.
pub(crate) const CLUSTER: &str = "c1";

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("it works in a test");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("it works in a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("it works in a test").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes the files of a broker of the cluster into a directory of their own.
    pub(crate) fn files(&self, broker: i32) -> (TempDir, CertificateFiles) {
        let key = KeyPair::generate().expect("it works in a test");
        let name = format!("broker-{broker}.{CLUSTER}.ropewalk");
        let mut params = CertificateParams::new(vec![name]).expect("it works in a test");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.issuer).expect("it works in a test").pem();
        let dir = TempDir::new().expect("a directory");
        let path = |file: &str| dir.path().join(file);
        let files = CertificateFiles { chain: path("chain"), key: path("key"), ca: path("ca") };
        fs::write(&files.chain, chain).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        fs::write(&files.ca, &self.pem).expect("written");
        (dir, files)
    }
}
