//! The bounds of connections, taken from the settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The bounds that all listeners of a broker share.
#[derive(Debug, Clone)]
pub struct Options {
    /// The value of `socket.request.max.bytes`.
    pub frame_bytes_max: usize,
    /// The value of `connections.max.idle.ms`.
    pub idle_max: Duration,
    /// Time from the first byte of a frame until it must be complete, plus the time for its size.
    pub frame_time_max: Duration,
    /// Time within which a client must receive a response, plus the time for its size.
    pub write_time_max: Duration,
    /// The limits of the number of connections.
    pub limits: Arc<dyn ConnectionLimits>,
}

/// The limits of the number of connections; read for each new one, because both can change at run
/// time.
pub trait ConnectionLimits: Send + Sync + fmt::Debug {
    /// `max.connections`, over all listeners.
    fn connections_max(&self) -> usize;
    /// The value of `max.connections.per.ip`.
    fn connections_per_ip_max(&self) -> usize;
}
