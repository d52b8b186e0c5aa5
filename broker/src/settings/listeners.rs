//! The settings of listeners and of the addresses that clients are given.

use std::fmt;

use super::key::list;
use super::{Invalid, Settings};

/// One listener `NAME://HOST:PORT` of the setting `listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name, which `advertised.listeners` refers to.
    pub name: String,
    /// The address to bind; without a host, all addresses.
    pub endpoint: Endpoint,
}

/// An optional host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// The port; 0 picks a free one.
    pub port: u16,
}

impl Settings {
    /// The listeners without those of a controller.
    ///
    /// # Errors
    /// When one cannot be parsed, or has a protocol that is not supported.
    pub fn listeners(&self) -> Result<Vec<Listener>, Invalid> {
        let controllers = self.text("controller.listener.names").unwrap_or_default();
        let is_controller = |name: &str| list(&controllers).any(|controller| controller == name);
        let mut listeners = self.parse_listeners("listeners")?;
        listeners.retain(|listener| !is_controller(&listener.name));
        let wrong = |reason: String| {
            let text = self.text("listeners").unwrap_or_default();
            Invalid::value("listeners", &text, reason)
        };
        if listeners.is_empty() {
            return Err(wrong("At least one listener is needed".into()));
        }
        for listener in &listeners {
            let protocol = self.protocol(&listener.name);
            if protocol.as_deref() != Some("PLAINTEXT") {
                let name = &listener.name;
                let protocol = protocol.as_deref().unwrap_or("unknown");
                return Err(wrong(format!(
                    "Listener {name} has security protocol {protocol}; only PLAINTEXT is supported"
                )));
            }
        }
        Ok(listeners)
    }

    /// The advertised listeners; empty if clients are given the addresses of `listeners`.
    ///
    /// # Errors
    /// When one cannot be parsed, or has no host.
    pub fn advertised(&self) -> Result<Vec<Listener>, Invalid> {
        let advertised = self.parse_listeners("advertised.listeners")?;
        let vague = |listener: &&Listener| {
            let endpoint = &listener.endpoint;
            endpoint.is_wildcard() || endpoint.port == 0
        };
        if let Some(listener) = advertised.iter().find(vague) {
            let text = self.text("advertised.listeners").unwrap_or_default();
            let reason = format!("Listener {} needs a host and a port", listener.name);
            return Err(Invalid::value("advertised.listeners", &text, reason));
        }
        Ok(advertised)
    }

    fn parse_listeners(&self, key: &str) -> Result<Vec<Listener>, Invalid> {
        let text = self.text(key).unwrap_or_default();
        let mut listeners: Vec<Listener> = Vec::new();
        for item in list(&text) {
            let listener = parse(item).ok_or_else(|| {
                Invalid::value(key, &text, format!("{item} is not of the form NAME://HOST:PORT"))
            })?;
            if listeners.iter().any(|other| other.name == listener.name) {
                let reason = format!("Each listener must have a different name: {}", listener.name);
                return Err(Invalid::value(key, &text, reason));
            }
            listeners.push(listener);
        }
        Ok(listeners)
    }

    /// The protocol of a listener by `listener.security.protocol.map`.
    fn protocol(&self, name: &str) -> Option<String> {
        let map = self.text("listener.security.protocol.map")?;
        let mut entries = list(&map).filter_map(|entry| entry.split_once(':'));
        entries.find(|(listener, _)| *listener == name).map(|(_, protocol)| protocol.to_owned())
    }
}

impl Endpoint {
    /// Parses `HOST:PORT`; the host may be missing, or an IPv6 address in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    /// Whether the host is a wildcard.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }
}

impl fmt::Display for Endpoint {
    /// The form that [`Endpoint::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn parse(text: &str) -> Option<Listener> {
    let (name, endpoint) = text.split_once("://")?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some(())?;
    Some(Listener { name: name.to_ascii_uppercase(), endpoint: Endpoint::parse(endpoint)? })
}
