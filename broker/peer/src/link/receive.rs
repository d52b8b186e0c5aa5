//! Receives the control lane and the append lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::RecvStream;
use ropewalk_shard::ShardId;
use tokio::time::timeout;

use super::Shared;
use crate::frame::{Control, FrameError, Lane};
use crate::limits;
use crate::stream::{StreamError, read_frame, read_preface};
use crate::tasks::Tasks;

/// Starts a task for each stream of the peer.
pub(super) async fn receive(shared: Shared) {
    let mut tasks = Tasks::default();
    let has_control = Arc::new(AtomicBool::new(false));
    loop {
        tokio::select! {
            stream = shared.connection.accept_uni() => match stream {
                Ok(stream) => {
                    tasks.start(receive_stream(shared.clone(), stream, has_control.clone()));
                }
                // The owner of the connection observes its end.
                Err(_) => return,
            },
            panic = tasks.panicked() => shared.fail(&panic),
        }
    }
}

async fn receive_stream(shared: Shared, mut stream: RecvStream, has_control: Arc<AtomicBool>) {
    let ended = match read_preface(&mut stream, shared.protocol).await {
        Ok(None) => Ok(()),
        Ok(Some(preface)) => match preface.lane {
            // One stream, so that the memory for its frames is bounded.
            Lane::Control if !has_control.swap(true, Ordering::Relaxed) => {
                receive_control(&shared, stream).await
            }
            Lane::Append => receive_append(&shared, stream, preface.shard).await,
            Lane::Control | Lane::Bulk => Err(FrameError::Lane(preface.lane as u8).into()),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        shared.check(&error);
    }
}

async fn receive_control(shared: &Shared, mut stream: RecvStream) -> Result<(), StreamError> {
    let (from, inbox) = (shared.peer.broker, &shared.local.inbox);
    // Without the budget: messages of the append lane that are not delivered yet hold shares of it.
    while let Some(frame) = read_frame(&mut stream, Lane::Control, None).await? {
        shared.peer.lane(Lane::Control).received(frame.bytes());
        match Control::decode(frame.body)? {
            Control::Message((shard, message)) => inbox.control(from, shard, message),
            Control::Heartbeats(all) => {
                all.into_iter().for_each(|(shard, message)| inbox.control(from, shard, message));
            }
        }
    }
    Ok(())
}

async fn receive_append(
    shared: &Shared,
    mut stream: RecvStream,
    shard: ShardId,
) -> Result<(), StreamError> {
    let (from, inbox) = (shared.peer.broker, &shared.local.inbox);
    let budget = Some(&shared.budget);
    while let Some(frame) = read_frame(&mut stream, Lane::Append, budget).await? {
        shared.peer.lane(Lane::Append).received(frame.bytes());
        let delivery = inbox.append(from, shard, frame.body.clone());
        if timeout(limits::APPEND_DELIVERY_MAX, delivery).await.is_err() {
            shared.peer.lane(Lane::Append).dropped();
        }
    }
    Ok(())
}
