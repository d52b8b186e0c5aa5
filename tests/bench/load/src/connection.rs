//! One blocking connection to a broker that sends and receives frames.
//!
//! A connection has one writer and one reader at a time, so answers come in the order of the
//! requests.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ropewalk_codec::{Request, decode_response, encode_request};

const CLIENT_ID: &str = "ropewalk-load";

/// Largest accepted answer. A fetch asks for at most 50 MiB, so a larger length is an error.
const FRAME_BYTES_MAX: usize = 256 << 20;

pub(crate) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(bootstrap).with_context(|| format!("connecting {bootstrap}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// A second handle of the same socket, for a thread that only reads.
    pub(crate) fn reader(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frame)?)
    }

    /// The next answer, without its length prefix.
    pub(crate) fn receive(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= FRAME_BYTES_MAX, "answer of {length} bytes, at most {FRAME_BYTES_MAX}");
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    pub(crate) fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(&frame(version, request)?)?;
        Ok(decode_response::<R>(self.receive()?, version)?.1)
    }
}

/// An encoded request that can be sent any number of times: the correlation id is always 1, because
/// answers come in order.
pub(crate) fn frame<R: Request>(version: i16, request: &R) -> Result<Vec<u8>> {
    let writer = encode_request(1, Some(CLIENT_ID), version, request)?;
    Ok(writer.into_bytes().into())
}
