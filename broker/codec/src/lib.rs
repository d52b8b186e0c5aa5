//! Kafka's wire format: every message that clients and brokers exchange, as plain structs.
//!
//! The structs with their `decode` and `encode` are generated from Kafka's message schemas (see
//! `broker/codec/README.md`). The modules below are written by hand. A frame is one
//! [`bytes::Bytes`]: decoded strings, bytes and records are slices of it, without a copy. An
//! encoded response is a list of chunks, so that records are not copied either.
//!
//! This crate has no I/O and no clock, and does not parse record batches ([`Records`]).
//!
//! # Example
//!
//! A broker decodes the frame of a request and encodes the frame of its response. The socket has
//! already removed the length in front of the request:
//!
//! ```
//! use ropewalk_codec::metadata_request::MetadataRequest;
//! use ropewalk_codec::metadata_response::{MetadataResponse, MetadataResponseBroker};
//! use ropewalk_codec::{
//!     ApiKey, Message, Reader, decode_request_header, decode_response, encode_request,
//!     encode_response,
//! };
//!
//! // The client: correlation id 7, version 9.
//! let request = MetadataRequest { topics: None, ..Default::default() };
//! let frame = encode_request(7, Some("client"), 9, &request)?.into_bytes();
//!
//! // The broker.
//! let mut reader = Reader::new(frame.slice(4..));
//! let header = decode_request_header(&mut reader)?;
//! assert_eq!(header.request_api_key, ApiKey::Metadata.as_i16());
//! let version = header.request_api_version;
//! let request = MetadataRequest::decode(&mut reader, version)?;
//! reader.finish()?;
//! assert_eq!(request.topics, None, "all topics");
//!
//! let broker = MetadataResponseBroker {
//!     node_id: 1,
//!     host: "broker-1.example".into(),
//!     port: 9092,
//!     ..Default::default()
//! };
//! let response = MetadataResponse { brokers: vec![broker], ..Default::default() };
//! let frame = encode_response(header.correlation_id, ApiKey::Metadata, version, &response)?;
//!
//! // The client again.
//! let frame = frame.into_bytes();
//! let (correlation_id, response) = decode_response::<MetadataRequest>(frame.slice(4..), 9)?;
//! assert_eq!((correlation_id, response.brokers[0].port), (7, 9092));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - Invalid input is a [`DecodeError`], never a panic.
//! - A length from the wire never sizes an allocation: decoding takes at most [`ALLOCATION_FACTOR`]
//!   times the size of the frame plus [`ALLOCATION_BASE_BYTES`] (see [`Reader`]).
//! - A value that a version cannot carry is an [`EncodeError`]. It is left out only if the schema
//!   calls the field ignorable.
//!
//! Sources: the Kafka protocol guide, KIP-482 (tagged fields and compact types), KIP-511
//! (ApiVersions).

mod error;
mod text;
mod records;
mod reader;
mod writer;
mod message;
mod frame;
// Generated code need not satisfy the lints for hand-written code.
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
pub use writer::{BY_REFERENCE_BYTES_MIN, Part, Tags, Writer};
