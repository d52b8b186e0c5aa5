//! A request frame as received from a socket: a header, then the body of the API in the header.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ropewalk_codec::{Reader, Request, decode_request_header};

/// Compares the key with each request type and decodes the body as the one that matches.
macro_rules! decode_body {
    (($key:expr, $version:expr, $body:expr) $($module:ident::$message:ident,)*) => {
        $(if ropewalk_codec::$module::$message::KEY == $key {
            ropewalk_fuzz::decode::<ropewalk_codec::$module::$message>($body, $version);
        })*
    };
}

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    let mut r = Reader::new(frame.clone());
    if let Ok(header) = decode_request_header(&mut r) {
        let body = frame.slice(frame.len() - r.remaining()..);
        let (key, version) = (header.request_api_key, header.request_api_version);
        ropewalk_codec::for_each_request!(decode_body, key, version, &body);
    }
});
