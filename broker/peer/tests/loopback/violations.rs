//! Peers with a valid certificate and an accepted hello that then send garbage: the connection is
//! closed, and the broker accepts the next one.

use quinn::Connection;
use ropewalk_peer::frame::{Lane, Preface};
use ropewalk_peer::{Class, limits};
use ropewalk_shard::{BrokerId, ShardId};

use crate::authority::Authority;
use crate::broker::{Broker, Seen};
use crate::raw::Raw;

/// Error code of a connection on which the protocol was violated.
const VIOLATION: u64 = 3;

fn preface(lane: Lane) -> Vec<u8> {
    Preface { protocol: 1, lane, shard: ShardId(7) }.encode().to_vec()
}

/// Broker 1 and a client that may connect as broker 9.
fn broker() -> (Broker, Raw) {
    let authority = Authority::new();
    let broker = Broker::start(&authority, 1);
    broker.awaits(&[9]);
    let raw = Raw::broker(&authority, 9);
    (broker, raw)
}

/// Each of these streams ends its connection.
fn ends_the_connection(
    class: Class,
    streams: &[Vec<u8>],
    write: impl Fn(&Raw, &Connection, &[u8]),
) {
    let (broker, raw) = broker();
    for bytes in streams {
        let connection = raw.accepted(&broker, class);
        write(&raw, &connection, bytes);
        assert_eq!(raw.closed(&connection), VIOLATION, "{bytes:?}");
    }
    raw.accepted(&broker, class);
}

#[test]
fn r1_garbage_on_a_stream_ends_the_connection() {
    let streams = [
        // A preface with another version, an unknown lane, the lane of another class, half of one.
        vec![2, 0, 0, 0, 0, 0, 0],
        vec![1, 0, 9, 0, 0, 0, 0],
        preface(Lane::Bulk),
        vec![1, 0, 0],
        // A length of 4 GiB in each lane, and one more byte than is allowed.
        [preface(Lane::Control), vec![0xff; 4]].concat(),
        [preface(Lane::Append), vec![0xff; 4]].concat(),
        [preface(Lane::Append), too_long(Lane::Append)].concat(),
        // Frames that end early, in the length and in the body.
        [preface(Lane::Append), vec![9]].concat(),
        [preface(Lane::Append), vec![9, 0, 0, 0, 1, 2]].concat(),
        // Frames of the control lane: of an unknown kind, empty, with too many heartbeats.
        [preface(Lane::Control), vec![1, 0, 0, 0, 9]].concat(),
        [preface(Lane::Control), vec![0, 0, 0, 0]].concat(),
        [preface(Lane::Control), vec![5, 0, 0, 0, 1, 255, 255, 255, 255]].concat(),
    ];
    ends_the_connection(Class::Raft, &streams, |raw, connection, bytes| {
        raw.write(connection, bytes, true);
    });
}

#[test]
fn r1_garbage_instead_of_a_request_ends_the_connection() {
    let streams = [
        preface(Lane::Control),
        vec![1, 0, 9, 0, 0, 0, 0],
        [preface(Lane::Bulk), vec![0xff; 4]].concat(),
        [preface(Lane::Bulk), too_long(Lane::Bulk)].concat(),
    ];
    ends_the_connection(Class::Bulk, &streams, |raw, connection, bytes| {
        // Held until the connection is closed.
        let streams = raw.write_both(connection, bytes);
        raw.closed(connection);
        drop(streams);
    });
}

fn too_long(lane: Lane) -> Vec<u8> {
    u32::try_from(lane.frame_bytes_max() + 1).expect("it works in a test").to_le_bytes().to_vec()
}

#[test]
fn a_second_control_stream_ends_the_connection() {
    let (broker, raw) = broker();
    let connection = raw.accepted(&broker, Class::Raft);
    let first = raw.write(&connection, &preface(Lane::Control), false);
    let second = raw.write(&connection, &preface(Lane::Control), false);
    assert_eq!(raw.closed(&connection), VIOLATION);
    drop((first, second));
}

#[test]
fn messages_are_not_decoded_here() {
    let (broker, raw) = broker();
    let connection = raw.accepted(&broker, Class::Raft);
    raw.write(&connection, &[preface(Lane::Append), vec![2, 0, 0, 0, 0xde, 0xad]].concat(), true);
    assert!(matches!(broker.next(), Seen::Connected(_)));
    let expected = Seen::Append(BrokerId(9), ShardId(7), vec![0xde, 0xad].into());
    assert_eq!(broker.next(), expected, "the shard decodes it");
}

/// The peer announces the largest frames on many streams and sends nothing of them. It holds only
/// what it has reserved of its own connection.
#[test]
fn r1_announced_frames_take_no_memory_and_hold_up_no_other_lane() {
    let (broker, raw) = broker();
    let connection = raw.accepted(&broker, Class::Raft);
    let largest =
        u32::try_from(Lane::Append.frame_bytes_max()).expect("it works in a test").to_le_bytes();
    let announced = [preface(Lane::Append), largest.to_vec()].concat();
    let streams: Vec<_> = (0..50).map(|_| raw.write(&connection, &announced, false)).collect();
    let control = [preface(Lane::Control), vec![6, 0, 0, 0, 0, 7, 0, 0, 0, 42]].concat();
    let stream = raw.write(&connection, &control, false);
    assert!(matches!(broker.next(), Seen::Connected(_)));
    assert_eq!(broker.next(), Seen::Control(BrokerId(9), ShardId(7), vec![42].into()));
    assert!(50 * Lane::Append.frame_bytes_max() > limits::RECEIVED_BYTES_MAX);
    drop((streams, stream));
}

/// A stream that never ends in the middle of a frame keeps its connection; nothing is delivered.
#[test]
fn the_next_connection_works_after_the_peer_vanished_in_a_frame() {
    let (broker, raw) = broker();
    let connection = raw.accepted(&broker, Class::Raft);
    let half = [preface(Lane::Append), vec![9, 0, 0, 0, 1, 2]].concat();
    let stream = raw.write(&connection, &half, false);
    connection.close(0u32.into(), b"");
    drop(stream);
    let connection = raw.accepted(&broker, Class::Raft);
    raw.write(&connection, &[preface(Lane::Append), vec![1, 0, 0, 0, 5]].concat(), true);
    loop {
        match broker.next() {
            Seen::Append(_, _, message) => {
                assert_eq!(message, vec![5]);
                break;
            }
            Seen::Control(..) => panic!("nothing was sent in the control lane"),
            Seen::Connected(_) | Seen::Disconnected(_) | Seen::Ended(_) => {}
        }
    }
}
