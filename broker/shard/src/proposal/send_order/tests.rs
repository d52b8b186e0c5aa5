//! Batches that come ahead of others, and the clients that send them again.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::TopicId;

fn numbered(sequence: i32) -> Numbered {
    let partition = PartitionId { topic: TopicId(Uuid::from_u128(7)), index: 0 };
    Numbered { partition, producer_id: 77, epoch: 0, sequence }
}

#[test]
fn a_batch_is_early_once_until_an_earlier_one_comes() {
    let order = SendOrder::default();
    assert!(order.is_early(&numbered(3), 1));
    assert!(order.is_early(&numbered(4), 1));
    assert!(!order.is_early(&numbered(3), 1), "it came again, and nothing came before it");
    order.arrives(&numbered(3));
    assert!(!order.is_early(&numbered(4), 1), "that was not the missing one");
    order.arrives(&numbered(1));
    assert!(order.is_early(&numbered(3), 1), "the missing one came, and was refused again");
    order.stored(&numbered(0));
    assert!(!order.is_early(&numbered(3), 1), "that was stored before the gap began");
    order.stored(&numbered(3));
    assert!(order.is_early(&numbered(7), 5), "another gap");
}

#[test]
fn an_old_sequence_is_never_early() {
    let order = SendOrder::default();
    assert!(!order.is_early(&numbered(0), 5));
    assert!(!order.is_early(&numbered(5), 5));
    let last = i32::MAX;
    assert!(order.is_early(&numbered(1), last), "sequences wrap");
    order.arrives(&numbered(last));
    assert!(!order.is_early(&numbered(last), 1), "the old one is 2 before");
}

#[test]
fn a_refused_batch_of_a_new_producer_is_not_overtaken() {
    let order = SendOrder::default();
    assert!(!order.overtakes(&numbered(1), || true), "nothing was refused");
    order.refuse(&numbered(2));
    assert!(!order.overtakes(&numbered(3), || false), "its sequences are checked");
    assert!(order.overtakes(&numbered(3), || true));
    assert!(!order.overtakes(&numbered(3), || true), "the client has given the earlier one up");
    assert!(!order.overtakes(&numbered(2), || true), "it is the refused one");
    let (other, next) =
        (Numbered { producer_id: 78, ..numbered(9) }, Numbered { epoch: 1, ..numbered(9) });
    assert!(!order.overtakes(&other, || true) && !order.overtakes(&next, || true));
    order.arrives(&next);
    order.refuse(&numbered(2));
    assert!(order.overtakes(&numbered(3), || true), "a new gap after the other epoch");
    assert!(!order.is_ended());
}

#[test]
fn r1_an_order_remembers_a_bounded_number_of_gaps() {
    let order = SendOrder::default();
    let of = |producer_id| Numbered { producer_id, ..numbered(3) };
    for producer_id in 0..i64::try_from(GAPS_MAX).expect("small") {
        assert!(order.is_early(&of(producer_id), 0));
    }
    assert!(!order.is_early(&of(-5), 0), "an error of the protocol, as without this memory");
    order.refuse(&of(1));
    assert!(!order.is_ended());
    order.refuse(&of(-5));
    assert!(order.is_ended(), "the client sends all of it again on another connection");
}

proptest! {
    /// A producer with five batches on their way whose batches are refused and sent again as a
    /// client does: each is stored, in order, and none meets an out-of-order error.
    #[test]
    fn a_client_that_sends_again_in_order_meets_no_error(
        first in prop_oneof![Just(0), Just(i32::MAX - 3)],
        refusals in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let order = SendOrder::default();
        let sequence = |at: i32| first.wrapping_add(at) & i32::MAX;
        let mut refusals = refusals.into_iter();
        let mut stored = 0;
        while stored < 20 {
            // All that is on its way is answered before any of it is sent again.
            let on_its_way = stored..(stored + 5).min(20);
            for at in on_its_way {
                let batch = numbered(sequence(at));
                order.arrives(&batch);
                if refusals.next() == Some(true) {
                    continue;
                }
                if at == stored {
                    order.stored(&batch);
                    stored += 1;
                } else {
                    prop_assert!(order.is_early(&batch, sequence(stored)), "{at} of {stored}");
                }
            }
        }
    }
}
