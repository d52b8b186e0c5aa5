//! A queue, its consumers and the pods they run in, simulated message by message.
//!
//! Every partition is a FIFO of (arrival time, count); a member serves its partitions in turn; pods
//! take time to start; a rebalance pauses all members; commits are made at intervals.

use crate::scaling::{MemberSample, PartitionSample, Sample, Target};
use std::collections::VecDeque;
use std::time::Duration;

/// One tick, seconds.
pub(super) const TICK: f64 = 0.5;

/// Random numbers from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// In [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many of something that happens `mean` times on average.
    pub(super) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            let normal = (-2.0 * self.uniform().max(1e-12).ln()).sqrt()
                * (std::f64::consts::TAU * self.uniform()).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0) as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.uniform(), 0);
        while product > limit {
            product *= self.uniform();
            count += 1;
        }
        count
    }
}

/// Parameters of the simulation.
#[derive(Clone)]
pub(super) struct Nature {
    pub(super) partitions: usize,
    /// What one replica processes, per second, at a time.
    pub(super) per_replica: fn(f64) -> f64,
    /// What everything the consumers call takes, per second, at a time.
    pub(super) downstream: fn(f64) -> f64,
    /// From the write to a pod's first poll, seconds.
    pub(super) startup: f64,
    /// Some take longer, up to this much, seconds.
    pub(super) straggle: f64,
    /// Members that one replica brings.
    pub(super) threads: usize,
    /// Pods that start at all.
    pub(super) pods_max: usize,
    /// How long a change of members keeps all of them from working, seconds.
    pub(super) pause: f64,
    /// Seconds between commits of one member.
    pub(super) commit: f64,
    /// Messages stay this long in a member's hands although it could take more, seconds.
    pub(super) latency: f64,
    /// How much of the load each partition gets, relative to the others.
    pub(super) weight: fn(usize) -> f64,
    pub(super) seed: u64,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            partitions: 24,
            per_replica: |_| 100.0,
            downstream: |_| f64::INFINITY,
            startup: 12.0,
            straggle: 0.0,
            threads: 1,
            pods_max: usize::MAX,
            pause: 2.0,
            commit: 1.0,
            latency: 0.0,
            weight: |_| 1.0,
            seed: 1,
        }
    }
}

#[derive(Clone)]
struct Pod {
    id: u64,
    ready_at: f64,
    /// Work it could have done and has not, messages.
    credit: f64,
    partitions: Vec<usize>,
}

#[derive(Default, Clone)]
struct Partition {
    waiting: VecDeque<(f64, u64)>,
    /// Messages that a member still holds: when it finishes, and how many.
    in_hand: VecDeque<(f64, u64)>,
    end: u64,
    done: u64,
    committed: u64,
}

/// The simulated queue, group and pods.
pub(super) struct World {
    pub(super) nature: Nature,
    pub(super) now: f64,
    pub(super) replicas: u32,
    partitions: Vec<Partition>,
    pods: Vec<Pod>,
    members: Vec<u64>,
    paused_until: f64,
    next_id: u64,
    random: Random,
    /// Messages by how many ticks they waited.
    pub(super) waits: Vec<u64>,
    pub(super) changes: Vec<(f64, u32, u32)>,
    pub(super) replica_seconds: f64,
}

impl World {
    pub(super) fn new(nature: Nature, replicas: u32) -> Self {
        let random = Random::new(nature.seed);
        let partitions = vec![Partition::default(); nature.partitions];
        let mut world = Self {
            nature,
            now: 0.0,
            replicas: 0,
            partitions,
            pods: Vec::new(),
            members: Vec::new(),
            paused_until: 0.0,
            next_id: 0,
            random,
            waits: Vec::new(),
            changes: Vec::new(),
            replica_seconds: 0.0,
        };
        world.scale(replicas);
        world.changes.clear();
        world.pods.iter_mut().for_each(|pod| pod.ready_at = 0.0);
        world
    }

    /// Writes the replica count.
    pub(super) fn scale(&mut self, replicas: u32) {
        if replicas == self.replicas {
            return;
        }
        self.changes.push((self.now, self.replicas, replicas));
        self.replicas = replicas;
        let wanted = (replicas as usize).min(self.nature.pods_max) * self.nature.threads;
        self.pods.truncate(wanted);
        while self.pods.len() < wanted {
            let pod = self.start();
            self.pods.push(pod);
        }
    }

    fn start(&mut self) -> Pod {
        self.next_id += 1;
        let straggles = self.random.uniform() * self.nature.straggle;
        let ready_at = self.now + self.nature.startup + straggles;
        Pod { id: self.next_id, ready_at, credit: 0.0, partitions: vec![] }
    }

    /// The oldest pod is replaced, as a rollout does.
    pub(super) fn replace_oldest(&mut self) {
        let pod = self.start();
        self.pods.push(pod);
        self.pods.remove(0);
    }

    /// One tick with this many messages per second arriving.
    pub(super) fn tick(&mut self, load: f64) {
        self.replica_seconds += f64::from(self.replicas) * TICK;
        self.arrive(load);
        self.rebalance();
        if self.now >= self.paused_until {
            self.work();
        }
        self.finish();
        self.commit();
        self.now += TICK;
    }

