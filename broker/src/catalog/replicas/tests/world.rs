//! A model of a cluster that executes the steps.

use super::*;

/// A cluster that does what the steps say. Learners have caught up one turn after they were added.
#[derive(Debug)]
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) next_replica: u64,
    pub(super) adds: usize,
    pub(super) transfers: usize,
}

impl World {
    pub(super) fn new(brokers: &[(Option<&str>, Standing)], shards: Vec<Vec<i32>>) -> Self {
        let brokers = brokers.iter().enumerate().map(|(id, (rack, standing))| {
            let rack = rack.map(str::to_owned);
            let id = BrokerId(i32::try_from(id).unwrap());
            let leadership = Leadership::Takes;
            (id, Broker { rack, standing: *standing, leadership })
        });
        let mut world = Self {
            cluster: Cluster { brokers: brokers.collect(), ..Cluster::default() },
            next_replica: 1,
            adds: 0,
            transfers: 0,
        };
        for (id, holders) in shards.into_iter().enumerate() {
            let members: Vec<_> =
                holders.into_iter().map(|broker| world.member(BrokerId(broker), true)).collect();
            let leader = world.leader(&members);
            let shard = Shard { members, leaving: vec![], leader, load: 0, moved_ago: None };
            // Shard 0 is the catalog.
            world.cluster.shards.insert(ShardId(u32::try_from(id).unwrap() + 1), shard);
        }
        world
    }

    /// Adds the catalog, with one voter.
    pub(super) fn with_catalog(mut self, broker: i32) -> Self {
        let members = vec![self.member(BrokerId(broker), true)];
        let leader = self.leader(&members);
        let shard = Shard { members, leaving: vec![], leader, load: 0, moved_ago: None };
        self.cluster.shards.insert(CATALOG, shard);
        self
    }

    /// The brokers with voters and with learners of the catalog.
    pub(super) fn of_catalog(&self) -> (Vec<i32>, Vec<i32>) {
        let (voters, learners): (Vec<_>, Vec<_>) =
            self.cluster.shards[&CATALOG].members.iter().partition(|member| member.is_voter);
        let sorted = |members: Vec<&Member>| {
            let mut brokers: Vec<_> = members.iter().map(|member| member.broker.0).collect();
            brokers.sort_unstable();
            brokers
        };
        (sorted(voters), sorted(learners))
    }

    /// The first member that answers, if most do.
    pub(super) fn leader(&self, members: &[Member]) -> Option<ReplicaId> {
        let answers = |m: &&Member| self.cluster.brokers[&m.broker].standing != Standing::Away;
        let mut able = members.iter().filter(answers);
        let has_majority = able.clone().count() * 2 > members.len();
        able.next().filter(|_| has_majority).map(|member| member.replica)
    }

    pub(super) fn member(&mut self, broker: BrokerId, is_voter: bool) -> Member {
        let replica = ReplicaId(self.next_replica);
        self.next_replica += 1;
        Member { replica, broker, is_voter, is_caught_up: is_voter }
    }

    pub(super) fn factor(&self) -> usize {
        let staying = self.cluster.brokers.values();
        replication_factor(staying.filter(|b| !b.standing.is_draining()).count())
    }

    /// Fewest voters that a shard may be left with.
    pub(super) fn voters_min(&self, shard: &Shard) -> usize {
        let voters = shard.members.iter().filter(|member| member.is_voter);
        let count = voters.clone().count();
        let accepts = |member: &Member| {
            self.cluster.brokers.get(&member.broker).map(|broker| broker.standing)
                == Some(Standing::DrainingToFewer)
        };
        if count < 3 || voters.clone().any(accepts) { self.factor() } else { 3 }
    }

    /// The process of a broker ends: other members lead.
    pub(super) fn lose(&mut self, broker: i32) {
        for shard in self.cluster.shards.values_mut() {
            let is_lost = |m: &&Member| m.broker == BrokerId(broker);
            let lost = shard.members.iter().find(is_lost).map(|member| member.replica);
            if lost.is_some() && shard.leader == lost {
                let mut others = shard.members.iter().filter(|m| !is_lost(m) && m.is_voter);
                shard.leader = others.next().map(|member| member.replica);
            }
        }
    }

    /// Executes the next steps, and checks each. Returns whether there were any.
    pub(super) fn turn(&mut self) -> bool {
        let steps = next_steps(&self.cluster);
        let shards: BTreeSet<_> = steps.iter().map(|step| step.shard()).collect();
        assert_eq!(shards.len(), steps.len(), "more than one change of a shard: {steps:?}");
        let transfers = steps.iter().filter(|step| matches!(step, Step::Transfer { .. })).count();
        assert!(transfers <= 1, "{steps:?}");
        for shard in self.cluster.shards.values_mut() {
            shard.members.iter_mut().for_each(|member| member.is_caught_up = true);
        }
        for step in &steps {
            self.execute(*step);
        }
        self.check_receiving();
        !steps.is_empty()
    }

