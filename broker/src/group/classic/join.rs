//! `JoinGroup`: new members, members that rejoin, and static members that replace an older process.

use super::member::{Member, Waiting, protocols_bytes};
use super::{ClassicGroup, Join, JoinResult, Output, Phase, Reply, Stage, Token};
use crate::group::{Refusal, SizeLimit, subscription};
use crate::limits;

impl Join {
    /// Size of what the group keeps of this member, bytes. A new member's id is made from its name.
    pub(crate) fn metadata_bytes(&self) -> usize {
        const UNIQUE_BYTES: usize = 37;
        let instance_bytes = self.instance_id.as_ref().map_or(0, String::len);
        let id_bytes = match self.member_id.len() {
            0 => instance_bytes.max(self.client_id.len()) + UNIQUE_BYTES,
            known => known,
        };
        id_bytes
            + instance_bytes
            + self.client_id.len()
            + self.client_host.len()
            + protocols_bytes(&self.protocols)
    }

    /// Checks the size limits of one member.
    fn check_size(&self) -> Result<(), Refusal> {
        let names = [Some(&self.client_id), self.instance_id.as_ref(), Some(&self.protocol_type)];
        let longest = names.into_iter().flatten().map(String::len).max().unwrap_or(0);
        SizeLimit::Name.check(longest, limits::MEMBER_NAME_BYTES_MAX)?;
        SizeLimit::Protocols.check(self.protocols.len(), limits::MEMBER_PROTOCOLS_MAX)?;
        SizeLimit::Member.check(self.metadata_bytes(), limits::MEMBER_METADATA_BYTES_MAX)
    }
}

impl ClassicGroup {
    /// A client joins the next generation. The reply may be part of this call's output or of a
    /// later one's.
    pub(crate) fn join(&mut self, join: Join, token: Token, now_ms: i64) -> Output {
        let mut member_id = join.member_id.clone();
        let result = match self.check_join(&join) {
            Ok(()) if join.member_id.is_empty() => {
                self.join_unknown(join, token, now_ms);
                Ok(())
            }
            Ok(()) => self.join_known(join, token, now_ms),
            Err(refusal) => {
                if matches!(refusal, Refusal::GroupFull { .. })
                    && self.remove(&std::mem::take(&mut member_id))
                {
                    self.after_removal(now_ms);
                }
                Err(refusal)
            }
        };
        if let Err(refusal) = result {
            self.output.replies.push((token, Reply::NotJoined { member_id, refusal }));
        }
        self.take()
    }

    fn check_join(&self, join: &Join) -> Result<(), Refusal> {
        if let Phase::Dead(refusal) = self.phase {
            return Err(refusal);
        }
        let (min_ms, max_ms) = (self.rules.session_ms_min, self.rules.session_ms_max);
        let asked_ms = join.session_timeout_ms;
        if !(min_ms..=max_ms).contains(&asked_ms) {
            return Err(Refusal::InvalidSessionTimeout { asked_ms, min_ms, max_ms });
        }
        join.check_size()?;
        let is_given_an_id =
            join.needs_known_id && join.member_id.is_empty() && join.instance_id.is_none();
        if is_given_an_id && self.pending.is_full() {
            return Err(Refusal::NotAvailable);
        }
        if !self.has_room_for(join) {
            return Err(Refusal::GroupFull { members_max: self.rules.members_max });
        }
        let size_bytes = self.metadata_bytes() + self.growth_bytes(join);
        SizeLimit::Group.check(size_bytes, limits::GROUP_METADATA_BYTES_MAX)?;
        if !self.understands(join) {
            return Err(Refusal::InconsistentProtocol);
        }
        Ok(())
    }

    /// Growth of the group's metadata if this client joined, bytes.
    pub(crate) fn growth_bytes(&self, join: &Join) -> usize {
        join.metadata_bytes().saturating_sub(self.members.bytes_of(self.place_of(join)))
    }

    /// The id of the current member that this client is or replaces.
    fn place_of<'a>(&'a self, join: &'a Join) -> &'a str {
        let held = join.instance_id.as_ref().and_then(|i| self.members.holder(i));
        held.filter(|_| join.member_id.is_empty()).unwrap_or(&join.member_id)
    }

    /// Whether the group may admit this client. During a join the members that already rejoined
    /// count, not all previous members. If the limit was lowered, the last members to rejoin are
    /// the ones that are removed.
    fn has_room_for(&self, join: &Join) -> bool {
        let known = self.members.get(self.place_of(join));
        match self.phase {
            Phase::Empty { .. } | Phase::Dead(_) => true,
            Phase::Preparing { .. } => {
                known.is_some_and(Member::is_joining)
                    || self.members.joining() < self.rules.members_max
            }
            Phase::Completing { .. } | Phase::Stable { .. } => {
                known.is_some() || self.members.len() < self.rules.members_max
            }
        }
    }

    /// Whether some protocol is supported by this client and all members.
    fn understands(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        self.members.is_empty()
            || (self.protocol_type.as_ref() == Some(&join.protocol_type)
                && join.protocols.iter().any(|(name, _)| self.members.all_support(name)))
    }

