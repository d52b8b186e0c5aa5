//! The metrics of the connections to other brokers, read on demand.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use ropewalk_peer::{Class, Lane, PeerFigures};

use super::Cluster;

/// The metrics of every other broker. There are none until [`Self::set`], and none of a broker that
/// is alone. Clones share the cluster, and do not keep it.
#[derive(Debug, Clone, Default)]
pub struct PeerMetrics(Arc<RwLock<Weak<Cluster>>>);

impl PeerMetrics {
    /// Sets the cluster whose connections are measured.
    pub fn set(&self, cluster: &Arc<Cluster>) {
        *self.0.write() = Arc::downgrade(cluster);
    }
}

impl Collector for PeerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(cluster) = self.0.read().upgrade() else { return Ok(()) };
        let Some(remote) = &cluster.remote else { return Ok(()) };
        let all = remote.peers.figures();
        of_connections(&mut encoder, &all)?;
        of_lanes(&mut encoder, &all)?;
        of_hellos(&mut encoder, &all, remote.peers.unknown_refused())?;
        let help = "Messages of other brokers that were not taken, by reason";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("peer_messages_refused", help, None, kind)?;
        for (reason, count) in remote.link.refused() {
            put(&mut metric, kind, &[("reason", reason.to_owned())], count as f64)?;
        }
        Ok(())
    }
}

/// Name, help and type of a metric, and its value of one measured part.
type Row<T> = (&'static str, &'static str, MetricType, fn(&T) -> f64);

type Labels = Vec<(&'static str, String)>;

/// Encodes one metric for each row, with the value of each part.
fn encode_rows<T>(
    encoder: &mut DescriptorEncoder<'_>,
    rows: &[Row<T>],
    parts: &[(Labels, &T)],
) -> fmt::Result {
    for (name, help, kind, value) in rows {
        let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
        for (labels, part) in parts {
            put(&mut metric, *kind, labels, value(part))?;
        }
    }
    Ok(())
}

fn broker_of(peer: &PeerFigures) -> String {
    peer.broker.0.to_string()
}

fn of_connections(encoder: &mut DescriptorEncoder<'_>, all: &[PeerFigures]) -> fmt::Result {
    use MetricType::{Counter, Gauge};
    use ropewalk_peer::figures::LinkFigures;
    const ROWS: &[Row<LinkFigures>] = &[
        ("peer_connected", "Connection to another broker, 1 or 0", Gauge, |link| {
            f64::from(u8::from(link.is_connected))
        }),
        ("peer_connections", "Connections made to another broker", Counter, |link| {
            link.connections as f64
        }),
        (
            "peer_failed_attempts",
            "Attempts to connect to another broker that failed",
            Counter,
            |link| link.failed_attempts as f64,
        ),
        (
            "peer_mtu_bytes",
            "Largest UDP payload that the path to another broker takes, bytes",
            Gauge,
            |link| f64::from(link.current_mtu),
        ),
        ("peer_rtt_seconds", "Round-trip time to another broker, seconds", Gauge, |link| {
            link.rtt.as_secs_f64()
        }),
        (
            "peer_lost_packets",
            "Packets to another broker that were lost and sent again",
            Counter,
            |link| link.lost_packets as f64,
        ),
        (
            "peer_black_holes",
            "Times that the path to another broker stopped taking large packets",
            Counter,
            |link| link.black_holes as f64,
        ),
        ("peer_udp_sent_bytes", "Bytes of UDP payloads sent to another broker", Counter, |link| {
            link.udp_sent_bytes as f64
        }),
        (
            "peer_udp_received_bytes",
            "Bytes of UDP payloads received from another broker",
            Counter,
            |link| link.udp_received_bytes as f64,
        ),
    ];
    let links = all.iter().flat_map(|peer| {
        let labels =
            |class| vec![("broker", broker_of(peer)), ("class", name_of(class).to_owned())];
        Class::ALL.map(|class| (labels(class), peer.link(class)))
    });
    encode_rows(encoder, ROWS, &links.collect::<Vec<_>>())
}

fn of_lanes(encoder: &mut DescriptorEncoder<'_>, all: &[PeerFigures]) -> fmt::Result {
    use MetricType::{Counter, Gauge};
    use ropewalk_peer::figures::LaneFigures;
    const ROWS: &[Row<LaneFigures>] = &[
        (
            "peer_queued_bytes",
            "Bytes of the messages that wait to be sent to another broker",
            Gauge,
            |lane| lane.queued_bytes as f64,
        ),
        ("peer_sent_frames", "Frames sent to another broker", Counter, |lane| {
            lane.sent_frames as f64
        }),
        ("peer_sent_bytes", "Bytes of frames sent to another broker", Counter, |lane| {
            lane.sent_bytes as f64
        }),
        ("peer_received_frames", "Frames received from another broker", Counter, |lane| {
            lane.received_frames as f64
        }),
        ("peer_received_bytes", "Bytes of frames received from another broker", Counter, |lane| {
            lane.received_bytes as f64
        }),
        (
            "peer_messages_not_taken",
            "Messages to another broker that a full queue did not take",
            Counter,
            |lane| lane.not_taken as f64,
        ),
        (
            "peer_messages_dropped",
            "Messages of another broker that were dropped because a shard did not take them in time",
            Counter,
            |lane| lane.dropped as f64,
        ),
    ];
    let lanes = all.iter().flat_map(|peer| {
        let labels =
            |lane| vec![("broker", broker_of(peer)), ("lane", name_of_lane(lane).to_owned())];
        Lane::ALL.map(|lane| (labels(lane), peer.lane(lane)))
    });
    encode_rows(encoder, ROWS, &lanes.collect::<Vec<_>>())
}

fn of_hellos(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[PeerFigures],
    unknown_refused: u64,
) -> fmt::Result {
    const ROWS: &[Row<PeerFigures>] = &[
        (
            "peer_hellos_refused",
            "Connections of another broker that this one refused",
            MetricType::Counter,
            |peer| peer.hellos_refused as f64,
        ),
        (
            "peer_hellos_rejected",
            "Connections of this broker that another one refused",
            MetricType::Counter,
            |peer| peer.hellos_rejected as f64,
        ),
    ];
    let peers = all.iter().map(|peer| (vec![("broker", broker_of(peer))], peer));
    encode_rows(encoder, ROWS, &peers.collect::<Vec<_>>())?;
    let help = "Connections that were refused and came from no known broker";
    let kind = MetricType::Counter;
    let metric = encoder.encode_descriptor("peer_unknown_refused", help, None, kind)?;
    ConstCounter::new(unknown_refused).encode(metric)
}

fn name_of(class: Class) -> &'static str {
    match class {
        Class::Raft => "raft",
        Class::Bulk => "bulk",
    }
}

fn name_of_lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Append => "append",
        Lane::Bulk => "bulk",
    }
}

fn put(
    metric: &mut MetricEncoder<'_>,
    kind: MetricType,
    labels: &[(&'static str, String)],
    value: f64,
) -> fmt::Result {
    let metric = metric.encode_family(&labels)?;
    if matches!(kind, MetricType::Counter) {
        ConstCounter::new(value).encode(metric)
    } else {
        ConstGauge::new(value).encode(metric)
    }
}
