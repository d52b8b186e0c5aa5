//! A certificate authority and the files of a broker.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ropewalk_peer::CertificateFiles;
use tempfile::TempDir;

/// The cluster of all tests.
pub(crate) const CLUSTER: &str = "c1";

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
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

    /// A certificate with these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate().expect("it works in a test");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("it works in a test");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.issuer).expect("it works in a test").pem();
        Issued { chain, key: key.serialize_pem() }
    }

    /// A certificate of a broker of the cluster.
    pub(crate) fn broker(&self, id: i32) -> Issued {
        self.issue(&[&name(id)])
    }
}

/// The name of a broker of the cluster.
pub(crate) fn name(id: i32) -> String {
    format!("broker-{id}.{CLUSTER}.ropewalk")
}

/// The certificate files of a broker in a directory of their own.
pub(crate) struct Files {
    directory: TempDir,
}

impl Files {
    pub(crate) fn new(issued: &Issued, authorities: &[&Authority]) -> Self {
        let files = Self { directory: TempDir::new().expect("it works in a test") };
        files.write(issued, authorities);
        files
    }

    /// Replaces the files.
    pub(crate) fn write(&self, issued: &Issued, authorities: &[&Authority]) {
        fs::write(self.path("chain"), &issued.chain).expect("it works in a test");
        fs::write(self.path("key"), &issued.key).expect("it works in a test");
        let all: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
        fs::write(self.path("ca"), all).expect("it works in a test");
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn paths(&self) -> CertificateFiles {
        CertificateFiles { chain: self.path("chain"), key: self.path("key"), ca: self.path("ca") }
    }
}
