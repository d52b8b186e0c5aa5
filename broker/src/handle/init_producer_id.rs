//! InitProducerId: a producer id for an idempotent producer (KIP-98).
//!
//! Ids are allocated from the catalog in blocks. The unused rest of a block is lost at a restart,
//! so that no id is ever issued twice.

use std::ops::Range;
use std::sync::Arc;

use ropewalk_codec::init_producer_id_request::InitProducerIdRequest;
use ropewalk_codec::init_producer_id_response::InitProducerIdResponse;
use tokio::sync::Mutex;

use super::{Call, Close, Context, ErrorCode, error};

/// How many ids one allocation from the catalog takes.
const BLOCK: i64 = 1000;

/// The unused rest of the last block.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds(Mutex<Range<i64>>);

impl ProducerIds {
    async fn next(&self, ctx: &Context) -> Result<i64, ErrorCode> {
        let mut block = self.0.lock().await;
        if block.is_empty() {
            let first = ctx.topics.allocate_producer_ids(BLOCK).await;
            let first = first.map_err(error::producer_id)?;
            *block = first..first + BLOCK;
        }
        Ok(block.next().expect("a block is not empty"))
    }
}

/// Handles the request.
pub(crate) async fn handle(
    ctx: &Arc<Context>,
    call: &Call,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Close> {
    let id = match request.transactional_id {
        // Transactions are not served, and the APIs they need are not advertised.
        Some(_) => Err(ErrorCode::UnsupportedVersion),
        None => ctx.producer_ids.next(ctx).await,
    };
    Ok(match id {
        Ok(producer_id) => {
            InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() }
        }
        Err(code) => InitProducerIdResponse {
            error_code: call.refuse(code),
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        },
    })
}
