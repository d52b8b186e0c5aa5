//! The members of a consumer group, which commit offsets of the partitions that they are assigned.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::heartbeat_request::HeartbeatRequest;
use ropewalk_codec::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ropewalk_codec::join_group_response::JoinGroupResponse;
use ropewalk_codec::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ropewalk_codec::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use ropewalk_codec::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use tokio::time::Instant;

use crate::client::{Client, RETRIABLE};
use crate::oracle::Partition;
use crate::work::TOPICS;
use crate::world::World;

const GROUP: &str = "workers";
const SESSION_MS: i32 = 12_000;

/// A member that was heard in this time cannot have lost its place by itself.
const HEARD: Duration = Duration::from_secs(6);

const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE: i16 = 27;
const ILLEGAL_GENERATION: i16 = 22;
const MEMBER_ID_REQUIRED: i16 = 79;

struct Member {
    client: Client,
    coordinator: Option<i32>,
    id: String,
    generation: i32,
    /// The last heartbeat that was answered without an error.
    heard: Option<Instant>,
}

/// Takes part in the group until the world is calm.
pub(crate) async fn member(world: Arc<World>, number: u64) {
    let client = Client::new(format!("member {number}"), &world);
    let mut member =
        Member { client, coordinator: None, id: String::new(), generation: 0, heard: None };
    while !world.is_calm.load(Ordering::Relaxed) {
        let Some(assigned) = member.join().await else { continue };
        member.client.event(format!("generation {} with {assigned:?}", member.generation));
        member.work(&assigned).await;
        member.heard = None;
        if world.dice(|dice| dice.one_in(12)) {
            // The process of the member ends, and another one begins.
            member.client.event("ends");
            member.id.clear();
            world.pause(1000, 15_000).await;
        }
    }
}

impl Member {
    async fn coordinator(&mut self) -> i32 {
        loop {
            if let Some(coordinator) = self.coordinator {
                return coordinator;
            }
            let any = self.client.any().await;
            let request = FindCoordinatorRequest {
                key_type: 0,
                coordinator_keys: vec![GROUP.into()],
                ..Default::default()
            };
            if let Ok(answer) = self.client.ask(any, 4, &request).await
                && let Some(found) = answer.coordinators.first()
                && found.error_code == 0
            {
                self.coordinator = Some(found.node_id);
            } else {
                self.client.world.pause(100, 300).await;
            }
        }
    }

    /// What follows from an error code. Returns whether the member has to join again.
    async fn refused(&mut self, what: &str, code: i16) -> bool {
        match code {
            UNKNOWN_MEMBER => {
                if let Some(heard) = self.heard.filter(|heard| heard.elapsed() < HEARD) {
                    let wrong = format!(
                        "{} has lost its place at {what}, {:?} after a heartbeat",
                        self.client.name,
                        heard.elapsed()
                    );
                    self.client.world.oracle.violated(wrong);
                }
                self.id.clear();
                true
            }
            REBALANCE | ILLEGAL_GENERATION => true,
            MEMBER_ID_REQUIRED => true,
            code if RETRIABLE.contains(&code) => {
                self.coordinator = None;
                self.client.world.pause(50, 300).await;
                false
            }
            code => {
                let wrong = format!("{}: error {code} at {what}", self.client.name);
                self.client.world.oracle.violated(wrong);
                true
            }
        }
    }

