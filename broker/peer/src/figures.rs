//! Counts and measurements of the traffic with a peer.
//!
//! The caller names and exports them. Counts begin with the process and never decrease.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ropewalk_shard::BrokerId;

use crate::frame::Lane;
use crate::hello::Class;

/// The traffic with one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFigures {
    /// Id of the peer.
    pub broker: BrokerId,
    /// The newest incarnation that it has connected with.
    pub incarnation: Option<u64>,
    /// The feature level in its last hello.
    pub features: Option<u32>,
    /// Number of hellos of this peer that this broker refused.
    pub hellos_refused: u64,
    /// Number of hellos of this broker that this peer refused.
    pub hellos_rejected: u64,
    /// The connections, by [`Class::index`].
    pub links: [LinkFigures; 2],
    /// The lanes, by [`Lane::index`].
    pub lanes: [LaneFigures; 3],
}

impl PeerFigures {
    /// The connection of a class.
    #[must_use]
    pub fn link(&self, class: Class) -> &LinkFigures {
        &self.links[class.index()]
    }

    /// The traffic of a lane.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> &LaneFigures {
        &self.lanes[lane.index()]
    }
}

/// The connections of one class to a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFigures {
    /// Whether there is a connection now.
    pub is_connected: bool,
    /// Number of connections so far, the present one included. All but the first are reconnects.
    pub connections: u64,
    /// Number of times that this broker dialled the peer and got no connection.
    pub failed_attempts: u64,
    /// Largest UDP payload that the path takes, bytes. 0 without a connection.
    pub current_mtu: u16,
    /// Round-trip time. Zero without a connection.
    pub rtt: Duration,
    /// Number of packets lost, on all connections.
    pub lost_packets: u64,
    /// Number of times that the path stopped taking packets of the size that was found, on all
    /// connections.
    pub black_holes: u64,
    /// Bytes of all UDP payloads sent, on all connections.
    pub udp_sent_bytes: u64,
    /// Bytes of all UDP payloads received, on all connections.
    pub udp_received_bytes: u64,
}

/// The traffic of one lane with a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneFigures {
    /// Bytes of the messages that wait to be sent; in the bulk lane also of those under way, with
    /// the space for their answers.
    pub queued_bytes: usize,
    /// Number of frames handed to the connection.
    pub sent_frames: u64,
    /// Bytes of these frames with their lengths.
    pub sent_bytes: u64,
    /// Number of frames received.
    pub received_frames: u64,
    /// Bytes of these frames with their lengths.
    pub received_bytes: u64,
    /// Number of messages that the queue did not take because it was full.
    pub not_taken: u64,
    /// Number of received messages that were dropped because the receiver did not take them in
    /// time. Only the append lane drops messages.
    pub dropped: u64,
}

/// The counts of one lane.
#[derive(Debug, Default)]
pub(crate) struct LaneCounts {
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    not_taken: AtomicU64,
    dropped: AtomicU64,
}

impl LaneCounts {
    pub(crate) fn sent(&self, frames: u64, bytes: usize) {
        self.sent_frames.fetch_add(frames, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_frames.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn not_taken(&self) {
        self.not_taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, queued_bytes: usize) -> LaneFigures {
        LaneFigures {
            queued_bytes,
            sent_frames: self.sent_frames.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_frames: self.received_frames.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            not_taken: self.not_taken.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

impl LinkFigures {
    /// Adds the totals of a connection, present or past.
    pub(crate) fn add(&mut self, stats: &quinn::ConnectionStats) {
        self.lost_packets += stats.path.lost_packets;
        self.black_holes += stats.path.black_holes_detected;
        self.udp_sent_bytes += stats.udp_tx.bytes;
        self.udp_received_bytes += stats.udp_rx.bytes;
    }
}
