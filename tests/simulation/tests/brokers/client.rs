//! A client: requests to brokers, and where the leaders are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ropewalk_batch::Header;
use ropewalk_broker::listen::{Peer, Reply, Service};
use ropewalk_codec::metadata_request::MetadataRequest;
use ropewalk_codec::{Request, decode_response, encode_request};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::oracle::Partition;
use crate::world::World;

/// Codes after which a client asks for the leaders again, and repeats its request.
pub(crate) const RETRIABLE: &[i16] = &[
    -1, // Unknown server error.
    2,  // Corrupt message.
    3,  // Unknown topic or partition: a broker may not know it yet.
    5, 6, 7, 8, // No leader, not the leader, request timed out, broker not available.
    13, 14, 15, 16, // Network, coordinator loading, not available, not this one.
    19, 20, // Not enough replicas.
    41, // Not the controller.
    56, // Storage error.
    72, 74, 75,
    78, // Listener not found, fenced and unknown leader epoch, offset not available.
    80, // Preferred leader not available.
];

/// The request may or may not have been carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost;

pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    /// The connections.
    peers: BTreeMap<i32, Arc<Peer>>,
    leaders: BTreeMap<Partition, i32>,
}

impl Client {
    pub(crate) fn new(name: impl Into<String>, world: &Arc<World>) -> Self {
        let world = Arc::clone(world);
        Self { name: name.into(), world, peers: BTreeMap::new(), leaders: BTreeMap::new() }
    }

    pub(crate) fn event(&self, what: impl AsRef<str>) {
        self.world.trace.event(format!("{}: {}", self.name, what.as_ref()));
    }

    /// Any broker that serves.
    pub(crate) async fn any(&self) -> i32 {
        loop {
            let serving = self.world.serving();
            if let Some(broker) = self.world.dice(|dice| dice.pick(&serving)) {
                return broker;
            }
            self.world.pause(100, 300).await;
        }
    }

    fn peer(&mut self, broker: i32) -> Arc<Peer> {
        let peer = || {
            Arc::new(Peer {
                address: ([10, 0, 0, 9], 1000).into(),
                listener: "PLAINTEXT".into(),
                order: Default::default(),
                fetch_turn: Default::default(),
            })
        };
        Arc::clone(self.peers.entry(broker).or_insert_with(peer))
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn ask<R: Request + Sync>(
        &mut self,
        broker: i32,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Lost> {
        let result = self.exchange(broker, version, request).await;
        if result.is_none() {
            // It connects again.
            self.peers.remove(&broker);
            self.world.pause(50, 200).await;
        }
        result.ok_or(Lost)
    }

    async fn exchange<R: Request + Sync>(
        &mut self,
        broker: i32,
        version: i16,
        request: &R,
    ) -> Option<R::Response> {
        self.world.pause(0, 2).await;
        let (context, lanes) = self.world.entrance(broker)?;
        let frame = encode_request(1, Some(&self.name), version, request).expect("it encodes");
        let frame = frame.into_bytes().slice(4..);
        let peer = self.peer(broker);
        let accepted = context.accept(&peer, frame, lanes.share());
        let (answer, answered) = oneshot::channel();
        let name = self.name.clone();
        let world = Arc::clone(&self.world);
        self.world.serve(broker, async move {
            let reply = async { collect(accepted?.begin.await?.await?).await };
            match reply.await {
                Ok(reply) => drop(answer.send(reply)),
                Err(close) => world.trace.event(format!("{name}: {broker} closes: {close}")),
            }
        });
        let reply = timeout(Duration::from_secs(40), answered).await.ok()?.ok()?;
        self.world.pause(0, 2).await;
        let (_, response) =
            decode_response::<R>(reply.slice(4..), version).expect("an answer decodes");
        Some(response)
    }

    /// The leader of a partition as the client knows it; asks for it if it knows none.
    pub(crate) async fn leader(&mut self, partition: &Partition) -> Option<i32> {
        if !self.leaders.contains_key(partition) {
            let any = self.any().await;
            let request = MetadataRequest { topics: None, ..Default::default() };
            let found = self.ask(any, 12, &request).await.ok()?;
            for topic in found.topics {
                let Some(name) = topic.name else { continue };
                for part in topic.partitions {
                    if part.error_code == 0 && part.leader_id >= 0 {
                        let of = (name.to_string(), part.partition_index);
                        self.leaders.insert(of, part.leader_id);
                    }
                }
            }
        }
        self.leaders.get(partition).copied()
    }

    /// The leader is another one.
    pub(crate) fn forget(&mut self, partition: &Partition, hint: i32) {
        self.leaders.remove(partition);
        if hint >= 0 {
            self.leaders.insert(partition.clone(), hint);
        }
    }
}

async fn collect(reply: Reply) -> Result<Bytes, ropewalk_broker::listen::Close> {
    let Reply { chunks, rest, held } = reply;
    let mut bytes = chunks.concat();
    if let Some(mut rest) = rest {
        while let Some(piece) = rest.pieces.next().await {
            bytes.extend(piece?.concat());
        }
    }
    drop(held);
    Ok(bytes.into())
}

/// The offset and the value of each record in the batches of a fetch.
pub(crate) fn values(mut batches: Bytes) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    while batches.len() >= ropewalk_batch::HEADER_LEN {
        let header = Header::parse(&batches).expect("a batch");
        if header.size_bytes() > batches.len() {
            break;
        }
        let batch = batches.split_to(header.size_bytes());
        let records = ropewalk_batch::records(&header, batch, 1 << 20).expect("its records");
        for record in records {
            let record = record.expect("a record");
            let value = record.value.expect("a value");
            let value = String::from_utf8(value.to_vec()).expect("text");
            values.push((header.base_offset + i64::from(record.offset_delta), value));
        }
    }
    values
}
