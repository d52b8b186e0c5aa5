//! Sends the append lane: a stream and a task for each shard, so that a shard whose messages the
//! receiver does not take yet holds up no other.

use ropewalk_shard::ShardId;

use super::Shared;
use crate::frame::{Lane, Preface};
use crate::queue::Next;
use crate::stream::{self, SendError};
use crate::tasks::Tasks;

/// Starts a task for each shard that has a message.
pub(super) async fn send(shared: Shared) {
    let mut tasks = Tasks::default();
    loop {
        let next = shared.peer.append.lock().unattended(shared.id);
        match next {
            Next::Send(shards) => {
                for shard in shards {
                    tasks.start(send_shard(shared.clone(), shard));
                }
            }
            Next::Wait(ready) => {
                tokio::select! {
                    () = ready.notified() => {}
                    panic = tasks.panicked() => shared.fail(&panic),
                }
            }
            Next::Ended => return,
        }
    }
}

async fn send_shard(shared: Shared, shard: ShardId) {
    if let Err(error) = send_messages(&shared, shard).await
        && shared.connection.close_reason().is_none()
    {
        // Its messages could not be sent any more.
        shared.fail(&format!("append lane of {shard}: {error}"));
    }
}

async fn send_messages(shared: &Shared, shard: ShardId) -> Result<(), SendError> {
    let opened = shared.connection.open_uni().await;
    let mut stream = opened.map_err(quinn::WriteError::from)?;
    let preface = Preface { protocol: shared.protocol, lane: Lane::Append, shard };
    stream.write_chunk(preface.encode()).await?;
    loop {
        let next = shared.peer.append.lock().next(shared.id, shard);
        match next {
            Next::Send(message) => {
                let bytes = stream::write_frame(&mut stream, Lane::Append, &message).await?;
                shared.peer.append.lock().is_written(shared.id, shard);
                shared.peer.lane(Lane::Append).sent(1, bytes);
            }
            Next::Wait(ready) => ready.notified().await,
            Next::Ended => return Ok(()),
        }
    }
}