    /// Joins once. Returns the partitions that the member is assigned.
    async fn join(&mut self) -> Option<Vec<i32>> {
        let coordinator = self.coordinator().await;
        let request = JoinGroupRequest {
            group_id: GROUP.into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: 10_000,
            member_id: self.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
            }],
            ..Default::default()
        };
        let Ok(joined) = self.client.ask(coordinator, 7, &request).await else {
            self.coordinator = None;
            return None;
        };
        if joined.error_code == MEMBER_ID_REQUIRED {
            self.id = joined.member_id.to_string();
            return None;
        }
        if joined.error_code != 0 {
            self.refused("join", joined.error_code).await;
            return None;
        }
        self.id = joined.member_id.to_string();
        self.generation = joined.generation_id;
        self.client.world.oracle.count(|counts| counts.generations += 1);
        let request = SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments(&joined),
            ..Default::default()
        };
        let Ok(synced) = self.client.ask(coordinator, 5, &request).await else {
            self.coordinator = None;
            return None;
        };
        if synced.error_code != 0 {
            self.refused("sync", synced.error_code).await;
            return None;
        }
        Some(synced.assignment.iter().map(|index| i32::from(*index)).collect())
    }

    /// Commits offsets and sends heartbeats until the member has to join again.
    async fn work(&mut self, assigned: &[i32]) {
        let topic = TOPICS[0].0;
        let partitions: Vec<Partition> =
            assigned.iter().map(|index| (topic.to_owned(), *index)).collect();
        let Some(mut positions) = self.positions(&partitions).await else { return };
        let beats = self.client.world.between(20, 120);
        for _ in 0..beats {
            if self.client.world.is_calm.load(Ordering::Relaxed) {
                return;
            }
            self.client.world.pause(100, 500).await;
            if self.heartbeat().await || self.commit(&partitions, &mut positions).await {
                return;
            }
        }
    }

    /// Returns whether the member has to join again.
    async fn heartbeat(&mut self) -> bool {
        let coordinator = self.coordinator().await;
        let request = HeartbeatRequest {
            group_id: GROUP.into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            ..Default::default()
        };
        match self.client.ask(coordinator, 4, &request).await.map(|answer| answer.error_code) {
            Ok(0) => {
                self.heard = Some(Instant::now());
                false
            }
            Ok(code) => self.refused("heartbeat", code).await,
            Err(_) => {
                self.coordinator = None;
                false
            }
        }
    }

    /// The committed offsets. They are never before what was acknowledged.
    async fn positions(&mut self, partitions: &[Partition]) -> Option<Vec<i64>> {
        let world = Arc::clone(&self.client.world);
        for _ in 0..100 {
            let coordinator = self.coordinator().await;
            let last: Vec<_> =
                partitions.iter().map(|partition| world.oracle.last_committed(partition)).collect();
            let request = OffsetFetchRequest {
                group_id: GROUP.into(),
                topics: Some(vec![OffsetFetchRequestTopic {
                    name: TOPICS[0].0.into(),
                    partition_indexes: partitions.iter().map(|(_, index)| *index).collect(),
                }]),
                require_stable: true,
                ..Default::default()
            };
            let Ok(answer) = self.client.ask(coordinator, 7, &request).await else {
                self.coordinator = None;
                continue;
            };
            if answer.error_code != 0 {
                if self.refused("offset fetch", answer.error_code).await {
                    return None;
                }
                continue;
            }
            let found =
                answer.topics.first().map(|topic| &topic.partitions[..]).unwrap_or_default();
            if let Some(code) = found.iter().map(|part| part.error_code).find(|code| *code != 0) {
                if self.refused("offset fetch", code).await {
                    return None;
                }
                continue;
            }
            let mut positions = Vec::new();
            for (partition, last) in partitions.iter().zip(last) {
                let found = found.iter().find(|part| part.partition_index == partition.1);
                let found = found.map_or(-1, |part| part.committed_offset);
                if last.is_some_and(|last| found < last) {
                    let wrong = format!(
                        "{}: {partition:?} is committed at {found}, and {last:?} was acknowledged",
                        self.client.name
                    );
                    world.oracle.violated(wrong);
                }
                positions.push(found.max(0));
            }
            return Some(positions);
        }
        None
    }

    /// Commits higher offsets. Returns whether the member has to join again.
    async fn commit(&mut self, partitions: &[Partition], positions: &mut [i64]) -> bool {
        if partitions.is_empty() {
            return false;
        }
        let world = Arc::clone(&self.client.world);
        for position in positions.iter_mut() {
            *position += i64::try_from(world.between(1, 5)).expect("small");
        }
        let coordinator = self.coordinator().await;
        let of = |((_, index), position): (&Partition, &i64)| OffsetCommitRequestPartition {
            partition_index: *index,
            committed_offset: *position,
            committed_leader_epoch: -1,
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.id.as_str().into(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPICS[0].0.into(),
                partitions: partitions.iter().zip(&*positions).map(of).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let Ok(answer) = self.client.ask(coordinator, 8, &request).await else {
            self.coordinator = None;
            return false;
        };
        for part in &answer.topics[0].partitions {
            if part.error_code != 0 {
                return self.refused("commit", part.error_code).await;
            }
        }
        for (partition, position) in partitions.iter().zip(positions) {
            world.oracle.committed(partition, *position);
        }
        false
    }
}

/// The partitions of each member in turn, if this member leads.
fn assignments(joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
    let mut ids: Vec<_> = joined.members.iter().map(|member| member.member_id.clone()).collect();
    ids.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let count = ids.len();
    let of = |(at, member_id)| {
        let all = 0..usize::try_from(TOPICS[0].1).expect("few");
        let own = all.filter(|index| index % count == at);
        let own: Vec<u8> = own.map(|index| u8::try_from(index).expect("few")).collect();
        SyncGroupRequestAssignment { member_id, assignment: own.into() }
    };
    ids.into_iter().enumerate().map(of).collect()
}