    pub(super) fn execute(&mut self, step: Step) {
        let factor = self.factor();
        match step {
            Step::Add { shard, broker } => {
                assert_eq!(self.cluster.brokers[&broker].standing, Standing::Serving);
                let member = self.member(broker, false);
                let members = &mut self.shard(shard).members;
                assert!(members.iter().all(|other| other.broker != broker), "two on one broker");
                members.push(member);
                self.adds += 1;
            }
            Step::Promote { shard, replica } => {
                let shard = self.shard(shard);
                let voters = shard.members.iter().filter(|member| member.is_voter).count();
                let ready = shard.members.iter().filter(|m| !m.is_voter && m.is_caught_up).count();
                assert!(voters != 1 || factor == 1 || ready >= 2, "two voters would stay");
                let member = shard.members.iter_mut().find(|m| m.replica == replica).unwrap();
                assert!(!member.is_voter && member.is_caught_up);
                member.is_voter = true;
            }
            Step::Remove { shard, replica } => {
                let brokers = self.cluster.brokers.clone();
                let least = self.voters_min(&self.cluster.shards[&shard]);
                let shard = self.shard(shard);
                assert_ne!(shard.leader, Some(replica), "the leader was removed");
                let at = shard.members.iter().position(|m| m.replica == replica).unwrap();
                let removed = shard.members.remove(at);
                let voters = shard.members.iter().filter(|member| member.is_voter).count();
                let is_gone = !brokers.contains_key(&removed.broker);
                assert!(!removed.is_voter || is_gone || voters >= least, "too few are left");
                assert!(voters > 0);
            }
            Step::Transfer { shard, to } => {
                let brokers = self.cluster.brokers.clone();
                let shard = self.shard(shard);
                let member = shard.members.iter().find(|m| m.replica == to).unwrap();
                assert!(member.is_voter && member.is_caught_up);
                assert_ne!(brokers[&member.broker].leadership, Leadership::GivesUp);
                shard.leader = Some(to);
                self.transfers += 1;
            }
        }
    }

    pub(super) fn shard(&mut self, id: ShardId) -> &mut Shard {
        self.cluster.shards.get_mut(&id).unwrap()
    }

    pub(super) fn check_receiving(&self) {
        for broker in self.cluster.brokers.keys() {
            let members = self.cluster.shards.values().flat_map(|shard| &shard.members);
            let receives = |m: &&Member| m.broker == *broker && !m.is_voter && !m.is_caught_up;
            let learners = members.filter(receives).count();
            assert!(learners <= RECEIVING_MAX, "{learners} learners on {broker:?}");
        }
    }

    pub(super) fn voters(&self) -> BTreeMap<ShardId, usize> {
        let count = |shard: &Shard| shard.members.iter().filter(|m| m.is_voter).count();
        self.cluster.shards.iter().map(|(id, shard)| (*id, count(shard))).collect()
    }

    /// How many voters each shard is to have in the end.
    pub(super) fn kept(&self) -> BTreeMap<ShardId, usize> {
        let is_left = |m: &Member| self.cluster.brokers[&m.broker].standing == Standing::Draining;
        let kept = |shard: &Shard| {
            // One of two moves, and then there are three, of which no drain accepts fewer. The
            // catalog admits no such drains.
            let moves = shard.members.len() == 2 && shard.members.iter().all(is_left);
            if moves { 3 } else { self.voters_min(shard) }
        };
        self.cluster.shards.iter().map(|(id, shard)| (*id, kept(shard))).collect()
    }

    /// Executes all steps until there are none.
    pub(super) fn settle(&mut self) {
        for _ in 0..2000 {
            if !self.turn() {
                // What has just caught up may bring more.
                if !self.turn() {
                    return;
                }
            }
        }
        panic!("the steps do not end: {:?}", next_steps(&self.cluster));
    }

    pub(super) fn held(&self) -> BTreeMap<BrokerId, usize> {
        let mut held: BTreeMap<_, _> = self.cluster.brokers.keys().map(|id| (*id, 0)).collect();
        for member in self.cluster.shards.values().flat_map(|shard| &shard.members) {
            *held.entry(member.broker).or_default() += 1;
        }
        held
    }

    pub(super) fn led(&self) -> BTreeMap<BrokerId, usize> {
        let mut led: BTreeMap<_, _> = self.cluster.brokers.keys().map(|id| (*id, 0)).collect();
        for shard in self.cluster.shards.values() {
            let leader = shard.members.iter().find(|m| Some(m.replica) == shard.leader);
            let Some(leader) = leader else { continue };
            *led.entry(leader.broker).or_default() += 1;
        }
        led
    }

    pub(super) fn racks_of(&self, shard: &Shard) -> usize {
        let rack = |broker: &BrokerId| match &self.cluster.brokers[broker].rack {
            Some(rack) => rack.clone(),
            None => format!("{broker:?}"),
        };
        let racks: BTreeSet<_> = shard.members.iter().map(|m| rack(&m.broker)).collect();
        racks.len()
    }
}