    fn arrive(&mut self, load: f64) {
        let weights: Vec<f64> = (0..self.partitions.len()).map(self.nature.weight).collect();
        let total: f64 = weights.iter().sum();
        for (partition, weight) in self.partitions.iter_mut().zip(weights) {
            let count = self.random.poisson(load * weight / total * TICK);
            if count > 0 {
                partition.waiting.push_back((self.now, count));
                partition.end += count;
            }
        }
    }

    fn rebalance(&mut self) {
        let ready: Vec<u64> =
            self.pods.iter().filter(|pod| pod.ready_at <= self.now).map(|pod| pod.id).collect();
        if ready == self.members {
            return;
        }
        // Members commit before they give partitions away.
        self.partitions.iter_mut().for_each(|partition| partition.committed = partition.done);
        self.members = ready;
        self.paused_until = self.now + self.nature.pause;
        let count = self.members.len();
        for pod in &mut self.pods {
            pod.credit = 0.0;
            pod.partitions = match self.members.iter().position(|id| *id == pod.id) {
                Some(at) => (at..self.nature.partitions).step_by(count).collect(),
                None => Vec::new(),
            };
        }
    }

    fn work(&mut self) {
        let busy = |pod: &Pod, partitions: &[Partition]| {
            pod.partitions.iter().any(|index| !partitions[*index].waiting.is_empty())
        };
        let count = self.pods.iter().filter(|pod| busy(pod, &self.partitions)).count().max(1);
        let share = (self.nature.downstream)(self.now) / count as f64;
        let able = (self.nature.per_replica)(self.now) / self.nature.threads as f64;
        let each = able.min(share) * TICK;
        for pod in &mut self.pods {
            pod.credit += each;
            while pod.credit >= 1.0 {
                let open: Vec<usize> = pod
                    .partitions
                    .iter()
                    .copied()
                    .filter(|index| !self.partitions[*index].waiting.is_empty())
                    .collect();
                if open.is_empty() {
                    // Idle time cannot be made up for.
                    pod.credit = pod.credit.min(each.max(1.0));
                    break;
                }
                let part = ((pod.credit / open.len() as f64) as u64).max(1);
                for index in open {
                    let take = part.min(pod.credit as u64);
                    let taken = self.partitions[index].take(take, self.now, &mut self.waits);
                    self.partitions[index]
                        .in_hand
                        .push_back((self.now + self.nature.latency, taken));
                    pod.credit -= taken as f64;
                }
            }
        }
    }

    fn finish(&mut self) {
        for partition in &mut self.partitions {
            while let Some((at, count)) = partition.in_hand.front().copied()
                && at <= self.now
            {
                partition.done += count;
                partition.in_hand.pop_front();
            }
        }
    }

    fn commit(&mut self) {
        if self.now < self.paused_until {
            return;
        }
        for pod in &self.pods {
            // Each member at another moment.
            let phase = (pod.id as f64 * 0.37) % 1.0 * self.nature.commit;
            let due = |at: f64| ((at - phase) / self.nature.commit).floor();
            if due(self.now) > due(self.now - TICK) {
                for index in &pod.partitions {
                    self.partitions[*index].committed = self.partitions[*index].done;
                }
            }
        }
    }

    /// The broker's sample of the group.
    pub(super) fn sample(&self) -> Sample {
        let partitions: Vec<PartitionSample> = self
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| PartitionSample {
                partition: index as u32,
                length: partition.end - partition.committed,
                end: partition.end as i64,
                committed: partition.committed as i64,
            })
            .collect();
        let holds = |pod: &&Pod| self.members.contains(&pod.id);
        let members = self.pods.iter().filter(holds).map(|pod| MemberSample {
            id: format!("member-{}", pod.id),
            partitions: pod.partitions.iter().map(|index| *index as u32).collect(),
        });
        Sample {
            length: partitions.iter().map(|partition| partition.length).sum(),
            in_flight: None,
            rebalancing: self.now < self.paused_until,
            last_pause: Some(Duration::from_secs_f64(self.nature.pause)),
            partitions,
            members: members.collect(),
        }
    }

    pub(super) fn target(&self) -> Target {
        Target { replicas: self.replicas, current: (self.pods.len() / self.nature.threads) as u32 }
    }

    /// Messages that are not committed.
    pub(super) fn lag(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.end - partition.committed).sum()
    }

    /// Messages that are not processed.
    pub(super) fn waiting(&self) -> u64 {
        self.partitions
            .iter()
            .flat_map(|partition| &partition.waiting)
            .map(|(_, count)| count)
            .sum()
    }

    /// Counts what is left as having waited until now.
    pub(super) fn close(&mut self) {
        for partition in &mut self.partitions {
            partition.take(u64::MAX, self.now, &mut self.waits);
        }
    }
}

impl Partition {
    fn take(&mut self, most: u64, now: f64, waits: &mut Vec<u64>) -> u64 {
        let mut taken = 0;
        while let Some((since, count)) = self.waiting.front_mut()
            && taken < most
        {
            let part = (*count).min(most - taken);
            let ticks = ((now - *since) / TICK).round() as usize;
            if ticks >= waits.len() {
                waits.resize(ticks + 1, 0);
            }
            waits[ticks] += part;
            taken += part;
            *count -= part;
            if *count == 0 {
                self.waiting.pop_front();
            }
        }
        taken
    }
}
