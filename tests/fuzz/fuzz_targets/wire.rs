//! What another broker sends in its frames: messages between replicas, messages of a transfer of
//! files, requests and their answers. What can be decoded is the same after encoding and decoding.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ropewalk_broker::cluster::wire::{
    Request, decode_result, decode_taken, encode_result, encode_taken,
};
use ropewalk_shard::HistoryId;
use ropewalk_shard::message::Message;
use ropewalk_store::transfer::message::Message as FilesMessage;

const HISTORY: HistoryId = HistoryId(0);

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Ok(request) = Request::decode(data.clone()) {
        let encoded = request.encode().to_bytes();
        assert_eq!(Request::decode(encoded), Ok(request));
    }
    if let Ok(result) = decode_result(data.clone()) {
        assert_eq!(decode_result(encode_result(&result).to_bytes()), Ok(result));
    }
    if let Ok(is_taken) = decode_taken(data.clone()) {
        assert_eq!(encode_taken(is_taken).to_bytes(), data);
    }
    if let Ok(message) = FilesMessage::decode(data.clone()) {
        let encoded = message.encode().to_bytes();
        assert_eq!(FilesMessage::decode(encoded), Ok(message));
    }
    if let Ok(message) = Message::decode(data, HISTORY) {
        let encoded = message.encode(HISTORY).to_bytes();
        assert_eq!(Message::decode(encoded, HISTORY), Ok(message));
    }
});
