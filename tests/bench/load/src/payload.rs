//! Payload that neither a server nor a disk can compress: a ring of random bytes.

use anyhow::{Context, Result};

/// Random bytes from which every value is cut, one after the other.
///
/// Invariant: two laps cut at different positions, so that values do not repeat from lap to lap.
pub(crate) struct Ring {
    bytes: Vec<u8>,
    at: usize,
    laps: usize,
}

impl Ring {
    /// A ring of this many bytes, filled by the kernel's random number generator.
    pub(crate) fn random(size_bytes: usize) -> Result<Self> {
        let mut bytes = vec![0; size_bytes];
        getrandom::fill(&mut bytes).context("reading random bytes")?;
        Ok(Self { bytes, at: 0, laps: 0 })
    }

    /// The next `length` bytes; fewer if the ring is smaller than that.
    pub(crate) fn next(&mut self, length: usize) -> &[u8] {
        let length = length.min(self.bytes.len());
        if self.at + length > self.bytes.len() {
            self.laps += 1;
            self.at = (self.laps * 7) % (self.bytes.len() - length + 1);
        }
        let start = self.at;
        self.at += length;
        &self.bytes[start..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_from_lap_to_lap() {
        let mut ring = Ring::random(4096).unwrap();
        let first: Vec<Vec<u8>> = (0..4).map(|_| ring.next(1000).to_vec()).collect();
        let second: Vec<Vec<u8>> = (0..4).map(|_| ring.next(1000).to_vec()).collect();
        assert!(first.iter().all(|value| value.len() == 1000 && !second.contains(value)));
        assert_eq!(ring.next(5000).len(), 4096);
    }
}