    fn join_unknown(&mut self, join: Join, token: Token, now_ms: i64) {
        let id = join.fresh_id();
        let held = join.instance_id.as_ref().and_then(|i| self.members.holder(i));
        if let Some(held) = held.map(str::to_owned) {
            let join = Join { member_id: id, ..join };
            self.take_over(&held, join, token, now_ms);
        } else if join.needs_known_id && join.instance_id.is_none() {
            let until_ms = now_ms.saturating_add(i64::from(join.session_timeout_ms));
            self.pending.insert(id.clone(), until_ms);
            self.wake_by(until_ms);
            let reply = Reply::NotJoined { member_id: id, refusal: Refusal::MemberIdRequired };
            self.output.replies.push((token, reply));
        } else {
            self.add(id, join, token, now_ms);
        }
    }

    fn join_known(&mut self, join: Join, token: Token, now_ms: i64) -> Result<(), Refusal> {
        let id = join.member_id.clone();
        if self.pending.remove(&id) {
            self.add(id, join, token, now_ms);
            return Ok(());
        }
        self.members.check(&id, join.instance_id.as_deref())?;
        let same = self.members.get(&id).is_some_and(|m| m.protocols == join.protocols);
        match self.phase {
            Phase::Preparing { .. } => self.join_again(&id, join, token, now_ms),
            // The client did not receive the response. The number is not durable yet, so the
            // request waits again.
            Phase::Completing { stage: Stage::Announcing { .. }, .. } if same => {
                self.wait(&id, Waiting::Join(token));
            }
            Phase::Completing { .. } if same => self.reply_joined(&id, token, now_ms),
            // A leader rejoins to make a new assignment: only the leader monitors the topics, and
            // they may have changed.
            Phase::Stable { .. } if same && self.leader.as_ref() != Some(&id) => {
                self.reply_joined(&id, token, now_ms);
            }
            Phase::Completing { .. } | Phase::Stable { .. } => {
                self.join_again(&id, join, token, now_ms);
            }
            Phase::Empty { .. } => return Err(Refusal::UnknownMember),
            Phase::Dead(refusal) => return Err(refusal),
        }
        Ok(())
    }

    fn add(&mut self, id: String, join: Join, token: Token, now_ms: i64) {
        if let Phase::Preparing { initial_delay: Some(initial_delay), .. } = &mut self.phase {
            initial_delay.extend = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let mut member = Member::new(join, now_ms);
        member.waiting = Some(Waiting::Join(token));
        self.wake_by(member.session_until_ms);
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        self.rebalance(now_ms);
    }

    fn join_again(&mut self, id: &str, join: Join, token: Token, now_ms: i64) {
        self.wait(id, Waiting::Join(token));
        self.members.refresh(id, join);
        self.rebalance(now_ms);
    }

    /// Replaces a static member whose process restarted: it gets a new member id, and requests with
    /// the old one are fenced.
    fn take_over(&mut self, held: &str, join: Join, token: Token, now_ms: i64) {
        let id = join.member_id.clone();
        let Some(mut member) = self.members.remove(held) else { return };
        if let Some(waiting) = member.waiting.take() {
            let fenced = waiting.refused(held.to_owned(), Refusal::FencedInstance);
            self.output.replies.push(fenced);
        }
        let previous_leader = self.leader.clone().unwrap_or_default();
        if self.leader.as_deref() == Some(held) {
            self.leader = Some(id.clone());
        }
        let before = member.metadata(self.protocol.as_deref());
        let can_skip_assignment = join.can_skip_assignment;
        member.refresh(join);
        let after = member.metadata(self.protocol.as_deref());
        self.members.insert(id.clone(), member);
        self.extend_session(&id, now_ms);

        let is_unchanged = matches!(self.phase, Phase::Stable { .. })
            && self.members.elect_protocol(self.leader.as_deref()) == self.protocol
            && subscription::same_topics(self.protocol_type.as_deref(), &before, &after);
        if is_unchanged {
            let leads = self.leader.as_ref() == Some(&id);
            let leader = if can_skip_assignment { self.leader.clone() } else { None };
            let waiting = Waiting::Takeover {
                token,
                sequence: self.persist(),
                leader: leader.unwrap_or(previous_leader),
                skip_assignment: leads && can_skip_assignment,
            };
            self.wait(&id, waiting);
        } else {
            self.wait(&id, Waiting::Join(token));
            self.rebalance(now_ms);
        }
    }

    /// Puts a member into a new wait, and ends its previous one.
    pub(super) fn wait(&mut self, id: &str, waiting: Waiting) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(before) = member.waiting.replace(waiting) {
            let over = before.refused(id.to_owned(), Refusal::RebalanceInProgress);
            self.output.replies.push(over);
        }
    }

    /// Answers a join of a member of the current generation, which remains valid.
    fn reply_joined(&mut self, id: &str, token: Token, now_ms: i64) {
        self.extend_session(id, now_ms);
        let joined = self.joined(id);
        self.output.replies.push((token, Reply::Joined(joined)));
    }

    /// A member's place in the current generation.
    pub(super) fn joined(&self, id: &str) -> JoinResult {
        let leads = self.leader.as_deref() == Some(id);
        let protocol = self.protocol.as_deref();
        JoinResult {
            member_id: id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            members: if leads { self.members.candidates(protocol) } else { Vec::new() },
            skip_assignment: false,
        }
    }
}
