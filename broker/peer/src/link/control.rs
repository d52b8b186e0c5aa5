//! Sends the control lane: one stream, first in line.

use quinn::WriteError;
use ropewalk_shard::ShardId;

use super::Shared;
use crate::frame::{Lane, Preface};
use crate::queue::Next;
use crate::transport::CONTROL_PRIORITY;

pub(super) async fn send(shared: Shared) {
    // An error means that the connection has ended, which its owner observes.
    let _ = send_all(&shared).await;
}

async fn send_all(shared: &Shared) -> Result<(), WriteError> {
    let mut stream = shared.connection.open_uni().await?;
    let _ = stream.set_priority(CONTROL_PRIORITY);
    let preface =
        Preface { protocol: shared.protocol, lane: Lane::Control, shard: ShardId::CATALOG };
    stream.write_chunk(preface.encode()).await?;
    loop {
        let next = shared.peer.control.lock().take(shared.id);
        match next {
            Next::Send(batch) => {
                let bytes = batch.bytes.len();
                stream.write_chunk(batch.bytes).await?;
                shared.peer.lane(Lane::Control).sent(batch.frames, bytes);
            }
            Next::Wait(ready) => ready.notified().await,
            Next::Ended => return Ok(()),
        }
    }
}
