//! The digest of the state, and the encoding that it covers.

use super::*;

fn check(state: &mut State) {
    change(state, ShardCommand::CheckState { encoding: ENCODING });
}

#[test]
fn after_the_first_check_the_digest_covers_what_was_appended() {
    let mut states = [opened(), opened()];
    let values = [b"one", b"two"];
    let valued = |value: &[u8]| Builder::new().record(0, None, Some(value)).build();
    for (state, value) in states.iter_mut().zip(values) {
        append(state, valued(value)).expect("taken");
    }
    assert_eq!(states[0].digest(), states[1].digest(), "the state has no records");
    states.iter_mut().for_each(check);
    assert_eq!(states[0].digest(), states[1].digest(), "the first check begins the sum");
    for (state, value) in states.iter_mut().zip(values) {
        append(state, valued(value)).expect("taken");
    }
    assert_ne!(states[0].digest(), states[1].digest());
    states.iter_mut().for_each(check);
    assert_ne!(states[0].digest(), states[1].digest(), "a later check keeps the sum");
}

/// The sum is over partitions, offsets and checksums: the same batches in another order, or in
/// another partition, have another one.
#[test]
fn the_sum_of_what_was_appended_covers_partition_offsets_and_content() {
    let second = PartitionId { index: 1, ..partition() };
    let sum = |batches: &[(PartitionId, usize)]| {
        let mut state = opened();
        let open = OpenPartition { partition: second, epoch_base: 10 };
        change(&mut state, ShardCommand::OpenPartitions(vec![open]));
        check(&mut state);
        for (partition, count) in batches {
            let items = vec![Append { partition: *partition, batch: batch(*count) }];
            run(&mut state, Command::Append(items));
        }
        state.log_sum.expect("it has begun")
    };
    let first = partition();
    let sums = [
        sum(&[]),
        sum(&[(first, 1)]),
        sum(&[(second, 1)]),
        sum(&[(first, 1), (first, 2)]),
        sum(&[(first, 2), (first, 1)]),
        sum(&[(first, 1), (second, 2)]),
    ];
    let different: std::collections::BTreeSet<_> = sums.iter().collect();
    assert_eq!(different.len(), sums.len(), "{sums:?}");
    assert_eq!(sum(&[(first, 1), (second, 2)]), sums[5]);
}

/// A tier with a page, a replaced one, and an object.
fn tiers(state: &mut State) {
    use crate::command::{ChangeTier, TierChange};
    use crate::id::HistoryId;
    use crate::manifest::{ObjectRef, PageRef};

    append(state, batch(9)).expect("taken");
    let object = |end: i64| ObjectRef {
        base: end - 3,
        end,
        history: HistoryId(1),
        term: TERM,
        size_bytes: 2,
        digest: 3,
        max_timestamp_ms: 4,
        first_epoch: 5,
    };
    let page = |count: u32| PageRef {
        level: 0,
        base: 0,
        end: 3 * i64::from(count),
        count,
        objects_bytes: 2 * u64::from(count),
        max_timestamp_ms: 4,
        history: HistoryId(1),
        term: TERM,
        size_bytes: 6,
        digest: u64::from(count),
    };
    for step in [
        TierChange::Enable,
        TierChange::AddObject(object(3)),
        TierChange::FoldObjects(page(1)),
        TierChange::AddObject(object(6)),
        TierChange::FoldObjects(page(2)),
        TierChange::AddObject(object(9)),
        TierChange::SetLocalStart(5),
    ] {
        let step = ChangeTier { change: step, partition: partition() };
        assert_eq!(change(state, ShardCommand::ChangeTier(step)), Outcome::Done);
    }
}

/// A state with something of everything.
fn varied() -> State {
    let mut state = opened();
    check(&mut state);
    append(&mut state, numbered(9, 0, 0, 3)).expect("taken");
    change(&mut state, generation(1, &["m"]));
    change(&mut state, commit(Some(("m", 1)), 4));
    tiers(&mut state);
    let topics = ["b", "a"].map(|name| NewTopic {
        id: TopicId(uuid::Uuid::from_u128(u128::from(name.as_bytes()[0]))),
        name: name.to_owned(),
        partitions: vec![],
        configs: vec![("k".to_owned(), "v".to_owned()), ("a".to_owned(), "w".to_owned())],
        owner: None,
    });
    run(&mut state, Command::Catalog(CatalogCommand::CreateTopics(topics.to_vec())));
    let abandon = CatalogCommand::AbandonTopics(vec![partition().topic]);
    run(&mut state, Command::Catalog(abandon));
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 5 };
    run(&mut state, Command::Catalog(report));
    let catalog = state.catalog.as_mut().expect("it is there");
    catalog.shards.insert(ShardId(1), ShardInfo::lone(ReplicaId(2), BrokerId(1)));
    let info = BrokerInfo {
        rack: Some("a".to_owned()),
        peer: Some(PeerEndpoint { host: "h".to_owned(), ports: [1, 2] }),
        endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), ("h".to_owned(), 3))]),
        admin: Some("h:4".to_owned()),
        incarnation: 5,
        standing: Standing::Draining,
    };
    let [broker, other] = [BrokerId(2), BrokerId(3)];
    for command in [
        CatalogCommand::RegisterBroker { broker, info: info.clone() },
        CatalogCommand::RegisterBroker { broker: other, info },
        CatalogCommand::ForgetBroker { broker: other },
        CatalogCommand::PlaceReplica { shard: ShardId(1), broker },
    ] {
        run(&mut state, Command::Catalog(command));
    }
    state
}

/// If this fails, the encoding of the state has changed: replicas of this and of the last version
/// would be found to differ. Raise [`ENCODING`], and the version of the snapshot.
#[test]
fn the_digest_of_an_encoding_never_changes() {
    assert_eq!((ENCODING, varied().digest()), (4, 388_465_353));
}

proptest! {
    /// A state that was built in another order, or read back from a snapshot, has the same bytes.
    #[test]
    fn the_encoding_is_canonical(
        ids in prop::collection::btree_set(0_u8..50, 1..20),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let mut order: Vec<u8> = ids.into_iter().collect();
        let built = |order: &[u8]| {
            let mut state = State::new();
            let partition = |n: &u8| PartitionId {
                topic: TopicId(uuid::Uuid::from_u128(u128::from(*n))),
                index: 0,
            };
            let open = |n| OpenPartition { partition: partition(n), epoch_base: 0 };
            change(&mut state, ShardCommand::OpenPartitions(order.iter().map(open).collect()));
            for n in order {
                let offset = OffsetCommit {
                    offset: 1,
                    leader_epoch: -1,
                    metadata: String::new(),
                    expires_ms: None,
                };
                let (group, offsets) = (format!("g{n}"), vec![(partition(n), offset)]);
                let commit = CommitOffsets { group, member: None, offsets };
                change(&mut state, ShardCommand::CommitOffsets(commit));
                let items = vec![Append { partition: partition(n), batch: numbered(9, 0, 0, 1) }];
                run(&mut state, Command::Append(items));
            }
            state
        };
        let bytes = |state: &State| postcard::to_allocvec(state).expect("encodes");
        let sorted = bytes(&built(&order));
        let first = shuffled.index(order.len());
        order.rotate_left(first);
        order.reverse();
        let other = built(&order);
        prop_assert_eq!(&bytes(&other), &sorted);
        let back: State = postcard::from_bytes(&sorted).expect("decodes");
        prop_assert_eq!(bytes(&back), sorted);
        prop_assert_eq!(back.digest(), other.digest());
    }
}
