//! The cluster over the admin API: what a broker sees of it, how others join it, and how brokers
//! are drained, restarted and removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use ropewalk_shard::state::catalog::{BrokerInfo, PlacedReplica, Role, Standing};
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};

use super::Admin;
use super::refusal::AdminError;
use crate::cluster::report::{Flags, LedShard, Report, of_leader};
use crate::handle::Context;
use crate::settings::Endpoint;

pub mod join;
pub mod report;
pub(super) mod operations;
mod progress;

use report::{BrokerReport, ClusterReport, ReplicaReport, ShardReport};

/// Answers `GET /v1/cluster`: the brokers, the shards and their replicas.
pub(super) async fn report(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<ClusterReport>, AdminError> {
    let context = admin.open()?.context;
    Ok(Json(seen(&context)))
}

fn seen(context: &Context) -> ClusterReport {
    let reports = context.cluster.reports();
    let placements = context.view.placements();
    let shards = placements.iter();
    let shards: Vec<ShardReport> =
        shards.map(|(shard, placed)| of_shard(context, *shard, placed, &reports)).collect();
    let listed = context.view.brokers();
    let mut brokers: BTreeMap<BrokerId, BrokerInfo> = (*listed).clone();
    // A directory of an earlier version lists no broker.
    brokers.entry(context.cluster.own().id).or_default();
    let brokers = brokers.iter().map(|(id, info)| {
        let replicas = placements.values().flat_map(|placed| placed.values());
        BrokerReport {
            alive: context.cluster.is_alive(*id),
            just_started: flags(&reports, *id).is_just_started,
            slow_disk: flags(&reports, *id).has_slow_disk,
            leads: shards.iter().filter(|shard| shard.leader == Some(id.0)).count(),
            replicas: replicas.filter(|placed| placed.broker == *id).count(),
            ..of_broker(context, *id, info)
        }
    });
    ClusterReport {
        cluster_id: context.cluster_id.to_string(),
        asked: context.broker_id,
        brokers: brokers.collect(),
        shards,
    }
}

fn flags(reports: &[Arc<Report>], broker: BrokerId) -> Flags {
    let report = reports.iter().find(|report| report.broker == broker);
    report.map(|report| report.flags).unwrap_or_default()
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Serving => "Serving",
        Standing::Draining | Standing::DrainingToFewer => "Draining",
        Standing::Restarting { .. } => "Restarting",
        Standing::NotRestarted { .. } => "NotRestarted",
    }
}

fn of_broker(context: &Context, id: BrokerId, info: &BrokerInfo) -> BrokerReport {
    let shown = |host: &str, port: u16| Endpoint { host: host.to_owned(), port }.to_string();
    // The endpoints for clients: a broker that is alone does not register them in the catalog.
    let known = context.cluster.broker(id);
    let endpoints = known.iter().flat_map(|known| &known.endpoints).map(|(name, (host, port))| {
        (name.to_string(), shown(host, u16::try_from(*port).unwrap_or_default()))
    });
    BrokerReport {
        id: id.0,
        rack: info.rack.clone(),
        draining: info.standing.is_draining(),
        standing: standing_name(info.standing).to_owned(),
        incarnation: info.incarnation,
        peer: info.peer.as_ref().map(|peer| shown(&peer.host, peer.ports[0])),
        admin: info.admin.clone(),
        endpoints: endpoints.collect(),
        ..BrokerReport::default()
    }
}

fn of_shard(
    context: &Context,
    shard: ShardId,
    placed: &BTreeMap<ReplicaId, PlacedReplica>,
    reports: &[Arc<Report>],
) -> ShardReport {
    let leader = context.cluster.leader(shard);
    let reported = leader.and_then(|leader| of_leader(reports, shard, leader.broker, leader.term));
    let replica = |(id, placed): (&ReplicaId, &PlacedReplica)| of_replica(*id, placed, reported);
    ShardReport {
        shard: shard.0,
        leader: leader.map(|leader| leader.broker.0),
        term: leader.map(|leader| leader.term),
        bytes_per_second: reported.map(|led| led.bytes_per_second),
        replicas: placed.iter().map(replica).collect(),
    }
}

fn of_replica(id: ReplicaId, placed: &PlacedReplica, led: Option<&LedShard>) -> ReplicaReport {
    let member = led.and_then(|led| led.member(id));
    let last = led.and_then(|led| led.members.iter().map(|member| member.matched).max());
    let role = match placed.role {
        Role::Learner => "Learner",
        Role::Voter => "Voter",
        Role::Leaving => "Leaving",
    };
    ReplicaReport {
        replica: id.0,
        broker: placed.broker.0,
        role: role.to_owned(),
        votes: led.map(|_| member.is_some_and(|member| member.is_voter)),
        caught_up: member.map(|member| member.is_caught_up),
        lag: member.and_then(|member| Some(last?.saturating_sub(member.matched))),
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::state::catalog::PlacedReplica;

    use super::*;
    use crate::cluster::report::Member;

    #[test]
    fn a_replica_is_what_its_leader_reports() {
        let member = |replica, is_voter, matched| Member {
            replica: ReplicaId(replica),
            is_voter,
            is_caught_up: is_voter,
            matched,
        };
        let led = LedShard {
            shard: ShardId(3),
            term: 2,
            replica: ReplicaId(1),
            bytes_per_second: 0,
            members: vec![member(1, true, 40), member(2, false, 30)],
        };
        let placed = PlacedReplica { broker: BrokerId(2), role: Role::Voter };
        let shown = |id, led| {
            let report = of_replica(ReplicaId(id), &placed, led);
            (report.role, report.votes, report.lag)
        };
        assert_eq!(shown(2, Some(&led)), ("Voter".into(), Some(false), Some(10)));
        assert_eq!(shown(1, Some(&led)), ("Voter".into(), Some(true), Some(0)));
        // No member yet.
        assert_eq!(shown(9, Some(&led)), ("Voter".into(), Some(false), None));
        assert_eq!(shown(1, None), ("Voter".into(), None, None));
    }
}
