//! Carries messages between brokers over QUIC.
//!
//! Each pair of brokers has two connections, each on a UDP socket of its own: one for Raft's
//! messages, one for the files of learners. Both sides have a certificate, and the certificate, not
//! the address, [names](name) the broker. The modules are declared in the order of a connection and
//! of a message on it:
//!
//! ```text
//! certificates ─▶ dial / accept ─▶ handshake: hello ─▶ admission ─▶ link
//!
//! send ─▶ heartbeats, queue ─▶ link ─▶ frame ─▶ transport (QUIC) ─▶ frame ─▶ link ─▶ inbox
//! ```
//!
//! The caller [opens](Peers::open) the peers, runs the [`Service`], and implements [`Inbox`].
//! Decisions are apart from I/O: `hello`, `admission`, `backoff`, `frame`, `heartbeats`, `notices`
//! and the queues have neither sockets nor clocks.
//!
//! # Lanes
//!
//! | lane | content | connection | stream |
//! |---|---|---|---|
//! | control | votes, heartbeats, answers of followers | Raft | one, of the highest priority |
//! | append | entries of the log | Raft | one for each shard |
//! | bulk | pieces of files | bulk | one for each request |
//!
//! # Invariants
//!
//! - A connection counts as connected when its hello is answered. Before that, a peer can send no
//!   more than [`transport::RECEIVE_WINDOW_BEFORE_HELLO`] bytes.
//! - At most one connection of each class to each peer is in use. A newer incarnation of a broker
//!   ends the connections of the older one, which is refused from then on.
//! - Messages of the same stream arrive in order; others may overtake each other. Any may be lost
//!   when a connection ends.
//! - **R1** each queue has a bound in bytes, declared in [`limits`]; [`Peers::send`] never waits. A
//!   length from the wire sizes no allocation.

pub mod limits;
pub mod name;
pub mod hello;
mod admission;
mod backoff;
pub mod frame;
mod heartbeats;
mod queue;
mod notices;
pub mod figures;
pub mod inbox;
mod certificates;
pub mod transport;
mod peer;
mod local;
mod stream;
mod handshake;
mod tasks;
mod link;
mod dial;
mod accept;
mod service;
mod peers;

pub use certificates::{CertificateError, CertificateFiles};
pub use figures::PeerFigures;
pub use frame::Lane;
pub use hello::{Class, Start};
pub use inbox::Inbox;
pub use name::BrokerName;
pub use peer::PeerAddress;
pub use peers::{OpenError, Options, Peers, Reply, Started};
pub use queue::bulk::RequestError;
pub use queue::{Held, Sent};
pub use service::{Service, ServiceError};
