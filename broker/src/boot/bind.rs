//! The sockets of a broker, and the addresses by which others reach it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use ropewalk_codec::Str;
use ropewalk_shard::state::catalog::{BrokerInfo, PeerEndpoint};
use tokio::net::TcpListener;

use super::StartError;
use crate::listen::Acceptor;
use crate::settings::{Endpoint, PeerSettings, Settings};

/// A bound socket, and the host and port that its clients are given.
pub(super) struct BoundListener {
    pub(super) name: Arc<str>,
    pub(super) socket: TcpListener,
    pub(super) endpoint: (Str, i32),
}

/// Binds every Kafka listener.
pub(super) async fn bind_all(settings: &Settings) -> Result<Vec<BoundListener>, StartError> {
    let listeners = settings.listeners().expect("checked when the settings were read");
    let advertised = settings.advertised().expect("checked when the settings were read");
    let mut bound = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let socket = bind(&listener.endpoint).await?;
        let advertised = advertised.iter().find(|advertised| advertised.name == listener.name);
        let endpoint = match advertised {
            Some(advertised) => {
                (Str::from(advertised.endpoint.host.as_str()), i32::from(advertised.endpoint.port))
            }
            None => {
                let port = local_address(&socket)?.port();
                (reachable_host(&listener.endpoint), i32::from(port))
            }
        };
        bound.push(BoundListener { name: listener.name.into(), socket, endpoint });
    }
    Ok(bound)
}

/// The advertised host if no setting names one: the host of the listener, or this machine's name.
pub(super) fn reachable_host(endpoint: &Endpoint) -> Str {
    if endpoint.is_wildcard() {
        let name = rustix::system::uname();
        return Str::from(name.nodename().to_string_lossy().into_owned());
    }
    Str::from(endpoint.host.as_str())
}

/// Binds the first address of an endpoint that is available.
pub(super) async fn bind(endpoint: &Endpoint) -> Result<TcpListener, StartError> {
    let refuse = |source| StartError::Bind {
        address: format!("{}:{}", endpoint.host, endpoint.port),
        source,
    };
    let host = if endpoint.host.is_empty() { "::" } else { &endpoint.host };
    let found = tokio::net::lookup_host((host, endpoint.port)).await.map_err(refuse)?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if endpoint.host.is_empty() {
        // A machine without IPv6 still has an IPv4 wildcard address.
        addresses.push(SocketAddr::from(([0, 0, 0, 0], endpoint.port)));
    }
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match Acceptor::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(refuse(failed))
}

pub(super) fn admin_endpoint(settings: &Settings) -> Endpoint {
    Endpoint::parse(&settings.admin()).expect("checked when the settings were read")
}

pub(super) fn local_address(socket: &TcpListener) -> Result<SocketAddr, StartError> {
    let refuse = |source| StartError::Bind { address: "a bound socket".into(), source };
    socket.local_addr().map_err(refuse)
}

/// The two UDP addresses for the other brokers, with ports chosen where the setting is 0. They are
/// bound when the data directory is open; another program may take a chosen port until then.
pub(super) async fn peer_addresses(peers: &PeerSettings) -> Result<[SocketAddr; 2], StartError> {
    let endpoint = &peers.listener;
    let refuse = |source| StartError::Bind { address: endpoint.to_string(), source };
    let host = if endpoint.host.is_empty() { "::" } else { &endpoint.host };
    let found = tokio::net::lookup_host((host, endpoint.port)).await.map_err(refuse)?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if endpoint.host.is_empty() {
        // A machine without IPv6 still has an IPv4 wildcard address.
        addresses.push(SocketAddr::from(([0, 0, 0, 0], endpoint.port)));
    }
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match both_addresses(address) {
            Ok(both) => return Ok(both),
            Err(error) => failed = error,
        }
    }
    Err(refuse(failed))
}

fn both_addresses(address: SocketAddr) -> io::Result<[SocketAddr; 2]> {
    let [messages, files] = PeerSettings::ports(address.port());
    let messages = UdpSocket::bind((address.ip(), messages))?;
    let files = UdpSocket::bind((address.ip(), files))?;
    Ok([messages.local_addr()?, files.local_addr()?])
}

/// The registration of this broker in the catalog. `incarnation` is set when the data directory is
/// open.
pub(super) fn broker_info(
    settings: &Settings,
    bound: &[BoundListener],
    admin: SocketAddr,
    peers: (&PeerSettings, [SocketAddr; 2]),
) -> BrokerInfo {
    let (peers, addresses) = peers;
    let (host, ports) = match &peers.advertised {
        Some(advertised) => (advertised.host.clone(), PeerSettings::ports(advertised.port)),
        None => {
            (reachable_host(&peers.listener).to_string(), addresses.map(|address| address.port()))
        }
    };
    let admin_host = match admin_endpoint(settings) {
        endpoint if endpoint.is_wildcard() => host.clone(),
        endpoint => endpoint.host,
    };
    let endpoint = |bound: &BoundListener| {
        let (host, port) = &bound.endpoint;
        let port = u16::try_from(*port).expect("it was a port before");
        (bound.name.to_string(), (host.to_string(), port))
    };
    BrokerInfo {
        rack: settings.rack(),
        peer: Some(PeerEndpoint { host, ports }),
        endpoints: bound.iter().map(endpoint).collect::<BTreeMap<_, _>>(),
        admin: Some(Endpoint { host: admin_host, port: admin.port() }.to_string()),
        ..BrokerInfo::default()
    }
}
