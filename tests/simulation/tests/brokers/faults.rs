//! Crashes, cuts and other faults of a run, and the checks at its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ropewalk_shard::ShardId;
use tokio::time::{Instant, sleep};

use crate::work::{partitions, read_all};
use crate::world::{SHARDS, World};

/// How long the cluster may take, after the last fault, until everything is as it has to be.
const CALM_MAX: Duration = Duration::from_secs(180);

/// Waits until so many brokers serve. Returns whether they do.
pub(crate) async fn served_by(world: &World, count: usize, max: Duration) -> bool {
    let until = Instant::now() + max;
    while world.serving().len() < count {
        if Instant::now() > until {
            return false;
        }
        sleep(Duration::from_millis(100)).await;
    }
    true
}

/// Looks who leads.
pub(crate) async fn watch(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(20)).await;
        for broker in world.serving() {
            let Some((context, _)) = world.open(broker) else { continue };
            for shard in context.node.shards() {
                if let Some(term) = shard.leading() {
                    world.oracle.leads(shard.id().0, term, broker);
                }
            }
        }
    }
}

/// Makes faults for some time.
pub(crate) async fn make(world: &Arc<World>, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until && world.oracle.violation().is_none() {
        world.pause(200, 2500).await;
        let brokers = world.brokers();
        let running: Vec<i32> =
            brokers.iter().copied().filter(|broker| world.is_running(*broker)).collect();
        let Some(broker) = world.dice(|dice| dice.pick(&running)) else { continue };
        match world.between(0, 11) {
            0..=2 => {
                // More than a minority may be away, but seldom.
                let away = brokers.len() - running.len();
                if away * 2 + 2 > brokers.len() && !world.dice(|dice| dice.one_in(4)) {
                    continue;
                }
                let loses_power = world.dice(|dice| dice.one_in(2));
                crash(world, broker, loses_power);
            }
            3..=5 => cut(world, broker, &brokers),
            6 | 7 => {
                let high = world.dice(|dice| dice.pick(&[3, 10, 40, 150])).expect("one");
                let loss = world.dice(|dice| dice.pick(&[0, 0, 50, 10])).expect("one");
                world.trace.event(format!("messages take up to {high} ms, 1 in {loss} is lost"));
                world.net.set_weather((0, high), loss);
            }
            // The power of all brokers fails.
            10 if world.dice(|dice| dice.one_in(3)) => {
                for broker in running {
                    crash(world, broker, true);
                }
            }
            8 => {
                let ms = i64::try_from(world.between(0, 120_000)).expect("small") - 60_000;
                world.trace.event(format!("the clock of {broker} is {ms} ms ahead"));
                world.set_skew(broker, ms);
            }
            11 => stop(world, broker),
            _ => {
                let next = i32::try_from(brokers.len()).expect("few") + 1;
                if next <= 5 && world.dice(|dice| dice.one_in(2)) {
                    world.oracle.count(|counts| counts.joins += 1);
                    world.start(next);
                }
            }
        }
    }
}

/// Ends the process of a broker, and starts it again later.
fn crash(world: &Arc<World>, broker: i32, loses_power: bool) {
    world.crash(broker, loses_power);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.pause(100, 6000).await;
        world.start(broker);
    });
}

/// Stops a broker in order, and starts it again later.
fn stop(world: &Arc<World>, broker: i32) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        if world.stop(broker).await {
            world.pause(100, 3000).await;
            world.start(broker);
        }
    });
}

/// Cuts a broker off from some others, in one or both directions, and heals that later.
fn cut(world: &Arc<World>, broker: i32, brokers: &[i32]) {
    let others: Vec<i32> = brokers.iter().copied().filter(|other| *other != broker).collect();
    let others = match world.dice(|dice| dice.one_in(2)) {
        true => others,
        false => world.dice(|dice| dice.pick(&others)).into_iter().collect(),
    };
    let directions = world.between(1, 3);
    let mut cuts = Vec::new();
    for other in others {
        if directions & 1 > 0 {
            cuts.push((broker, other));
        }
        if directions & 2 > 0 {
            cuts.push((other, broker));
        }
    }
    world.trace.event(format!("cut {cuts:?}"));
    world.oracle.count(|counts| counts.cuts += 1);
    cuts.iter().for_each(|(from, to)| world.net.cut(*from, *to));
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.pause(200, 8000).await;
        world.trace.event(format!("healed {cuts:?}"));
        cuts.iter().for_each(|(from, to)| world.net.heal(*from, *to));
    });
}

/// Ends all faults, and checks that the cluster becomes whole and has everything.
pub(crate) async fn end(world: &Arc<World>) {
    world.trace.event("the faults end".to_owned());
    // Those that were to end by themselves.
    sleep(Duration::from_secs(9)).await;
    world.net.heal_all();
    let begun = Instant::now();
    loop {
        if world.oracle.violation().is_some() {
            return;
        }
        let Some(why) = unfinished(world) else { break };
        if begun.elapsed() > CALM_MAX {
            return world
                .oracle
                .violated(format!("{} s after the faults: {why}", CALM_MAX.as_secs()));
        }
        sleep(Duration::from_millis(200)).await;
    }
    world.trace.event("the cluster is whole".to_owned());
    world.is_calm.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(15)).await;
    check_topics(world);
    for partition in partitions() {
        if !read_all(world, &partition).await {
            world.oracle.violated(format!("{partition:?} cannot be read"));
        }
    }
}

/// The topics that every broker lists are those whose last change was acknowledged.
fn check_topics(world: &World) {
    for (topic, exists) in world.oracle.topics() {
        for broker in world.brokers() {
            let Some((context, _)) = world.open(broker) else { continue };
            if context.view.by_name(&topic).is_some() != exists {
                let wrong = format!("{topic} exists: {exists}, and broker {broker} says no");
                world.oracle.violated(wrong);
            }
        }
    }
}

/// What the cluster lacks.
fn unfinished(world: &World) -> Option<String> {
    let brokers = world.brokers();
    if world.serving().len() < brokers.len() {
        return Some(format!("only {:?} serve", world.serving()));
    }
    for shard in 0..=SHARDS {
        let mut leader = None;
        for broker in &brokers {
            let (context, _) = world.open(*broker)?;
            if context.node.shard(ShardId(shard)).is_some_and(|held| held.leading().is_some()) {
                leader = Some(context);
            }
        }
        let Some(context) = leader else { return Some(format!("shard {shard} has no leader")) };
        let members = context.node.shard(ShardId(shard))?.replication().members;
        let (voters, learners) = (members.voters.len(), members.learners.len());
        let wanted = if brokers.len() >= 3 { 3 } else { 1 };
        // Every broker has a replica of the catalog.
        let learning = if shard == 0 { brokers.len() - wanted } else { 0 };
        if voters != wanted || learners != learning {
            return Some(format!("shard {shard} has {voters} voters and {learners} learners"));
        }
    }
    None
}
