//! Kafka's wire format: every message a client and a broker exchange, as plain structs.
//!
//! The structs and their `decode` and `encode` are generated from Kafka's message schemas (see the
//! README beside the manifest); what is written by hand is the little they stand on, declared here in
//! reading order. A frame comes in as one [`bytes::Bytes`]; strings, bytes and records are slices of
//! it and copy nothing. An answer goes out as a list of chunks, so that records are never copied either.
//!
//! # Place in the walk
//!
//! After the socket has cut the stream into frames, and before a handler looks at a request.
//! No I/O, no clock, no knowledge of records: those are opaque here ([`Records`]).
//!
//! # Invariants
//!
//! - Bad input is a [`DecodeError`], never a panic.
//! - A length from the wire never sizes an allocation: a decode takes at most
//!   [`ALLOCATION_FACTOR`] times the frame and [`ALLOCATION_BASE_BYTES`] (see [`Reader`]).
//! - A value that a version cannot carry is an [`EncodeError`], never dropped in silence, unless
//!   the schema says that it may be ignored.
//!
//! Sources: the Kafka protocol guide, KIP-482 (tagged fields and compact types), KIP-511 (ApiVersions).

mod error;
mod text;
mod records;
mod reader;
mod writer;
mod message;
mod frame;
// What is regular for the generator is not always how a hand would write it.
#[allow(unused_imports, unused_variables, clippy::all, clippy::too_many_lines)]
mod generated;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{DecodeError, EncodeError};
pub use frame::{decode_request_header, decode_response, encode_request, encode_response};
pub use generated::*;
pub use message::{Message, Request};
pub use reader::{ALLOCATION_BASE_BYTES, ALLOCATION_FACTOR, Reader};
pub use records::Records;
pub use text::Str;
pub use writer::{BY_REFERENCE_BYTES_MIN, Tags, Writer};
