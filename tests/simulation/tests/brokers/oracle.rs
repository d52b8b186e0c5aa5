//! What clients were promised, and whether it is kept.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// A partition as clients name it.
pub(crate) type Partition = (String, i32);

#[derive(Default)]
struct Log {
    /// Values by the offset at which they were acknowledged.
    acked: BTreeMap<i64, String>,
    /// Acknowledged without an offset: a batch that was there already.
    acked_somewhere: Vec<String>,
    /// Values by the offset at which a consumer has seen them.
    seen: BTreeMap<i64, String>,
    /// The offset of each value that was seen.
    offsets: BTreeMap<String, i64>,
    /// The last offset that was acknowledged to each producer, which waits for each batch.
    last: BTreeMap<String, i64>,
}

#[derive(Default)]
struct State {
    violation: Option<String>,
    logs: BTreeMap<Partition, Log>,
    /// The broker that led a shard in a term.
    led: BTreeMap<(u32, u64), i32>,
    /// The last offset that was acknowledged as committed.
    committed: BTreeMap<Partition, i64>,
    /// Topics whose creation, or deletion, was acknowledged last.
    topics: BTreeMap<String, bool>,
    counts: Counts,
}

/// How much a run did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    pub(crate) seen: u64,
    pub(crate) committed: u64,
    pub(crate) generations: u64,
    pub(crate) topics: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) stops: u64,
    pub(crate) joins: u64,
}

#[derive(Default)]
pub(crate) struct Oracle(Mutex<State>);

impl Oracle {
    pub(crate) fn violation(&self) -> Option<String> {
        self.0.lock().violation.clone()
    }

    pub(crate) fn violated(&self, what: String) {
        self.0.lock().violation.get_or_insert(what);
    }

    pub(crate) fn counts(&self) -> [(&'static str, u64); 10] {
        let state = self.0.lock();
        let Counts { acked, seen, committed, generations, topics, crashes, cuts, stops, joins } =
            state.counts;
        [
            ("acked", acked),
            ("seen", seen),
            ("committed", committed),
            ("generations", generations),
            ("topics", topics),
            ("crashes", crashes),
            ("cuts", cuts),
            ("stops", stops),
            ("joins", joins),
            ("terms", state.led.len() as u64),
        ]
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.0.lock().counts);
    }

    /// The values were acknowledged; `None` if the broker only says that it has them.
    pub(crate) fn acked(&self, partition: &Partition, base: Option<i64>, values: &[String]) {
        let mut state = self.0.lock();
        state.counts.acked += values.len() as u64;
        let log = state.logs.entry(partition.clone()).or_default();
        let Some(base) = base else {
            log.acked_somewhere.extend_from_slice(values);
            return;
        };
        let mut wrong = None;
        let producer = values[0].split('-').next().unwrap_or_default();
        let last = log.last.insert(producer.to_owned(), base);
        if last.is_some_and(|last| last >= base) {
            wrong = Some(format!("{partition:?}: {producer} has {base} after {last:?}"));
        }
        for (offset, value) in (base..).zip(values) {
            let before = log.acked.insert(offset, value.clone());
            let before = before.as_ref().or(log.seen.get(&offset));
            if let Some(other) = before.filter(|other| *other != value) {
                wrong = Some(format!(
                    "{partition:?}: {value} was acknowledged at {offset}, where {other} was"
                ));
            }
        }
        if let Some(wrong) = wrong {
            state.violation.get_or_insert(wrong);
        }
    }

    /// A consumer has seen a value at an offset.
    pub(crate) fn saw(&self, partition: &Partition, offset: i64, value: &str) {
        let mut state = self.0.lock();
        state.counts.seen += 1;
        let log = state.logs.entry(partition.clone()).or_default();
        let acked = log.acked.get(&offset).filter(|acked| *acked != value);
        let seen = log.seen.get(&offset).filter(|seen| *seen != value);
        let other_offset = log.offsets.get(value).filter(|at| **at != offset);
        let wrong = if let Some(acked) = acked {
            Some(format!("{partition:?}: {value} is at {offset}, where {acked} was acknowledged"))
        } else if let Some(seen) = seen {
            Some(format!("{partition:?}: {value} is at {offset}, where {seen} was seen"))
        } else {
            other_offset.map(|at| format!("{partition:?}: {value} is at {offset} and at {at}"))
        };
        log.seen.insert(offset, value.to_owned());
        log.offsets.insert(value.to_owned(), offset);
        if let Some(wrong) = wrong {
            state.violation.get_or_insert(wrong);
        }
    }

    /// Everything that is in the partition was seen.
    pub(crate) fn all_seen(&self, partition: &Partition) {
        let mut state = self.0.lock();
        let Some(log) = state.logs.get(partition) else { return };
        let lost = log.acked.iter().find(|(offset, _)| !log.seen.contains_key(offset));
        let lost = lost.map(|(offset, value)| format!("{value} at {offset}"));
        let lost_somewhere =
            || log.acked_somewhere.iter().find(|value| !log.offsets.contains_key(*value)).cloned();
        let gap = || (0_i64..).zip(log.seen.keys()).find(|(dense, offset)| dense != *offset);
        let wrong = if let Some(lost) = lost.or_else(lost_somewhere) {
            format!("{partition:?}: {lost} was acknowledged and is lost")
        } else if let Some((missing, _)) = gap() {
            format!("{partition:?}: nothing is at {missing}, and something after it")
        } else {
            return;
        };
        state.violation.get_or_insert(wrong);
    }

    /// A broker leads a shard in a term.
    pub(crate) fn leads(&self, shard: u32, term: u64, broker: i32) {
        let mut state = self.0.lock();
        let first = *state.led.entry((shard, term)).or_insert(broker);
        if first != broker {
            let wrong = format!("shard {shard} is led by {first} and {broker} in term {term}");
            state.violation.get_or_insert(wrong);
        }
    }

    pub(crate) fn committed(&self, partition: &Partition, offset: i64) {
        let mut state = self.0.lock();
        state.counts.committed += 1;
        let last = state.committed.entry(partition.clone()).or_insert(offset);
        *last = (*last).max(offset);
    }

    /// The acknowledged offset of the group in a partition.
    pub(crate) fn last_committed(&self, partition: &Partition) -> Option<i64> {
        self.0.lock().committed.get(partition).copied()
    }

    /// The existence of a topic as of the last acknowledged change.
    pub(crate) fn topic(&self, name: &str, exists: bool) {
        let mut state = self.0.lock();
        state.counts.topics += 1;
        state.topics.insert(name.to_owned(), exists);
    }

    pub(crate) fn forget_topic(&self, name: &str) {
        self.0.lock().topics.remove(name);
    }

    pub(crate) fn topics(&self) -> BTreeMap<String, bool> {
        self.0.lock().topics.clone()
    }
}
