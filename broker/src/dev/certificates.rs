//! Certificates of a trial cluster.
//!
//! Each start makes a new authority and a certificate for every broker, valid for a year. The key
//! of the authority is never written, so nothing else can be certified by it; brokers that run
//! already take the new files over by themselves.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use ropewalk_peer::BrokerName;
use ropewalk_shard::BrokerId;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LIFETIME_DAYS: u32 = 365;

/// The files of one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
}

impl Files {
    /// The paths of a broker's files in the directory of all.
    pub(super) fn of(dir: &Path, broker: i32) -> Self {
        Self {
            certificate: dir.join(format!("broker-{broker}.pem")),
            key: dir.join(format!("broker-{broker}.key")),
            ca: dir.join("ca.pem"),
        }
    }
}

/// Writes the files of all brokers of a cluster.
///
/// # Errors
/// When a key cannot be made, or a file cannot be written.
pub(super) fn write(dir: &Path, cluster_id: &str, brokers: &[i32]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = params(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "ropewalk-broker dev");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key).map_err(io::Error::other)?.pem();
    let issuer = Issuer::new(params, key);
    for broker in brokers {
        let files = Files::of(dir, *broker);
        let name = BrokerName::new(BrokerId(*broker), cluster_id).map_err(io::Error::other)?;
        let (chain, key) = issue(&issuer, &name)?;
        replace(&files.certificate, &chain)?;
        replace(&files.key, &key)?;
        replace(&files.ca, &ca)?;
    }
    Ok(())
}

fn issue(issuer: &Issuer<'_, KeyPair>, name: &BrokerName) -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = params(vec![name.to_string()])?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = params.signed_by(&key, issuer).map_err(io::Error::other)?.pem();
    Ok((chain, key.serialize_pem()))
}

/// Valid from yesterday, because clocks differ.
fn params(names: Vec<String>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + DAY * LIFETIME_DAYS;
    Ok(params)
}

/// Writes a file that only this user may read, and puts it in the place of an earlier one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use ropewalk_peer::inbox::{Connected, Delivery};
    use ropewalk_peer::{CertificateFiles, Inbox, Options, Peers};
    use ropewalk_shard::{Payload, ShardId};
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_broker_of_the_cluster_accepts_its_files_and_no_other() {
        let dir = TempDir::new().expect("a directory");
        let cluster = "4L6g3nShT-eMCtK--X86sw";
        write(dir.path(), cluster, &[1, 2]).expect("written");
        // A second call replaces the earlier files.
        write(dir.path(), cluster, &[1, 2]).expect("written");
        let open = |broker: i32, files: i32| {
            let Files { certificate, key, ca } = Files::of(dir.path(), files);
            let free = "127.0.0.1:0".parse().expect("an address");
            let options = Options {
                broker: BrokerId(broker),
                cluster_id: cluster.to_owned(),
                incarnation: 1,
                started: None,
                features: 1,
                listen: [free, free],
                certificates: CertificateFiles { chain: certificate, key, ca },
            };
            Peers::open(options, Arc::new(Silent)).map(|_| ())
        };
        open(1, 1).expect("its own certificate");
        open(2, 2).expect("its own certificate");
        let wrong = open(2, 1).expect_err("the certificate of another broker").to_string();
        assert!(wrong.contains("is not that of broker-2."), "{wrong}");
    }

    #[test]
    fn others_cannot_read_the_key() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TempDir::new().expect("a directory");
        write(dir.path(), "c", &[7]).expect("written");
        let mode =
            fs::metadata(Files::of(dir.path(), 7).key).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// No peer connects in these tests.
    struct Silent;

    impl Inbox for Silent {
        fn control(&self, _: BrokerId, _: ShardId, _: Bytes) {}

        fn append(&self, _: BrokerId, _: ShardId, _: Bytes) -> Delivery<'_, ()> {
            Box::pin(async {})
        }

        fn request(&self, _: BrokerId, _: Bytes) -> Delivery<'_, Option<Payload>> {
            Box::pin(async { None })
        }

        fn connected(&self, _: Connected) {}

        fn disconnected(&self, _: BrokerId) {}

        fn ended(&self, _: BrokerId) {}
    }
}
