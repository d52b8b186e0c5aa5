//! Every message in every version: the first bytes select them, the rest is the body or the seed
//! of one.
//!
//! Responses are included because our own clients decode them.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ropewalk_codec::Message;

/// Selects a message type by number, then decodes the body or generates a message from it.
macro_rules! pick {
    (($pick:expr, $version:expr, $grown:expr, $body:expr) $($module:ident::$message:ident,)*) => {{
        let names = [$(stringify!($message)),*];
        let picked = names[usize::from($pick) % names.len()];
        $(if picked == stringify!($message) {
            type Picked = ropewalk_codec::$module::$message;
            let count = Picked::MAX_VERSION - Picked::MIN_VERSION + 1;
            let version = Picked::MIN_VERSION + i16::from($version) % count;
            if $grown {
                ropewalk_fuzz::grow::<Picked>($body, version);
            } else {
                ropewalk_fuzz::decode::<Picked>($body, version);
            }
        })*
    }};
}

fuzz_target!(|data: &[u8]| {
    let [pick, version, grown, body @ ..] = data else { return };
    let body = Bytes::copy_from_slice(body);
    ropewalk_codec::for_each_message!(pick, *pick, *version, *grown == 1, &body);
});
