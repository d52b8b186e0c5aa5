//! Converts a group's signal to the input of the scaling policy.

use ropewalk_operator_plan::scaling::{MemberSample, PartitionSample, Sample, Signal};

use crate::signals::{GroupSignal, GroupSnapshot, GroupState, UnknownReason};

/// Converts a signal.
///
/// `is_group_shared`: the group also reads another topic, for another target. A member without a
/// partition of this topic then counts as one of the other target.
pub(super) fn signal(reading: &GroupSignal, is_group_shared: bool) -> Signal {
    match reading {
        GroupSignal::Known(known) => {
            let mut sample = sample(known);
            if is_group_shared {
                sample.members.retain(|member| !member.partitions.is_empty());
            }
            Signal::Known(sample)
        }
        GroupSignal::Unknown(unknown) => Signal::Unknown(why(*unknown).to_owned()),
    }
}

fn why(unknown: UnknownReason) -> &'static str {
    match unknown {
        UnknownReason::NotConnected => "no signal stream from the brokers is open",
        UnknownReason::Silent => {
            "the signal stream of the brokers has been silent for more than 10 s"
        }
        UnknownReason::Starting => "the signal stream has just begun",
        UnknownReason::Incomplete => "the brokers report the group's state as partly unknown",
        UnknownReason::NotBound => "the brokers report no binding of the group to this queue",
    }
}

fn sample(known: &GroupSnapshot) -> Sample {
    let state = &known.state;
    let members = members(state);
    // The wake-up may be newer than the state; it only applies to a group without members.
    let woken = known.wake_length.filter(|_| members.is_empty()).unwrap_or(0);
    Sample {
        length: state.length.max(woken),
        in_flight: state.in_flight,
        rebalancing: state.rebalancing,
        last_pause: state.last_rebalance_ms.map(std::time::Duration::from_millis),
        partitions: partitions(state),
        members,
    }
}

fn partitions(state: &GroupState) -> Vec<PartitionSample> {
    let partitions = state.partitions.iter().filter_map(|partition| {
        let waiting = i64::try_from(partition.length).unwrap_or(i64::MAX);
        Some(PartitionSample {
            partition: u32::try_from(partition.partition).ok()?,
            length: partition.length,
            end: partition.end,
            // A bound group has always committed; otherwise all its lag is ahead of it.
            committed: partition.committed.unwrap_or(partition.end.saturating_sub(waiting)),
        })
    });
    partitions.collect()
}

fn members(state: &GroupState) -> Vec<MemberSample> {
    let members = state.members.iter().map(|member| MemberSample {
        id: member.member_id.clone(),
        partitions: member.partitions.iter().filter_map(|n| u32::try_from(*n).ok()).collect(),
    });
    members.collect()
}
