//! The headers between the length of a frame and its message.
//!
//! A request's header has the API key and version, which determine how the rest is read, including
//! the rest of the header. So its first eight bytes are the same in every version. A response's
//! header is the correlation id; in flexible versions tagged fields follow, except for ApiVersions,
//! whose response a client must be able to read before it knows the broker's versions (KIP-511).
//!
//! The decoders take a frame without its length; the encoders write it with its length.

use bytes::Bytes;

use crate::{
    ApiKey, DecodeError, EncodeError, Message, Reader, Request, RequestHeader, ResponseHeader, Str,
    Writer,
};

impl ApiKey {
    /// Version of the header of a request with this key and version.
    #[must_use]
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header of a response with this key and version.
    #[must_use]
    pub fn response_header_version(self, version: i16) -> i16 {
        (self != Self::ApiVersions && self.is_flexible(version)).into()
    }

    fn is_flexible(self, version: i16) -> bool {
        self.first_flexible().is_some_and(|first| version >= first)
    }
}

/// Reads a request's header. The reader is then at the start of the body.
///
/// For an unknown key or version, only key, version and correlation id are read (`client_id` is
/// None, and the reader is behind them), so that the broker can answer a newer ApiVersions request
/// in version 0. The caller compares key and version with those that it supports.
pub fn decode_request_header(r: &mut Reader) -> Result<RequestHeader, DecodeError> {
    let mut header = RequestHeader {
        request_api_key: r.i16()?,
        request_api_version: r.i16()?,
        correlation_id: r.i32()?,
        client_id: None,
    };
    let version = header.request_api_version;
    let known = ApiKey::from_i16(header.request_api_key)
        .filter(|key| key.versions().is_some_and(|versions| versions.contains(&version)));
    if let Some(key) = known {
        // Always a classic string, for compatibility with brokers that do not know the version.
        header.client_id = r.nullable_string(false)?;
        if key.request_header_version(version) >= 2 {
            r.skip_tags()?;
        }
    }
    Ok(header)
}

/// Encodes a whole response frame: length, header, message.
pub fn encode_response(
    correlation_id: i32,
    key: ApiKey,
    version: i16,
    response: &impl Message,
) -> Result<Writer, EncodeError> {
    let mut w = Writer::with_room();
    w.put_i32(0);
    ResponseHeader { correlation_id }.encode(&mut w, key.response_header_version(version))?;
    response.encode(&mut w, version)?;
    w.patch_length()?;
    Ok(w)
}

/// Encodes a whole request frame: length, header, message.
pub fn encode_request<R: Request>(
    correlation_id: i32,
    client_id: Option<&str>,
    version: i16,
    request: &R,
) -> Result<Writer, EncodeError> {
    let header = RequestHeader {
        request_api_key: R::KEY,
        request_api_version: version,
        correlation_id,
        client_id: client_id.map(Str::from),
    };
    let mut w = Writer::with_room();
    w.put_i32(0);
    header.encode(&mut w, R::API_KEY.request_header_version(version))?;
    request.encode(&mut w, version)?;
    w.patch_length()?;
    Ok(w)
}

/// Decodes a response frame without its length: correlation id and message.
pub fn decode_response<R: Request>(
    frame: Bytes,
    version: i16,
) -> Result<(i32, R::Response), DecodeError> {
    let mut r = Reader::new(frame);
    let header = ResponseHeader::decode(&mut r, R::API_KEY.response_header_version(version))?;
    let response = R::Response::decode(&mut r, version)?;
    r.finish()?;
    Ok((header.correlation_id, response))
}

#[cfg(test)]
mod tests;
