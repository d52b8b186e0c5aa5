//! KEDA's rule for Kafka: the lag formula behind a HorizontalPodAutoscaler with its defaults.
//!
//! Not KEDA itself but its rule, as its scaler and the autoscaler's controller apply it. Every 15 s
//! the autoscaler wants ⌈lag / threshold⌉, unless that is within 10 % of the present count; up by
//! at most the double or four more, down to the most of the last 300 s. KEDA itself scales from
//! zero and to zero, every 30 s, to zero 300 s after the last message.

use super::world::World;
use std::collections::VecDeque;

const SYNC_SECONDS: u64 = 15;
const POLL_SECONDS: u64 = 30;
const COOLDOWN_SECONDS: u64 = 300;
const WINDOW_SECONDS: u64 = 300;
const TOLERANCE: f64 = 0.1;

pub(super) struct Keda {
    threshold: f64,
    replicas_min: u32,
    last_active: Option<u64>,
    recommended: VecDeque<(u64, u32)>,
}

impl Keda {
    pub(super) fn new(threshold: u32, replicas_min: u32) -> Self {
        let recommended = VecDeque::new();
        Self { threshold: f64::from(threshold), replicas_min, last_active: None, recommended }
    }

    /// Once a second.
    pub(super) fn step(&mut self, second: u64, world: &mut World) {
        let most = world.nature.partitions as u32;
        let lag = (world.lag() as f64).min(self.threshold * f64::from(most));
        if second.is_multiple_of(POLL_SECONDS) {
            if lag > 0.0 {
                self.last_active = Some(second);
                if world.replicas == 0 {
                    world.scale(self.replicas_min.max(1));
                }
            } else if self.replicas_min == 0
                && self.last_active.is_none_or(|at| second - at >= COOLDOWN_SECONDS)
            {
                world.scale(0);
                self.recommended.clear();
            }
        }
        if !second.is_multiple_of(SYNC_SECONDS) || world.replicas == 0 {
            return;
        }
        let ratio = lag / (self.threshold * f64::from(world.replicas));
        let raw = if (ratio - 1.0).abs() <= TOLERANCE {
            world.replicas
        } else {
            (lag / self.threshold).ceil() as u32
        };
        let raw = raw.clamp(self.replicas_min.max(1), most);
        self.recommended.push_back((second, raw));
        self.recommended.retain(|(at, _)| second - at < WINDOW_SECONDS);
        let down = self.recommended.iter().map(|(_, replicas)| *replicas).max().unwrap_or(raw);
        let up = raw.min((world.replicas * 2).max(world.replicas + 4));
        world.scale(if raw > world.replicas { up } else { down.min(world.replicas) });
    }
}
