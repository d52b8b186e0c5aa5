//! What the clients were promised, and whether every replica keeps it.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::engine::Members;
use ropewalk_shard::state::Effect;

/// The value of one record: each is sent in one batch of its own.
pub(crate) type Value = u64;

/// A partition and an offset in it.
pub(crate) type Position = (i32, i64);

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The leader of each term.
    leaders: BTreeMap<u64, u64>,
    /// What some replica applied: the same at every replica (O1, D1).
    applied: BTreeMap<Position, (Value, i32)>,
    positions: BTreeMap<Value, Position>,
    /// A digest of the state after an index, and the members.
    states: BTreeMap<u64, (u32, Members)>,
    /// Records that were acknowledged.
    acked: BTreeMap<Value, Position>,
    /// Records that are not stored, as a client was informed.
    absent: BTreeSet<Value>,
    /// The end of each partition as far as an acknowledgement named it or a read saw it.
    ends: BTreeMap<i32, i64>,
    /// Replicas whose state is not compared.
    pub excused: BTreeSet<u64>,
    /// Partitions that were closed, at any replica.
    pub closed: usize,
    violation: Option<String>,
}

impl Oracle {
    pub(crate) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn leads(&mut self, replica: u64, term: u64) {
        let leader = *self.leaders.entry(term).or_insert(replica);
        if leader != replica {
            self.violate(format!("replicas {leader} and {replica} lead in term {term}"));
        }
    }

    pub(crate) fn effect(&mut self, replica: u64, effect: &Effect) {
        self.closed += usize::from(matches!(effect, Effect::Closed(_)));
        let Effect::Appended { partition, batch, .. } = effect else { return };
        let position = (partition.index, batch.base_offset);
        let value = value_of(&batch.body());
        let stored = (value, batch.leader_epoch);
        let first = *self.applied.entry(position).or_insert(stored);
        if first != stored {
            let text = format!("{position:?} holds {first:?}, and {stored:?} at replica {replica}");
            self.violate(text);
        }
        let at = *self.positions.entry(value).or_insert(position);
        if at != position {
            self.violate(format!("record {value} is stored twice, at {at:?} and {position:?}"));
        }
        if self.absent.contains(&value) {
            self.violate(format!(
                "record {value} is stored, its client was informed that it is not"
            ));
        }
    }

    pub(crate) fn state(&mut self, replica: u64, index: u64, digest: u32, members: &Members) {
        if self.excused.contains(&replica) {
            return;
        }
        let (first, first_members) =
            self.states.entry(index).or_insert_with(|| (digest, members.clone()));
        let text = if *first != digest {
            format!("the state of replica {replica} differs after entry {index}")
        } else if first_members != members {
            format!("replica {replica} has members {members:?} after entry {index}")
        } else {
            return;
        };
        self.violate(text);
    }

    /// A client was informed that its record is at `position`.
    pub(crate) fn acked(&mut self, value: Value, position: Position) {
        match self.applied.get(&position) {
            Some((stored, _)) if *stored == value => {}
            other => self.violate(format!("record {value} was acked at {position:?}: {other:?}")),
        }
        self.acked.insert(value, position);
        let end = self.ends.entry(position.0).or_default();
        *end = (*end).max(position.1 + 1);
    }

    /// A client was informed that its record is not stored and never will be.
    pub(crate) fn absent(&mut self, value: Value) {
        if self.positions.contains_key(&value) {
            self.violate(format!(
                "record {value} is stored, its client is informed that it is not"
            ));
        }
        self.absent.insert(value);
    }

    /// The end of a partition that a read which begins now must see.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        self.ends.get(&partition).copied().unwrap_or(0)
    }

    /// A read at a replica that began when `end` was known saw a partition through `seen`. A read
    /// that begins now must see as much.
    pub(crate) fn seen(&mut self, replica: u64, partition: i32, seen: i64, end: i64) {
        if seen < end {
            self.violate(format!(
                "a read of partition {partition} at replica {replica} sees {seen}, known is {end}"
            ));
        }
        let known = self.ends.entry(partition).or_default();
        *known = (*known).max(seen);
    }

    /// A replica's partition has its end at `end`, after everything has settled.
    pub(crate) fn settled(&mut self, replica: u64, partition: i32, end: i64) {
        if end < self.end(partition) {
            let acked = self.end(partition);
            self.violate(format!(
                "replica {replica} has partition {partition} through {end}, acked is {acked}"
            ));
        }
    }

    /// Whether a client was informed that its record is stored.
    pub(crate) fn is_acked(&self, value: Value) -> bool {
        self.acked.contains_key(&value)
    }

    /// The record that some replica applied at a position.
    pub(crate) fn value_at(&self, position: Position) -> Option<Value> {
        self.applied.get(&position).map(|(value, _)| *value)
    }

    pub(crate) fn acked_count(&self) -> usize {
        self.acked.len()
    }
}

/// The value in a batch that [`batch_of`](crate::clients::batch_of) built, which has one record.
pub(crate) fn value_of(body: &[u8]) -> Value {
    let mark = b"value:";
    let at = body.windows(mark.len()).position(|window| window == mark).expect("ours");
    let digits = body[at + mark.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
