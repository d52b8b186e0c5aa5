//! What every generated message can do.

use std::ops::RangeInclusive;

use crate::{ApiKey, DecodeError, EncodeError, Reader, Writer};

/// A message of the protocol, in all versions that Kafka 4.3 knows.
///
/// Fields that a version lacks keep their default when decoded. When encoded, they must have their
/// default, unless the schema calls them ignorable.
pub trait Message: Sized + Default + Clone + PartialEq + std::fmt::Debug {
    /// The name in the schema.
    const MESSAGE_NAME: &'static str;
    /// The first version.
    const MIN_VERSION: i16;
    /// The last version.
    const MAX_VERSION: i16;
    /// All versions.
    const VERSIONS: RangeInclusive<i16> = Self::MIN_VERSION..=Self::MAX_VERSION;

    /// Whether this version has compact types and tagged fields (KIP-482).
    fn flexible(version: i16) -> bool;

    /// Reads the message. What follows it stays in the reader.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Appends the message.
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A message that a client sends to a broker, and that has an answer.
pub trait Request: Message {
    /// The number of the API.
    const KEY: i16;
    /// The same as a name to match on.
    const API_KEY: ApiKey;
    /// The name of the API, without "Request".
    const NAME: &'static str;
    /// What answers it.
    type Response: Message;
}
