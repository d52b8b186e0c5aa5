//! Frames byte by byte, as the protocol guide defines them.

use super::*;
use crate::api_versions_request::ApiVersionsRequest;
use crate::api_versions_response::{ApiVersion, ApiVersionsResponse};
use crate::metadata_request::{MetadataRequest, MetadataRequestTopic};

fn bytes(w: Writer) -> Vec<u8> {
    w.into_bytes().to_vec()
}

#[test]
fn an_api_versions_request_in_both_spellings() {
    let request = ApiVersionsRequest {
        client_software_name: "rw".into(),
        client_software_version: "1".into(),
    };
    let frame = encode_request(7, Some("c"), 3, &request).expect("version 3 has both fields");
    let expected = b"\0\0\0\x12\0\x12\0\x03\0\0\0\x07\0\x01c\0\x03rw\x021\0";
    assert_eq!(bytes(frame), expected);

    let plain = ApiVersionsRequest::default();
    let frame = encode_request(7, None, 0, &plain).expect("version 0 has no fields");
    assert_eq!(bytes(frame), b"\0\0\0\x0a\0\x12\0\0\0\0\0\x07\xff\xff");
}

#[test]
fn an_api_versions_response_never_has_tags_in_its_header() {
    let response = ApiVersionsResponse {
        api_keys: vec![ApiVersion { api_key: 18, min_version: 0, max_version: 4 }],
        ..Default::default()
    };
    let frame = encode_response(9, ApiKey::ApiVersions, 3, &response).expect("a plain answer");
    let expected = b"\0\0\0\x13\0\0\0\x09\0\0\x02\0\x12\0\0\0\x04\0\0\0\0\0\0";
    assert_eq!(bytes(frame), expected);
    let frame = Bytes::from_static(&expected[4..]);
    assert_eq!(decode_response::<ApiVersionsRequest>(frame, 3), Ok((9, response)));
}

#[test]
fn a_metadata_request_header_is_read_with_its_tags() {
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let frame = encode_request(1, Some("c"), 9, &request).expect("version 9").into_bytes();
    let mut r = Reader::new(frame.slice(4..));
    let header = decode_request_header(&mut r).expect("our own header");
    assert_eq!(header.request_api_key, MetadataRequest::KEY);
    assert_eq!(header.client_id.as_deref(), Some("c"));
    assert_eq!(MetadataRequest::decode(&mut r, 9), Ok(request));
    assert_eq!(r.finish(), Ok(()));
}

#[test]
fn a_request_from_the_future_still_says_who_asks() {
    for (key, version) in [(18, 99), (0, 2), (4, 0), (999, 0), (-1, -1)] {
        let mut w = Writer::new();
        w.put_i16(key);
        w.put_i16(version);
        w.put_i32(42);
        w.put_i32(-1);
        let header = decode_request_header(&mut Reader::new(w.into_bytes())).expect("8 bytes");
        assert_eq!(header.correlation_id, 42);
        assert_eq!(header.client_id, None);
    }
}

#[test]
fn header_versions_follow_the_body_except_for_api_versions() {
    assert_eq!(ApiKey::Fetch.request_header_version(11), 1);
    assert_eq!(ApiKey::Fetch.request_header_version(12), 2);
    assert_eq!(ApiKey::Fetch.response_header_version(11), 0);
    assert_eq!(ApiKey::Fetch.response_header_version(12), 1);
    assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
    assert_eq!(ApiKey::ApiVersions.response_header_version(3), 0);
    assert_eq!(ApiKey::SaslHandshake.request_header_version(1), 1);
}
