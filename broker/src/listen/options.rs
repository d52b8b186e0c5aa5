//! The bounds of connections, as the settings say.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The bounds that all listeners of a broker share.
#[derive(Debug, Clone)]
pub struct Options {
    /// `socket.request.max.bytes`.
    pub frame_bytes_max: usize,
    /// `connections.max.idle.ms`.
    pub idle_max: Duration,
    /// A frame must be whole this long after its first byte, plus the time for its size.
    pub frame_time_max: Duration,
    /// An answer must be taken within this, plus the time for its size.
    pub write_time_max: Duration,
    /// How many connections there may be.
    pub limits: Arc<dyn ConnectionLimits>,
}

/// How many connections there may be; asked for each new one, since both can change at run time.
pub trait ConnectionLimits: Send + Sync + fmt::Debug {
    /// `max.connections`, over all listeners.
    fn connections_max(&self) -> usize;
    /// `max.connections.per.ip`.
    fn connections_per_ip_max(&self) -> usize;
}
