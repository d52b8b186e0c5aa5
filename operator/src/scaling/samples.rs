//! From what a broker said of a group to what the scaling policy takes.

use ropewalk_operator_plan::scaling::{MemberSample, PartitionSample, Sample, Signal};

use crate::signals::{GroupState, Known, Reading, Unknown};

/// The signal for the scaling policy.
///
/// `is_group_shared`: the group also reads another topic, for another target. A member without a partition
/// of this topic is then taken for one of the other's.
pub(super) fn signal(reading: &Reading, is_group_shared: bool) -> Signal {
    match reading {
        Reading::Known(known) => {
            let mut sample = sample(known);
            if is_group_shared {
                sample.members.retain(|member| !member.partitions.is_empty());
            }
            Signal::Known(sample)
        }
        Reading::Unknown(unknown) => Signal::Unknown(why(*unknown).to_owned()),
    }
}

fn why(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::NotConnected => "there is no stream of signals from the brokers",
        Unknown::Silent => "the brokers have been silent for too long",
        Unknown::Starting => "the stream of signals has only begun",
        Unknown::NotTold => "the brokers do not know all of the group themselves",
        Unknown::NotBound => "the brokers do not know the group as bound to this queue",
    }
}

fn sample(known: &Known) -> Sample {
    let state = &known.state;
    let members = members(state);
    // The wake-up may be newer than the state; it speaks of a group without members only.
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
            // A bound group has always committed; if it has not, all that waits is ahead of it.
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
