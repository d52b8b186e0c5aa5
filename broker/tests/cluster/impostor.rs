//! A member that sends what no broker sends: it is refused with a reason, and nothing is lost.

use bytes::Bytes;
use ropewalk_broker::cluster::report::{Flags, Report};
use ropewalk_broker::cluster::wire::Request;
use ropewalk_peer::limits::BULK_FRAME_BYTES_MAX;
use ropewalk_shard::engine::{EntryId, Members};
use ropewalk_shard::{Payload, ReplicaId, ShardId};
use ropewalk_store::transfer::message::{Body, Fetch, Item, Message as FilesMessage, Offer, SetId};

use crate::broker::{Brokers, REPLICAS, SHARD, within};
use crate::{id, value};

const IMPOSTOR: i32 = 9;

/// Bytes that are no request.
fn nonsense() -> Vec<Payload> {
    let of = |bytes: &[u8]| Payload::from(Bytes::copy_from_slice(bytes));
    let propose_nothing = [1, 1, 1, 0, 0, 0];
    let endless_report = [&[1, 2][..], &[0; 21], &u32::MAX.to_le_bytes()].concat();
    let huge = [&[1, 3][..], &vec![0; BULK_FRAME_BYTES_MAX - 2]].concat();
    vec![of(&[]), of(&[9, 0]), of(&[1, 200]), of(&propose_nothing), of(&endless_report), of(&huge)]
}

/// A message of a transfer of files.
fn files(from: u64, body: Body) -> Payload {
    Request::Files(FilesMessage { shard: SHARD, from, to: REPLICAS[1], body }).encode()
}

fn old_set(from: u64) -> SetId {
    SetId { replica: from, number: 1 }
}

/// An offer of files that the receiver had long ago.
fn old_offer(from: u64) -> Payload {
    let last = EntryId { index: 2, term: 1 };
    let members = Members::default();
    let (list_bytes, list_sum, files_bytes) = (10, 0, 10);
    let set = old_set(from);
    files(from, Body::Offer(Offer { set, last, members, list_bytes, list_sum, files_bytes }))
}

fn old_piece(from: u64) -> Payload {
    let item = Item::List;
    let of = Fetch { set: old_set(from), item, position_bytes: 0, length_bytes: 3 };
    files(from, Body::Piece { of, bytes: Bytes::from_static(b"old") })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_nonsense_and_replayed_files_of_a_member_are_refused_and_nothing_is_lost() {
    let mut brokers = Brokers::start(2).await;
    within("the shard grows", brokers.grow()).await;
    let mut expected = Vec::new();
    for number in 0..20_u8 {
        within("an append", brokers.append(&[number])).await;
        expected.push(vec![number]);
    }
    let metrics = brokers.metrics(1);
    let refused = |reason: &str| {
        let name = format!("ropewalk_peer_messages_refused_total{{reason=\"{reason}\"}} ");
        value(&metrics(), &name)
    };
    let impostor = brokers.impostor(IMPOSTOR);
    let all = nonsense();
    let count = all.len() as f64;
    for request in all {
        assert!(!within("an answer", impostor.ask(1, request)).await, "it is no request");
    }
    assert_eq!((refused("undecodable"), refused("other_broker")), (count, 0.0));

    // It speaks for a replica, and for a broker, that it is not.
    for request in [old_offer(REPLICAS[0]), old_piece(REPLICAS[0])] {
        assert!(within("an answer", impostor.ask(1, request)).await);
    }
    let flags = Flags::default();
    let report = Report { broker: id(0), incarnation: 99, sequence: 99, flags, led: Vec::new() };
    assert!(within("an answer", impostor.ask(1, Request::Report(report).encode())).await);
    assert_eq!(refused("other_broker"), 3.0);

    // A replica of its own sends again what it sent long ago, and asks for what is not its
    // business.
    let own = 999;
    for request in [old_offer(own), old_piece(own), old_offer(own)] {
        assert!(within("an answer", impostor.ask(1, request)).await);
    }
    for shard in [SHARD, ShardId(77)] {
        let transfer = Request::Transfer { shard, to: ReplicaId(own) }.encode();
        assert!(within("an answer", impostor.ask(1, transfer)).await);
    }
    for number in 20..30_u8 {
        within("an append", brokers.append(&[number])).await;
        expected.push(vec![number]);
    }
    for broker in 0..2 {
        within("it follows", brokers.catches_up(broker)).await;
        assert_eq!(brokers.distinct(broker), expected, "broker {broker}");
    }
    brokers.stop_all().await;
}
