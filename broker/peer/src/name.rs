//! The name of a broker in its certificate.
//!
//! The certificate names the broker, not the address: addresses change, and a process that answers
//! at one has to prove which broker it is. The subject alternative names of a broker's certificate
//! contain exactly one DNS name of the form
//!
//! ```text
//! broker-ID.CLUSTER.ropewalk
//! ```
//!
//! `ID` is the broker id in decimal. `CLUSTER` is the cluster id if that is a DNS label (1 to 63 of
//! `a-z`, `0-9` and `-`, no `-` at an end) that does not begin with `x-`; else it is `x-` and the
//! bytes of the cluster id in lower-case hexadecimal, because DNS names ignore case and Kafka's
//! cluster ids do not. The certificate may have other names, such as those of Services; it is valid
//! for server and client authentication.

use std::fmt;

use ropewalk_shard::BrokerId;

/// The top-level label of the names.
const SUFFIX: &str = ".ropewalk";

const PREFIX: &str = "broker-";

/// Longest DNS label, bytes.
const LABEL_BYTES_MAX: usize = 63;

/// The name of a broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerName {
    broker: BrokerId,
    /// The cluster id as a DNS label.
    cluster: String,
}

/// Why there is no name of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The cluster id does not fit into a DNS label.
    #[error(
        "the cluster id {0:?} fits into no certificate name: it must be a DNS label of at most \
         {LABEL_BYTES_MAX} characters, or at most 30 bytes"
    )]
    ClusterId(String),
    /// Broker ids are not negative.
    #[error("the broker id {0} is negative")]
    BrokerId(i32),
    /// The text is no name of a broker.
    #[error("{0:?} is not of the form broker-ID.CLUSTER{SUFFIX}")]
    Form(String),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The certificate names no broker.
    #[error("the certificate has no DNS name of the form broker-ID.CLUSTER{SUFFIX}")]
    Missing,
    /// The certificate names several brokers.
    #[error("the certificate names several brokers: {0} and {1}")]
    Several(BrokerName, BrokerName),
}

impl BrokerName {
    /// The name of a broker of a cluster.
    ///
    /// # Errors
    /// When the cluster id fits into no DNS label, or the broker id is negative.
    pub fn new(broker: BrokerId, cluster_id: &str) -> Result<Self, NameError> {
        if broker.0 < 0 {
            return Err(NameError::BrokerId(broker.0));
        }
        Ok(Self { broker, cluster: label(cluster_id)? })
    }

    /// Reads a DNS name.
    ///
    /// # Errors
    /// When the name is not exactly what [`fmt::Display`] writes for a broker.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let form = || NameError::Form(text.to_owned());
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        let (id, cluster) = rest.and_then(|rest| rest.split_once('.')).ok_or_else(form)?;
        let broker = id.parse::<i32>().map(BrokerId).map_err(|_| form())?;
        let name = Self { broker, cluster: cluster.to_owned() };
        // No sign, no leading zero, and a label in lower case.
        if broker.0 < 0 || !is_label(cluster) || name.to_string() != text {
            return Err(form());
        }
        Ok(name)
    }

    /// The one broker that a certificate names.
    ///
    /// # Errors
    /// When the bytes are no X.509 certificate, or it names no broker or several.
    pub fn of_certificate(der: &rustls::pki_types::CertificateDer<'_>) -> Result<Self, NameError> {
        let certificate = webpki::EndEntityCert::try_from(der)
            .map_err(|error| NameError::Certificate(error.to_string()))?;
        let mut names = certificate.valid_dns_names().filter_map(|name| Self::parse(name).ok());
        let name = names.next().ok_or(NameError::Missing)?;
        match names.find(|other| *other != name) {
            None => Ok(name),
            Some(other) => Err(NameError::Several(name, other)),
        }
    }

    /// Id of the broker.
    #[must_use]
    pub fn broker(&self) -> BrokerId {
        self.broker
    }

    /// Whether the name belongs to the cluster with this id.
    #[must_use]
    pub fn is_of_cluster(&self, cluster_id: &str) -> bool {
        label(cluster_id).is_ok_and(|label| label == self.cluster)
    }
}

impl fmt::Display for BrokerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}{SUFFIX}", self.broker.0, self.cluster)
    }
}

/// The prefix of a label that holds a cluster id in hexadecimal.
const HEX_PREFIX: &str = "x-";

fn label(cluster_id: &str) -> Result<String, NameError> {
    if is_label(cluster_id) && !cluster_id.starts_with(HEX_PREFIX) {
        return Ok(cluster_id.to_owned());
    }
    let hex = cluster_id.bytes().map(|byte| format!("{byte:02x}"));
    let label: String = [HEX_PREFIX.to_owned()].into_iter().chain(hex).collect();
    if cluster_id.is_empty() || label.len() > LABEL_BYTES_MAX {
        return Err(NameError::ClusterId(cluster_id.to_owned()));
    }
    Ok(label)
}

fn is_label(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kafka_cluster_id_is_written_in_hexadecimal() {
        let name = BrokerName::new(BrokerId(3), "Ab_-").expect("it is short");
        assert_eq!(name.to_string(), "broker-3.x-41625f2d.ropewalk");
        let name = BrokerName::new(BrokerId(0), "9d7f2a4e-1").expect("it is a label");
        assert_eq!(name.to_string(), "broker-0.9d7f2a4e-1.ropewalk");
    }

    #[test]
    fn ids_that_dns_cannot_distinguish_have_different_names() {
        let of = |id| BrokerName::new(BrokerId(0), id).expect("it is short");
        assert_ne!(of("x-4142"), of("AB"));
        assert_ne!(of("AB"), of("ab"));
        assert!(of("AB").is_of_cluster("AB"));
        assert!(!of("AB").is_of_cluster("Ab"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "broker-1.ropewalk",
            "broker-01.c.ropewalk",
            "broker-+1.c.ropewalk",
            "broker--1.c.ropewalk",
            "broker-1.C.ropewalk",
            "broker-1.a.b.ropewalk",
            "broker-1.*.ropewalk",
            "*.c.ropewalk",
            "broker-1.c.ropewalk.",
            "broker-99999999999.c.ropewalk",
        ] {
            assert_eq!(BrokerName::parse(text), Err(NameError::Form(text.to_owned())));
        }
        assert_eq!(BrokerName::new(BrokerId(-1), "c"), Err(NameError::BrokerId(-1)));
        for id in [String::new(), "A".repeat(31), "a".repeat(64)] {
            let refused = Err(NameError::ClusterId(id.clone()));
            assert_eq!(BrokerName::new(BrokerId(0), &id), refused);
        }
    }

    proptest! {
        #[test]
        fn a_name_survives_its_text(id in 0..=i32::MAX, cluster in ".{1,16}") {
            if let Ok(name) = BrokerName::new(BrokerId(id), &cluster) {
                prop_assert_eq!(BrokerName::parse(&name.to_string()), Ok(name.clone()));
                prop_assert!(name.is_of_cluster(&cluster));
            }
        }

        #[test]
        fn names_of_different_clusters_differ(one in "[a-cA-C_x-]{1,4}", two in "[a-cA-C_x-]{1,4}") {
            prop_assume!(one != two);
            let names = [&one, &two].map(|id| BrokerName::new(BrokerId(0), id));
            prop_assert_ne!(&names[0], &names[1]);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = BrokerName::parse(&text);
        }
    }
}
