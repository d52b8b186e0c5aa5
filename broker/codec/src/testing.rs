//! Random instances of every message, for property tests and fuzz targets.
//!
//! An instance is derived from a string of bytes, so that a property test or a fuzzer can shrink
//! the instance by shrinking the bytes. When no bytes are left, every value is zero, null or empty.

use bytes::Bytes;
use uuid::Uuid;

use crate::{Message, Records, Str};

/// A message with random instances.
pub trait Sample: Message {
    /// An instance whose fields are set where `version` has them, and at their default elsewhere.
    fn sample(source: &mut Source<'_>, version: i16) -> Self;
}

/// The bytes from which an instance is derived.
#[derive(Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// Derives values from `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        taken[..head.len()].copy_from_slice(head);
        self.0 = rest;
        taken
    }

    fn below(&mut self, bound: u8) -> usize {
        usize::from(self.take::<1>()[0] % bound)
    }

    /// Takes a random boolean.
    pub fn bool(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Takes a random `int8`.
    pub fn i8(&mut self) -> i8 {
        i8::from_be_bytes(self.take())
    }

    /// Takes a random `int16`.
    pub fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    /// Takes a random `uint16`.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    /// Takes a random `int32`.
    pub fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    /// Takes a random `uint32`.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    /// Takes a random `int64`.
    pub fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    /// Takes a random `float64` other than NaN, because NaN is not equal to itself.
    pub fn f64(&mut self) -> f64 {
        f64::from(self.i32())
    }

    /// Takes a random UUID.
    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_bytes(self.take())
    }

    /// Takes a string, mostly short, sometimes with a length of two varint bytes.
    pub fn string(&mut self) -> Str {
        let length = match self.below(16) {
            15 => 130,
            length => length,
        };
        (0..length).map(|_| ["a", "-", "7", "é", "∑"][self.below(5)]).collect::<String>().into()
    }

    /// Takes bytes, mostly few, sometimes enough for the writer to take them by reference.
    pub fn bytes(&mut self) -> Bytes {
        let length = match self.below(32) {
            31 => crate::BY_REFERENCE_BYTES_MIN,
            length => length,
        };
        let byte = self.take::<1>()[0];
        vec![byte; length].into()
    }

    /// Takes records in up to three chunks.
    pub fn records(&mut self) -> Records {
        Records::from_chunks(self.array(Self::bytes))
    }

    /// Takes an array of up to three elements.
    pub fn array<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| element(self)).collect()
    }

    /// Takes a value or `None`.
    pub fn option<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| some(self))
    }
}
