//! One blocking connection to a broker: requests out, answers in, one buffer for all answers.
//!
//! Invariant: a connection is used by one writer and one reader at a time, so answers come in the
//! order of the requests.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use ropewalk_codec::{Request, decode_response, encode_request};

const CLIENT_ID: &str = "ropewalk-load";

/// Largest answer that is accepted, in bytes; a fetch never asks for more.
const FRAME_BYTES_MAX: usize = 256 << 20;

pub(crate) struct Connection {
    stream: TcpStream,
    /// The memory of the last answer. It is used again once nothing refers to that answer.
    answer: Bytes,
}

impl Connection {
    /// Connects to the first of some addresses, with commas between them, that accepts.
    pub(crate) fn open(addresses: &str) -> Result<Self> {
        let found = addresses.split(',').map(ToSocketAddrs::to_socket_addrs);
        let found: Vec<_> = found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let stream =
            TcpStream::connect(&found[..]).with_context(|| format!("connecting {addresses}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Bytes::new() })
    }

    /// A second handle of the same connection, for a thread that only reads.
    pub(crate) fn reader(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, answer: Bytes::new() })
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frame)?)
    }

    /// The next answer, without its length prefix.
    pub(crate) fn receive(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(
            length <= FRAME_BYTES_MAX,
            "an answer has {length} bytes, at most {FRAME_BYTES_MAX} are accepted"
        );
        let last = std::mem::take(&mut self.answer);
        let mut buffer = last.try_into_mut().unwrap_or_else(|_| BytesMut::new());
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        self.stream.read_exact(&mut buffer[..length])?;
        self.answer = buffer.freeze();
        Ok(self.answer.slice(..length))
    }

    pub(crate) fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(&frame(version, request)?)?;
        Ok(decode_response::<R>(self.receive()?, version)?.1)
    }
}

/// A whole request, ready to be sent any number of times: the correlation id is always 1, because
/// answers come in order.
pub(crate) fn frame<R: Request>(version: i16, request: &R) -> Result<Vec<u8>> {
    let writer = encode_request(1, Some(CLIENT_ID), version, request)?;
    Ok(writer.into_bytes().into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_share_one_buffer_once_the_last_one_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open(&listener.local_addr().unwrap().to_string()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for answer in [&b"\0\0\0\x04four"[..], b"\0\0\0\x03two", b"\0\0\0\x03new"] {
            server.write_all(answer).unwrap();
        }
        let first = connection.receive().unwrap();
        assert_eq!(&first[..], b"four");
        let at = first.as_ptr();
        drop(first);
        let second = connection.receive().unwrap();
        assert_eq!((&second[..], second.as_ptr()), (&b"two"[..], at));
        let third = connection.receive().unwrap();
        assert_eq!((&second[..], &third[..]), (&b"two"[..], &b"new"[..]));
    }
}
