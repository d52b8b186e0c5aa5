//! Messages that wait for the drivers, of all shards together.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_disk::SimDisk;
use ropewalk_node::limits::{MESSAGES_BYTES_MAX, NODE_MESSAGES_BYTES_MAX};
use ropewalk_node::{NoPeers, Node};
use ropewalk_shard::engine::{Entry, EntryId, EntryKind};
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::{BrokerId, Payload, ShardId};
use ropewalk_store::Identity;

use crate::support;

const SHARDS: u32 = 24;
const ENTRY_BYTES: usize = 1 << 20;

fn append(to: u64) -> Message {
    let data = Payload::from(Bytes::from_static(&[0; ENTRY_BYTES]));
    let entry = Entry { index: 2, term: 1, kind: EntryKind::Normal, data };
    let previous = EntryId { index: 1, term: 1 };
    Message {
        from: 99,
        to,
        term: 1,
        body: Body::Append { previous, commit: 1, entries: vec![entry] },
    }
}

#[test]
fn r1_messages_of_all_shards_together_are_bounded_and_each_shard_takes_one() {
    // The drivers do not run as long as the runtime does not.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("it starts");
    let entered = runtime.enter();
    let identity = Identity::first("test".to_owned(), BrokerId(0), SHARDS);
    let disk = Arc::new(SimDisk::new(1));
    let options = support::options(disk, Path::new("/data"), identity, Arc::new(NoPeers));
    let node = Node::open(options).expect("it opens");
    let offer = |shard: u32| {
        let held = node.held_shard(ShardId(shard)).expect("a first broker has it");
        node.message(ShardId(shard), append(held.replica().expect("it was started")))
    };
    let taken: Vec<usize> =
        (1..=SHARDS).map(|shard| (0..).take_while(|_| offer(shard)).count()).collect();
    let bytes = taken.iter().sum::<usize>() * ENTRY_BYTES;
    assert!(taken.iter().all(|count| *count > 0), "each shard takes one: {taken:?}");
    assert!(taken.iter().all(|count| count * ENTRY_BYTES <= MESSAGES_BYTES_MAX), "{taken:?}");
    assert!(bytes <= NODE_MESSAGES_BYTES_MAX + SHARDS as usize * ENTRY_BYTES, "{taken:?}");
    assert!(bytes > NODE_MESSAGES_BYTES_MAX / 2, "{taken:?}");
    drop(entered);
    runtime.block_on(node.stop());
}
