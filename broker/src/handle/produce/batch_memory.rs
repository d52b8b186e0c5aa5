//! The memory of the batches of a request: slices of its frame, or copies.
//!
//! The tail of a partition log keeps a batch until it is in a segment, and counts the bytes of the
//! batch. A slice pins the whole frame. So a batch stays a slice only where the memory that is not
//! counted is bounded (R1):
//!
//! - The frame holds little else: an eighth of the batch at most.
//! - The frame holds several batches. Its share of the request memory then counts the whole frame
//!   until the last of its batches is dropped. All such frames together take at most half of the
//!   request memory, and a batch pins at most [`limits::FRAME_PER_BATCH_MAX`] times its own size.
//!
//! Any other batch is copied. A batch that validation has rewritten is not a slice of the frame.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;

use crate::handle::Call;
use crate::limits;
use crate::listen::KeptShare;

/// Decides for the batches of one request.
#[derive(Debug)]
pub(super) struct BatchMemory<'a> {
    call: &'a Call,
    /// Set with the first batch that needs it; `None` if the request memory has no room.
    kept: OnceCell<Option<Arc<KeptShare>>>,
}

/// A batch whose frame is counted by the request memory.
struct SharedBatch {
    batch: Bytes,
    _kept: Arc<KeptShare>,
}

impl AsRef<[u8]> for SharedBatch {
    fn as_ref(&self) -> &[u8] {
        &self.batch
    }
}

impl<'a> BatchMemory<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self { call, kept: OnceCell::new() }
    }

    /// The request of the batches.
    pub(super) fn call(&self) -> &'a Call {
        self.call
    }

    /// The batch, which is a slice of the frame, in memory that is counted while it is kept.
    pub(super) fn own(&self, batch: Bytes) -> Bytes {
        let frame_bytes = self.call.size_bytes;
        if frame_bytes.saturating_sub(batch.len()) <= batch.len() / 8 {
            return batch;
        }
        if frame_bytes / limits::FRAME_PER_BATCH_MAX <= batch.len()
            && let Some(kept) = self.kept.get_or_init(|| self.call.keep_frame().map(Arc::new))
        {
            return Bytes::from_owner(SharedBatch { batch, _kept: Arc::clone(kept) });
        }
        Bytes::copy_from_slice(&batch)
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_codec::ApiKey;

    use super::*;
    use crate::listen::{Lane, Lanes};

    const FRAME_BYTES: usize = 10_000;

    async fn call(lanes: &Lanes, size_bytes: usize) -> Call {
        let share = lanes.acquire(Lane::Bulk, size_bytes).await;
        Call { size_bytes, ..Call::of_test(ApiKey::Produce, share) }
    }

    fn is_slice(batch: &Bytes, frame: &Bytes) -> bool {
        frame.as_ptr_range().contains(&batch.as_ptr())
    }

    #[tokio::test]
    async fn batches_of_one_frame_are_not_copied_and_r1_the_frame_is_counted_until_the_last() {
        let lanes = Lanes::new(4 * FRAME_BYTES);
        let free = lanes.free_bytes();
        let frame = Bytes::from(vec![7; FRAME_BYTES]);
        let call = call(&lanes, FRAME_BYTES).await;
        let memory = BatchMemory::new(&call);
        let batches: Vec<Bytes> =
            (0..4).map(|n| memory.own(frame.slice(100 + n * 2_000..2_000 + n * 2_000))).collect();
        assert!(batches.iter().all(|batch| is_slice(batch, &frame) && batch.len() == 1_900));
        drop(memory);
        drop(call);
        for batch in batches.into_iter().rev() {
            assert_eq!(lanes.free_bytes(), free - FRAME_BYTES, "one of the batches is kept");
            let slice = batch.slice(10..);
            drop(batch);
            assert_eq!(lanes.free_bytes(), free - FRAME_BYTES, "or a slice of it");
            drop(slice);
        }
        assert_eq!(lanes.free_bytes(), free);
    }

    #[tokio::test]
    async fn r1_a_batch_that_fills_its_frame_leaves_the_request_memory_with_the_answer() {
        let lanes = Lanes::new(4 * FRAME_BYTES);
        let free = lanes.free_bytes();
        let frame = Bytes::from(vec![7; FRAME_BYTES]);
        let call = call(&lanes, FRAME_BYTES).await;
        let batch = BatchMemory::new(&call).own(frame.slice(1_000..));
        drop(call);
        assert!(is_slice(&batch, &frame));
        assert_eq!(lanes.free_bytes(), free, "the tail counts the batch");
    }

    #[tokio::test]
    async fn r1_frames_of_several_batches_pin_at_most_half_of_the_request_memory() {
        let lanes = Lanes::new(4 * FRAME_BYTES);
        let free = lanes.free_bytes();
        let mut kept = Vec::new();
        for number in 0..20 {
            let frame = Bytes::from(vec![7; FRAME_BYTES]);
            let call = call(&lanes, FRAME_BYTES).await;
            let batch = BatchMemory::new(&call).own(frame.slice(..FRAME_BYTES / 2));
            assert_eq!(is_slice(&batch, &frame), number < 2, "{number}");
            kept.push(batch);
        }
        assert_eq!(free - lanes.free_bytes(), 2 * FRAME_BYTES);
        kept.clear();
        assert_eq!(lanes.free_bytes(), free);
    }

    #[tokio::test]
    async fn r1_a_small_batch_does_not_pin_a_large_frame() {
        let lanes = Lanes::new(4 * FRAME_BYTES);
        let free = lanes.free_bytes();
        let frame = Bytes::from(vec![7; FRAME_BYTES]);
        let call = call(&lanes, FRAME_BYTES).await;
        let memory = BatchMemory::new(&call);
        let least = FRAME_BYTES / limits::FRAME_PER_BATCH_MAX;
        assert!(is_slice(&memory.own(frame.slice(..least)), &frame));
        let small = memory.own(frame.slice(..least - 1));
        assert!(!is_slice(&small, &frame));
        drop(memory);
        drop(call);
        assert_eq!(lanes.free_bytes(), free);
    }

    #[tokio::test]
    async fn r1_the_request_that_exceeds_the_request_memory_is_copied() {
        let lanes = Lanes::new(4 * FRAME_BYTES);
        let frame = Bytes::from(vec![7; FRAME_BYTES]);
        let all = lanes.acquire(Lane::Bulk, 4 * FRAME_BYTES).await;
        let call = call(&lanes, FRAME_BYTES).await;
        let batch = BatchMemory::new(&call).own(frame.slice(..FRAME_BYTES / 2));
        assert!(!is_slice(&batch, &frame), "else no other request could exceed it");
        drop(all);
    }
}
