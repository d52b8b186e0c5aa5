//! Our types for entries, hard states and messages from and to those of the `raft` crate.
//!
//! Only the conversions know the crate's protobuf messages; no byte of theirs is ever written or
//! sent.

use bytes::Bytes;
use raft::eraftpb::{self, EntryType, MessageType};

use super::{Entry, EntryId, EntryKind, HardState};
use crate::message::{Body, Message};

/// The context of a vote request in a transfer of leadership: `raft::CAMPAIGN_TRANSFER`, which the
/// crate does not export.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// The data of an entry that the `raft` crate is given in place of the payload: it must only see
/// whether there is one.
const MARK: &[u8] = b"*";

/// An entry for the `raft` crate, with a mark in place of the payload.
pub(super) fn outline(id: EntryId, kind: EntryKind, is_empty: bool) -> eraftpb::Entry {
    let mut out = eraftpb::Entry { index: id.index, term: id.term, ..Default::default() };
    out.set_entry_type(entry_type(kind));
    if !is_empty {
        out.set_data(Bytes::from_static(MARK));
    }
    out
}

pub(super) fn entry_kind(entry: &eraftpb::Entry) -> EntryKind {
    match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Members,
    }
}

pub(super) fn is_change_of_members(entry: &eraftpb::Entry) -> bool {
    entry_kind(entry) == EntryKind::Members
}

fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::Members => EntryType::EntryConfChangeV2,
    }
}

impl From<&eraftpb::HardState> for HardState {
    fn from(state: &eraftpb::HardState) -> Self {
        Self { term: state.term, vote: state.vote, commit: state.commit }
    }
}

/// A message for the engine of the receiver, without the payloads of its entries; `None` for one
/// that is not of Raft.
pub(super) fn to_raft(message: Message) -> Option<eraftpb::Message> {
    let Message { from, to, term, body } = message;
    let mut out = eraftpb::Message { from, to, term, ..eraftpb::Message::default() };
    match body {
        Body::Append { previous, commit, entries } => {
            out.set_msg_type(MessageType::MsgAppend);
            (out.index, out.log_term) = (previous.index, previous.term);
            out.commit = commit;
            let outlines = entries.iter().map(|e| outline(e.id(), e.kind, e.data.is_empty()));
            let entries: Vec<eraftpb::Entry> = outlines.collect();
            out.set_entries(entries.into());
        }
        Body::Appended { index, commit } => {
            out.set_msg_type(MessageType::MsgAppendResponse);
            (out.index, out.commit) = (index, commit);
        }
        Body::AppendRejected { index, hint, commit } => {
            out.set_msg_type(MessageType::MsgAppendResponse);
            out.reject = true;
            (out.index, out.commit) = (index, commit);
            (out.reject_hint, out.log_term) = (hint.index, hint.term);
        }
        Body::Heartbeat { commit, context } => {
            out.set_msg_type(MessageType::MsgHeartbeat);
            out.commit = commit;
            out.set_context(context);
        }
        Body::HeartbeatResponse { commit, context, is_full: _ } => {
            out.set_msg_type(MessageType::MsgHeartbeatResponse);
            out.commit = commit;
            out.set_context(context);
        }
        Body::RequestVote { last, committed, is_pre_vote, is_transfer } => {
            out.set_msg_type(if is_pre_vote {
                MessageType::MsgRequestPreVote
            } else {
                MessageType::MsgRequestVote
            });
            (out.index, out.log_term) = (last.index, last.term);
            (out.commit, out.commit_term) = (committed.index, committed.term);
            if is_transfer {
                out.set_context(Bytes::from_static(TRANSFER));
            }
        }
        Body::Vote { granted, is_pre_vote, committed } => {
            out.set_msg_type(if is_pre_vote {
                MessageType::MsgRequestPreVoteResponse
            } else {
                MessageType::MsgRequestVoteResponse
            });
            out.reject = !granted;
            (out.commit, out.commit_term) = (committed.index, committed.term);
        }
        Body::TimeoutNow => out.set_msg_type(MessageType::MsgTimeoutNow),
        Body::StateDigest { .. } => return None,
    }
    Some(out)
}

/// A message of the engine; `None` for the kinds that replicas do not exchange: proposals and reads
/// that the engine would forward, and snapshots, which are transferred outside of Raft. `None` also
/// if `complete` finds no payload of an entry: it was replaced, or Raft sends it again.
pub(super) fn from_raft(
    mut message: eraftpb::Message,
    complete: impl Fn(&eraftpb::Entry) -> Option<Entry>,
) -> Option<Message> {
    let committed = EntryId { index: message.commit, term: message.commit_term };
    let commit = message.commit;
    let body = match message.get_msg_type() {
        MessageType::MsgAppend => Body::Append {
            previous: EntryId { index: message.index, term: message.log_term },
            commit,
            entries: message.entries.iter().map(complete).collect::<Option<_>>()?,
        },
        MessageType::MsgAppendResponse if message.reject => Body::AppendRejected {
            index: message.index,
            hint: EntryId { index: message.reject_hint, term: message.log_term },
            commit,
        },
        MessageType::MsgAppendResponse => Body::Appended { index: message.index, commit },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit, context: message.take_context() },
        MessageType::MsgHeartbeatResponse => {
            let context = message.take_context();
            Body::HeartbeatResponse { commit, context, is_full: false }
        }
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => {
            Body::RequestVote {
                last: EntryId { index: message.index, term: message.log_term },
                committed,
                is_pre_vote: kind == MessageType::MsgRequestPreVote,
                is_transfer: message.context == TRANSFER,
            }
        }
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => {
            Body::Vote {
                granted: !message.reject,
                is_pre_vote: kind == MessageType::MsgRequestPreVoteResponse,
                committed,
            }
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgSnapshot
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return None,
    };
    Some(Message { from: message.from, to: message.to, term: message.term, body })
}
