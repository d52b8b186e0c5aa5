//! The traits of the generated messages.

use std::ops::RangeInclusive;

use crate::{ApiKey, DecodeError, EncodeError, Reader, Writer};

/// A message of the protocol, in all versions that Kafka 4.3 has.
///
/// On decoding, fields that the version lacks get their default. On encoding they must have their
/// default, unless the schema calls them ignorable.
pub trait Message: Sized + Default + Clone + PartialEq + std::fmt::Debug {
    /// The name of the message in the schema.
    const MESSAGE_NAME: &'static str;
    /// The first version that can be decoded.
    const MIN_VERSION: i16;
    /// The last version that can be decoded.
    const MAX_VERSION: i16;
    /// All versions that can be decoded.
    const VERSIONS: RangeInclusive<i16> = Self::MIN_VERSION..=Self::MAX_VERSION;

    /// Whether this version has compact types and tagged fields (KIP-482).
    fn flexible(version: i16) -> bool;

    /// Reads the message. Bytes behind it stay in the reader.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Appends the message in this version.
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request that a client sends to a broker.
pub trait Request: Message {
    /// The API key as a number.
    const KEY: i16;
    /// The API key as an enum.
    const API_KEY: ApiKey;
    /// The name of the API, without `Request`.
    const NAME: &'static str;
    /// The response to this request.
    type Response: Message;
}
