//! The settings by which a broker is one of several: its address for the other brokers, its
//! certificate, and the brokers that it asks to join their cluster.
//!
//! Either all that several brokers need is set, or nothing: a broker that is half configured would
//! be alone without saying so.

use std::path::PathBuf;

use super::key::list;
use super::{Endpoint, Invalid, Settings};

const LISTENER: &str = "ropewalk.peer.listener";
const ADVERTISED: &str = "ropewalk.peer.advertised";
const CERTIFICATE: &str = "ropewalk.peer.certificate.file";
const KEY: &str = "ropewalk.peer.key.file";
const CA: &str = "ropewalk.peer.ca.file";
const JOIN: &str = "ropewalk.cluster.join";

/// The largest port of the messages, because the port after it is that of the files.
const PORT_MAX: u16 = u16::MAX - 1;

/// How a broker reaches the other brokers of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    /// The UDP address to bind for Raft's messages; without a host, all addresses. Files use the
    /// next port. Port 0 picks two free ports.
    pub listener: Endpoint,
    /// The address that the other brokers are given; `None` if it is that of `listener`.
    pub advertised: Option<Endpoint>,
    /// The PEM file with the certificate of this broker and the intermediate ones.
    pub certificate: PathBuf,
    /// The PEM file with the private key of the certificate.
    pub key: PathBuf,
    /// The PEM file with the certificates of the trusted authorities.
    pub ca: PathBuf,
    /// Admin addresses of brokers, one of which is asked to join when the data directory is empty.
    /// Empty for the broker that founds the cluster.
    pub join: Vec<Endpoint>,
}

impl PeerSettings {
    /// The two UDP ports that begin with `port`, by class: messages, files.
    #[must_use]
    pub fn ports(port: u16) -> [u16; 2] {
        [port, if port == 0 { 0 } else { port.saturating_add(1) }]
    }
}

impl Settings {
    /// The settings for several brokers; `None` for a broker that is alone.
    ///
    /// # Errors
    /// When a value is malformed, or only a part of what is needed is set.
    pub fn peers(&self) -> Result<Option<PeerSettings>, Invalid> {
        let Some(listener) = self.filled(LISTENER) else {
            return match [ADVERTISED, CERTIFICATE, KEY, CA, JOIN]
                .into_iter()
                .find_map(|name| Some((name, self.filled(name)?)))
            {
                Some((name, value)) => Err(Invalid::value(
                    name,
                    &value,
                    format!(
                        "It has an effect only with {LISTENER}: set that too, or remove {name} for a broker \
                         that is alone"
                    ),
                )),
                None => Ok(None),
            };
        };
        let file =
            |name: &str| self.filled(name).map(PathBuf::from).ok_or_else(|| needs(name, &listener));
        let (certificate, key, ca) = (file(CERTIFICATE)?, file(KEY)?, file(CA)?);
        let join = self.filled(JOIN).unwrap_or_default();
        let join = list(&join).map(|item| specific(JOIN, item)).collect::<Result<_, _>>()?;
        let advertised = match self.filled(ADVERTISED) {
            Some(text) => Some(specific(ADVERTISED, &text).and_then(|e| with_room(ADVERTISED, e))?),
            None => None,
        };
        let listener = Endpoint::parse(&listener).ok_or_else(|| {
            Invalid::value(LISTENER, &listener, "It is not of the form HOST:PORT".into())
        })?;
        let listener = with_room(LISTENER, listener)?;
        Ok(Some(PeerSettings { listener, advertised, certificate, key, ca, join }))
    }

    /// Checks that a broker that joins has an id of its own, and not the default of all.
    pub(super) fn check_join(&self, has_id: bool) -> Result<(), Invalid> {
        match self.filled(JOIN) {
            Some(join) if !has_id => {
                let reason = "node.id is not set: each broker of a cluster needs an id of its own";
                Err(Invalid::value(JOIN, &join, reason.into()))
            }
            _ => Ok(()),
        }
    }

