//! The partitions that a consumer is assigned, decoded from the bytes that the group's leader sent.
//!
//! Only observers outside of the group use this. The broker takes no part in the assignment, and
//! bytes that it cannot decode count as an empty assignment.

use bytes::{Buf as _, Bytes};
use ropewalk_codec::consumer_protocol_assignment::ConsumerProtocolAssignment;
use ropewalk_codec::{Message as _, Reader};

/// The partitions of `topic` in a member's assignment, in order.
pub(crate) fn partitions_of(assignment: &Bytes, topic: &str) -> Vec<i32> {
    let mut rest = assignment.clone();
    let Ok(version @ 0..) = rest.try_get_i16() else { return Vec::new() };
    // Fields of later versions follow those of the known version.
    let version = version.min(*ConsumerProtocolAssignment::VERSIONS.end());
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut Reader::new(rest), version) else {
        return Vec::new();
    };
    let of_topic = assignment.assigned_partitions.iter().filter(|given| &*given.topic == topic);
    let mut partitions: Vec<i32> = of_topic.flat_map(|given| given.partitions.clone()).collect();
    partitions.sort_unstable();
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1: `orders` with 2 and 0, `refunds` with 5; no user data.
    const GIVEN: &[u8] = b"\0\x01\0\0\0\x02\
        \0\x06orders\0\0\0\x02\0\0\0\x02\0\0\0\0\
        \0\x07refunds\0\0\0\x01\0\0\0\x05\xff\xff\xff\xff";

    #[test]
    fn the_partitions_of_one_topic_are_found() {
        let given = Bytes::from_static(GIVEN);
        assert_eq!(partitions_of(&given, "orders"), [0, 2]);
        assert_eq!(partitions_of(&given, "refunds"), [5]);
        assert!(partitions_of(&given, "others").is_empty());
        let mut newer = GIVEN.to_vec();
        newer[1] = 9;
        newer.extend(b"more");
        assert_eq!(partitions_of(&newer.into(), "orders"), [0, 2]);
    }

    #[test]
    fn bytes_that_are_none_are_an_assignment_of_nothing() {
        for end in 0..GIVEN.len() {
            let _ = partitions_of(&Bytes::from_static(&GIVEN[..end]), "orders");
        }
        assert!(partitions_of(&Bytes::from_static(b"\xff\xff"), "orders").is_empty());
        assert!(partitions_of(&Bytes::from_static(b"\0\0\xff\xff\xff\xff"), "orders").is_empty());
    }
}
