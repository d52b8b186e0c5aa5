//! The formats of entries, and which brokers read them.

use super::*;

#[test]
fn entries_carry_the_lowest_format_that_can_express_them() {
    let plain = Command::Catalog(CatalogCommand::AllocateProducerIds { count: 1 });
    assert_eq!(command::encode(TERM, 0, &plain).to_bytes()[0], 1);
    let inner = Box::new(CatalogCommand::DeleteTopics(vec![]));
    let fenced = Command::Catalog(CatalogCommand::Fenced { epoch: 1, command: inner });
    let written = command::encode(TERM, 0, &fenced);
    assert_eq!(written.to_bytes()[0], 2);
    assert_eq!(Envelope::decode(&written).expect("known").command, fenced);
    let expire = Command::Shard(silent(9, NOW_MS));
    let written = command::encode(TERM, 0, &expire);
    assert_eq!(written.to_bytes()[0], 3);
    assert_eq!(Envelope::decode(&written).expect("known").command, expire);
    let close = Command::Shard(ShardCommand::CloseTopics(deletions(&[partition().topic])));
    let written = command::encode(TERM, 0, &close);
    assert_eq!(written.to_bytes()[0], 4);
    assert_eq!(Envelope::decode(&written).expect("known").command, close);
    let forget = Command::Catalog(CatalogCommand::ForgetBroker { broker: BrokerId(1) });
    let written = command::encode(TERM, 0, &forget);
    assert_eq!(written.to_bytes()[0], 6);
    assert_eq!(Envelope::decode(&written).expect("known").command, forget);
    let mut newer = written.to_bytes().to_vec();
    let unknown = command::FORMAT_MAX + 1;
    newer[0] = unknown;
    assert_eq!(
        Envelope::decode(&Bytes::from(newer).into()).expect_err("unknown"),
        command::CommandError::Format(unknown)
    );
}

/// An older broker would read the fence and stop at what is in it, with a wrong reason.
#[test]
fn a_command_that_carries_another_one_has_the_format_of_the_newer_of_both() {
    let fenced =
        |command: CatalogCommand| CatalogCommand::Fenced { epoch: 1, command: Box::new(command) };
    let format = |command| command::encode(TERM, 0, &Command::Catalog(command)).to_bytes()[0];
    let abandon = || CatalogCommand::AbandonTopics(vec![partition().topic]);
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 9 };
    assert_eq!(format(fenced(abandon())), format(abandon()));
    assert_eq!(format(fenced(fenced(abandon()))), 4);
    assert_eq!(format(fenced(report)), 5);
    assert_eq!(format(fenced(CatalogCommand::DeleteTopics(vec![]))), 2);
}

#[test]
fn a_command_is_written_when_every_broker_reads_it() {
    let check = Command::Shard(ShardCommand::CheckState { encoding: ENCODING });
    let close = Command::Shard(ShardCommand::CloseTopics(vec![]));
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 9 };
    let forget = Command::Catalog(CatalogCommand::ForgetBroker { broker: BrokerId(1) });
    for (level, command, is_written) in [
        (0, &close, true),
        (0, &check, false),
        (4, &check, false),
        (5, &check, true),
        (9, &check, true),
        (5, &forget, false),
        (6, &forget, true),
        (0, &Command::Catalog(report), true),
    ] {
        assert_eq!(command::is_written_at(level, command), is_written, "{level} {command:?}");
    }
}

#[test]
fn commands_that_free_space_are_told_from_others_by_their_bytes() {
    let group = || "g".to_owned();
    let all = [
        (ShardCommand::OpenPartitions(vec![]), false),
        (ShardCommand::ClosePartitions(vec![partition()]), true),
        (ShardCommand::AdvanceLogStart(vec![(partition(), 1)]), true),
        (ShardCommand::ExpireProducers(vec![]), false),
        (ShardCommand::DeleteGroup { group: group() }, false),
        (ShardCommand::RemoveTopics(vec![]), false),
        (ShardCommand::StartOffsets { group: group(), offsets: vec![] }, false),
        (silent(9, NOW_MS), false),
        (ShardCommand::CloseTopics(deletions(&[partition().topic])), true),
        (ShardCommand::CheckState { encoding: ENCODING }, false),
    ];
    // Those on a tier are in `tier`.
    for (shard, frees) in all {
        let written = command::encode(TERM, 0, &Command::Shard(shard.clone()));
        assert_eq!(command::frees_space(&written), frees, "{shard:?}");
    }
    let delete = Command::Catalog(CatalogCommand::DeleteTopics(vec![]));
    assert!(!command::frees_space(&command::encode(TERM, 0, &delete)));
}

#[test]
fn an_expiry_of_producers_that_an_older_broker_wrote_is_read() {
    let old = Command::Shard(ShardCommand::ExpireProducers(vec![(partition(), 9)]));
    let written = command::encode(TERM, 7, &old);
    // Format 1, a shard command, term and time; the fourth variant, one partition with producer 9.
    let mut bytes = vec![1, 1];
    bytes.extend(TERM.to_le_bytes());
    bytes.extend(7_i64.to_le_bytes());
    bytes.extend([3, 1]);
    assert_eq!(written.to_bytes()[..bytes.len()], bytes);
    assert_eq!(Envelope::decode(&written).expect("known").command, old);
}