    /// The value of a key, without spaces around it; `None` if that is empty.
    pub(super) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

fn needs(name: &str, listener: &str) -> Invalid {
    let reason = format!(
        "{name} is needed as well: brokers accept each other only by certificates. Set {name}, or \
         remove {LISTENER} for a broker that is alone"
    );
    Invalid::value(LISTENER, listener, reason)
}

/// An address that others can connect to.
fn specific(name: &str, text: &str) -> Result<Endpoint, Invalid> {
    let endpoint =
        Endpoint::parse(text).filter(|endpoint| !endpoint.is_wildcard() && endpoint.port != 0);
    let reason =
        || format!("{text} is not of the form HOST:PORT with the host and port of one broker");
    endpoint.ok_or_else(|| Invalid::value(name, text, reason()))
}

/// Checks that the port after it exists, which is that of the files.
fn with_room(name: &str, endpoint: Endpoint) -> Result<Endpoint, Invalid> {
    if endpoint.port <= PORT_MAX {
        return Ok(endpoint);
    }
    let text = format!("{}:{}", endpoint.host, endpoint.port);
    let reason =
        format!("The port must be no more than {PORT_MAX}, because the next one is used for files");
    Err(Invalid::value(name, &text, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 3] =
        [(CERTIFICATE, "/c/tls.crt"), (KEY, "/c/tls.key"), (CA, "/c/ca.crt")];

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::new(pairs)
            .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn with_files(pairs: &[(&str, &str)]) -> Result<PeerSettings, String> {
        let all: Vec<_> = FILES.iter().chain(pairs).copied().collect();
        let settings = settings(&all)?;
        Ok(settings.peers().expect("checked when it was read").expect("not alone"))
    }

    #[test]
    fn without_a_listener_a_broker_is_alone() {
        assert_eq!(settings(&[]).expect("valid").peers(), Ok(None));
        assert_eq!(settings(&[(LISTENER, " "), (JOIN, "")]).expect("valid").peers(), Ok(None));
    }

    #[test]
    fn what_several_brokers_need_is_read() {
        let founder = with_files(&[(LISTENER, ":9744")]).expect("valid");
        assert_eq!(founder.listener, Endpoint { host: String::new(), port: 9744 });
        assert_eq!((founder.advertised, founder.join), (None, Vec::new()));
        assert_eq!(founder.key, PathBuf::from("/c/tls.key"));
        let joining = [
            (LISTENER, "0.0.0.0:9744"),
            (ADVERTISED, "b-2.brokers:9800"),
            (JOIN, "b-1.brokers:9644, [::1]:9645"),
            ("node.id", "2"),
        ];
        let joining = with_files(&joining).expect("valid");
        assert_eq!(joining.advertised, Endpoint::parse("b-2.brokers:9800"));
        assert_eq!(
            joining.join,
            ["b-1.brokers:9644", "[::1]:9645"].map(|e| Endpoint::parse(e).expect("valid"))
        );
        assert_eq!((PeerSettings::ports(9744), PeerSettings::ports(0)), ([9744, 9745], [0, 0]));
    }

    #[test]
    fn a_half_configured_broker_is_refused_and_told_what_is_missing() {
        for (name, value) in [(ADVERTISED, "a:1"), (JOIN, "a:1"), (CA, "/ca")] {
            let said = settings(&[(name, value), ("node.id", "1")]).expect_err("alone");
            assert!(
                said.contains(name) && said.contains("only with ropewalk.peer.listener"),
                "{said}"
            );
        }
        for (missing, _) in FILES {
            let rest = FILES.iter().filter(|(name, _)| *name != missing).copied();
            let pairs: Vec<_> = rest.chain([(LISTENER, ":9744")]).collect();
            let said = settings(&pairs).expect_err("no certificate");
            assert!(said.contains(&format!("{missing} is needed as well")), "{said}");
        }
    }

    #[test]
    fn a_broker_that_joins_has_an_id_of_its_own() {
        let said = with_files(&[(LISTENER, ":9744"), (JOIN, "a:9644")]).expect_err("no id");
        assert!(said.contains(JOIN) && said.contains("node.id is not set"), "{said}");
        with_files(&[(LISTENER, ":9744"), (JOIN, "a:9644"), ("broker.id", "2")])
            .expect("the older name");
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_refused() {
        for (name, wrong) in [
            (LISTENER, "9744"),
            (LISTENER, ":65535"),
            (ADVERTISED, ":9744"),
            (ADVERTISED, "0.0.0.0:9744"),
            (ADVERTISED, "a:0"),
            (ADVERTISED, "a:65535"),
            (JOIN, "a:9644,b"),
            (JOIN, "a:9644 b:9644"),
        ] {
            let mut pairs = vec![(LISTENER, ":9744"), ("node.id", "2")];
            pairs.retain(|(key, _)| *key != name);
            pairs.push((name, wrong));
            let said = with_files(&pairs).expect_err(wrong);
            assert!(said.contains(name), "{said}");
        }
    }
}
