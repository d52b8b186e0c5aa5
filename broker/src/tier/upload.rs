//! Uploads one object: reads committed records of this broker, puts them into the bucket, and adds
//! the object to the manifest (T1).
//!
//! # After a failure
//!
//! A put whose answer was lost, and a command whose outcome is unknown, are repeated with the same
//! range: in the same term that gives the same name and content, so there is no second object. The
//! next leader writes an object of its own name; that of the earlier leader is an orphan, because
//! the state refuses objects of earlier terms.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ropewalk_shard::command::TierChange;
use ropewalk_store::PartitionLog;
use ropewalk_store::log::ReadError;
use ropewalk_tier::{EncodedObject, Encoder, Origin, PartitionKey, Push, batches};
use tracing::debug;

use super::convert;
use super::led::{Led, StepError};
use super::parts::Parts;
use crate::limits;

/// The range of an upload that did not come to its end. It is repeated in the same term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    origin: Origin,
    base: i64,
    end: i64,
}

/// Uploads what follows the end of the tier, up to a full object, for which memory of about
/// `expected_bytes` is taken. Returns the size of the object in bytes; `None` if there is nothing
/// to upload.
pub(super) async fn upload(
    parts: &Parts,
    led: &Led,
    attempt: &mut Option<Attempt>,
    expected_bytes: u64,
) -> Result<Option<u64>, StepError> {
    let found = led.look(|partition| {
        let tier = partition.tier.as_ref().filter(|tier| tier.is_enabled);
        tier.map(|tier| (tier.end, partition.next_offset))
    })?;
    let Some((base, next_offset)) = found.filter(|(base, next_offset)| base < next_offset) else {
        *attempt = None;
        return Ok(None);
    };
    let origin = led.origin();
    let until = match attempt {
        Some(earlier) if (earlier.origin, earlier.base) == (origin, base) => earlier.end,
        _ => led.log.high_watermark().min(next_offset),
    };
    let wanted = Wanted {
        log: Arc::clone(&led.log),
        key: convert::key(&parts.cluster, led.id),
        origin,
        base,
        until,
        bytes_max: parts.rules.upload.object_bytes,
    };
    let memory = parts.reserve(expected_bytes.min(wanted.bytes_max)).await;
    let built = tokio::task::spawn_blocking(move || wanted.build());
    let Some(object) = built.await.map_err(|error| StepError::Local(error.to_string()))?? else {
        return Ok(None);
    };
    *attempt = Some(Attempt { origin, base, end: object.reference.end });
    parts.fence.permit_upload_of(led).await?;
    led.check()?;
    let (name, size_bytes) = (object.name.to_string(), object.reference.size_bytes);
    let outcome = parts.bucket.put_if_absent(&name, &object.content).await?;
    drop((object.content, memory));
    let reference = convert::object_of(&object.reference);
    led.change(TierChange::AddObject(reference)).await?;
    *attempt = None;
    parts.metrics.uploaded(size_bytes);
    debug!(name, size_bytes, ?outcome, "object uploaded");
    Ok(Some(size_bytes))
}

/// What is to be uploaded.
struct Wanted {
    log: Arc<PartitionLog>,
    key: PartitionKey,
    origin: Origin,
    base: i64,
    /// Where the object ends if it does not get full before; a border of batches.
    until: i64,
    bytes_max: u64,
}

impl Wanted {
    /// Reads the records. Blocks on the disk. Returns nothing if there are none any more.
    fn build(self) -> Result<Option<EncodedObject>, StepError> {
        let mut encoder = Encoder::new(self.key.clone(), self.origin, self.base);
        let mut at = self.base;
        while at < self.until && encoder.body_bytes() < self.bytes_max {
            let chunk = match self.log.read(at, limits::TIER_READ_BYTES, true) {
                Ok(chunk) => chunk,
                // The log start moved meanwhile.
                Err(ReadError::OutOfRange { .. } | ReadError::Remote(_)) => return Ok(None),
                Err(ReadError::Storage(why)) => return Err(StepError::Local(why)),
            };
            if chunk.next_offset <= at || self.push(&mut encoder, joined(chunk.bytes))? {
                break;
            }
            at = chunk.next_offset;
        }
        if encoder.body_bytes() == 0 {
            return Ok(None);
        }
        let end = encoder.next_offset();
        Ok(Some(encoder.finish(end)?))
    }

    /// Adds batches. Returns whether the object is complete.
    fn push(&self, encoder: &mut Encoder, run: Bytes) -> Result<bool, StepError> {
        for batch in batches(run) {
            let batch = batch.map_err(|error| StepError::Local(error.to_string()))?;
            let is_full = encoder.body_bytes() >= self.bytes_max;
            if is_full || batch.next_offset() > self.until {
                return Ok(true);
            }
            match encoder.push(&batch)? {
                Push::Added => {}
                Push::Full => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn joined(pieces: Vec<Bytes>) -> Bytes {
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}
