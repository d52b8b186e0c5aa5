//! The brokers of a run: their disks, their starts and their ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ropewalk_broker::admin::client::Answer;
use ropewalk_broker::boot::inside::{Inside, Surroundings, answer_post};
use ropewalk_broker::boot::surroundings::{Network, StoreOptions};
use ropewalk_broker::cluster::{Connected, KnownBroker};
use ropewalk_broker::handle::Context;
use ropewalk_broker::listen::Lanes;
use ropewalk_broker::settings::{Endpoint, Settings};
use ropewalk_disk::SimDisk;
use ropewalk_peer::Inbox;
use ropewalk_shard::BrokerId;
use ropewalk_shard::state::catalog::{BrokerInfo, PeerEndpoint};
use ropewalk_store::{checkpoint, recovery};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::dice::{Dice, mix};
use crate::gate::Gate;
use crate::mutation::Mutation;
use crate::network::{Net, Side};
use crate::oracle::Oracle;
use crate::trace::Trace;

/// Most brokers of a cluster.
pub(crate) const BROKERS_MAX: usize = 5;

/// Shards of the cluster, without the catalog.
pub(crate) const SHARDS: u32 = 3;

/// How far the wall clock of each broker is ahead, milliseconds.
static SKEW_MS: [AtomicI64; BROKERS_MAX + 1] = [const { AtomicI64::new(0) }; BROKERS_MAX + 1];

fn clock<const BROKER: usize>() -> i64 {
    ropewalk_thread::time_ms() + SKEW_MS[BROKER].load(Ordering::Relaxed)
}

const CLOCKS: [fn() -> i64; BROKERS_MAX + 1] =
    [clock::<0>, clock::<1>, clock::<2>, clock::<3>, clock::<4>, clock::<5>];

/// One start of a broker.
struct Running {
    is_dead: Arc<AtomicBool>,
    /// Set when it serves clients.
    open: Option<Open>,
    main: JoinHandle<()>,
    /// Lets it stop in order; `None` once it does.
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
    /// The requests of clients that are in progress.
    requests: JoinSet<()>,
}

/// What clients of a broker call, and whether it serves them now.
type Open = (Arc<Context>, Lanes, watch::Receiver<bool>);

struct Slot {
    disk: SimDisk,
    running: Option<Running>,
    starts: u64,
}

pub(crate) struct World {
    pub(crate) oracle: Oracle,
    pub(crate) trace: Arc<Trace>,
    pub(crate) net: Arc<Net>,
    dice: Mutex<Dice>,
    slots: Mutex<BTreeMap<i32, Slot>>,
    mutation: Option<Mutation>,
    /// Whether the faults are over.
    pub(crate) is_calm: AtomicBool,
}

impl World {
    pub(crate) fn new(seed: u64, is_loud: bool, mutation: Option<Mutation>) -> Arc<Self> {
        let trace = Arc::new(Trace::new(is_loud));
        Arc::new(Self {
            oracle: Oracle::default(),
            net: Net::new(seed, Arc::clone(&trace), mutation),
            trace,
            dice: Mutex::new(Dice::new(mix(seed))),
            slots: Mutex::default(),
            mutation,
            is_calm: AtomicBool::new(false),
        })
    }

    pub(crate) fn dice<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.dice.lock())
    }

    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.dice(|dice| dice.between(low, high))
    }

    /// Waits for a random time, milliseconds.
    pub(crate) async fn pause(&self, low: u64, high: u64) {
        sleep(Duration::from_millis(self.between(low, high))).await;
    }

    /// All brokers that were ever started.
    pub(crate) fn brokers(&self) -> Vec<i32> {
        self.slots.lock().keys().copied().collect()
    }

    pub(crate) fn is_running(&self, broker: i32) -> bool {
        self.slots.lock().get(&broker).is_some_and(|slot| slot.running.is_some())
    }

    /// The brokers that serve clients.
    pub(crate) fn serving(&self) -> Vec<i32> {
        let slots = self.slots.lock();
        let open =
            |slot: &Slot| slot.running.as_ref().is_some_and(|running| running.open.is_some());
        slots.iter().filter(|(_, slot)| open(slot)).map(|(id, _)| *id).collect()
    }

    /// A broker that runs and has been open for clients.
    pub(crate) fn open(&self, broker: i32) -> Option<(Arc<Context>, Lanes)> {
        let slots = self.slots.lock();
        let (context, lanes, _) = slots.get(&broker)?.running.as_ref()?.open.as_ref()?;
        Some((Arc::clone(context), lanes.clone()))
    }

    /// What clients of a broker call; `None` while it turns them away.
    pub(crate) fn entrance(&self, broker: i32) -> Option<(Arc<Context>, Lanes)> {
        let is_serving = {
            let slots = self.slots.lock();
            let (_, _, serving) = slots.get(&broker)?.running.as_ref()?.open.as_ref()?;
            *serving.borrow()
        };
        if is_serving { self.open(broker) } else { None }
    }

    /// Runs a request of a client on a broker, until the broker ends.
    pub(crate) fn serve(&self, broker: i32, request: impl Future<Output = ()> + Send + 'static) {
        if let Some(slot) = self.slots.lock().get_mut(&broker)
            && let Some(running) = &mut slot.running
        {
            while running.requests.try_join_next().is_some() {}
            running.requests.spawn(request);
        }
    }

    pub(crate) fn set_skew(&self, broker: i32, ms: i64) {
        SKEW_MS[usize::try_from(broker).expect("an id")].store(ms, Ordering::Relaxed);
    }

    /// Starts a broker, with an empty disk the first time.
    pub(crate) fn start(self: &Arc<Self>, broker: i32) {
        let mut slots = self.slots.lock();
        let seed = self.dice.lock().draw();
        let slot = slots.entry(broker).or_insert_with(|| Slot {
            disk: SimDisk::new(seed),
            running: None,
            starts: 0,
        });
        assert!(slot.running.is_none(), "broker {broker} runs");
        if let Some(why) = self.mutation.and_then(Mutation::ignored_sync) {
            slot.disk.ignore_syncs(why);
        }
        slot.starts += 1;
        self.trace.event(format!("broker {broker} starts for the {}. time", slot.starts));
        let is_dead = Arc::new(AtomicBool::new(false));
        let surroundings = self.surroundings(broker, slot.disk.clone(), &is_dead);
        let (world, dead) = (Arc::clone(self), Arc::clone(&is_dead));
        let (stop, stopping) = oneshot::channel::<oneshot::Sender<()>>();
        let main = tokio::spawn(async move {
            let inside = match Inside::start(surroundings).await {
                Ok(inside) => inside,
                Err(error) => {
                    if !dead.load(Ordering::Relaxed) {
                        world.oracle.violated(format!("broker {broker} does not start: {error}"));
                    }
                    return;
                }
            };
            world.trace.event(format!("broker {broker} serves"));
            let open = (Arc::clone(inside.context()), Lanes::new(64 << 20), inside.serving());
            world.opened(broker, &dead, open);
            // Without an order it runs until it is aborted.
            let Ok(stopped) = stopping.await else { return std::future::pending().await };
            inside.stop().await;
            world.end(broker, SimDisk::restart);
            let _ = stopped.send(());
        });
        let (open, stop, requests) = (None, Some(stop), JoinSet::new());
        slot.running = Some(Running { is_dead, open, main, stop, requests });
    }

    /// Stops a broker in order, if it serves. Returns whether it has stopped, and not crashed.
    pub(crate) async fn stop(&self, broker: i32) -> bool {
        let (stopped, is_stopped) = oneshot::channel();
        let order = {
            let mut slots = self.slots.lock();
            let running = slots.get_mut(&broker).and_then(|slot| slot.running.as_mut());
            running.filter(|running| running.open.is_some()).and_then(|running| running.stop.take())
        };
        let Some(order) = order else { return false };
        self.trace.event(format!("broker {broker} stops"));
        self.oracle.count(|counts| counts.stops += 1);
        order.send(stopped).is_ok() && is_stopped.await.is_ok()
    }

    /// Sets that this start of a broker serves.
    fn opened(&self, broker: i32, is_dead: &AtomicBool, open: Open) {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&broker).expect("it was started");
        if let Some(running) = &mut slot.running
            && !is_dead.load(Ordering::Relaxed)
        {
            running.open = Some(open);
        }
    }

    fn surroundings(
        self: &Arc<Self>,
        broker: i32,
        disk: SimDisk,
        is_dead: &Arc<AtomicBool>,
    ) -> Surroundings {
        let (host, number) = (format!("b{broker}"), usize::try_from(broker).expect("an id"));
        let (world, dead) = (Arc::clone(self), Arc::clone(is_dead));
        let endpoints = BTreeMap::from([("PLAINTEXT".to_owned(), (host.clone(), 9092))]);
        let known = |(name, (host, port)): (&String, &(String, u16))| {
            (name.as_str().into(), (host.as_str().into(), i32::from(*port)))
        };
        let mut store = StoreOptions { shards: SHARDS, ..StoreOptions::default() };
        store.clock_ms = CLOCKS[number];
        store.recovery = recovery::Options {
            wal: ropewalk_wal::Options {
                file_bytes: 4 << 20,
                first_file_bytes: 4 << 20,
                files_bytes_max: 128 << 20,
                spares_max: 2,
                prefilled: 2,
            },
            tail_bytes_max: 64 << 10,
            open_files_max: 64,
        };
        store.checkpoint = checkpoint::Options {
            wal_used_bytes_soft_max: 1 << 20,
            checkpoint_age_ms: 5_000,
            ..checkpoint::Options::default()
        };
        Surroundings {
            settings: settings(broker),
            disk: Arc::new(Gate { disk, is_dead: Arc::clone(is_dead) }),
            dir: PathBuf::from("/data"),
            format: (broker == 1).then(|| "simulated".to_owned()),
            own: KnownBroker {
                id: BrokerId(broker),
                rack: None,
                endpoints: endpoints.iter().map(known).collect(),
            },
            info: BrokerInfo {
                peer: Some(PeerEndpoint { host: host.clone(), ports: [7000, 7001] }),
                endpoints,
                admin: Some(format!("{host}:9644")),
                ..BrokerInfo::default()
            },
            network: Arc::new(Own { broker, world: Arc::clone(self) }),
            store,
            on_fatal: Arc::new(move |fatal| {
                if !dead.load(Ordering::Relaxed) {
                    world.oracle.violated(format!("broker {broker} ends itself: {fatal}"));
                }
            }),
        }
    }

    /// Ends the process of a broker. With `loses_power` its disk loses what was not synced.
    pub(crate) fn crash(&self, broker: i32, loses_power: bool) {
        let end = |disk: &SimDisk| {
            if loses_power {
                disk.power_cycle(self.dice.lock().draw());
            } else {
                disk.restart();
            }
        };
        let Some(main) = self.end(broker, end) else { return };
        self.trace.event(format!("broker {broker} crashes, loses power: {loses_power}"));
        main.abort();
        self.oracle.count(|counts| counts.crashes += 1);
    }

    /// Ends what a running broker does, and what `end` does to its disk. Returns its main task.
    fn end(&self, broker: i32, end: impl FnOnce(&SimDisk)) -> Option<JoinHandle<()>> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&broker)?;
        let mut running = slot.running.take()?;
        running.is_dead.store(true, Ordering::Relaxed);
        self.net.remove(broker);
        end(&slot.disk);
        drop(slots);
        running.requests.abort_all();
        Some(running.main)
    }

    /// A hash of everything that was done to the disks.
    pub(crate) fn disks(&self) -> u64 {
        let slots = self.slots.lock();
        slots.values().fold(0, |hash, slot| mix(hash ^ slot.disk.trace()))
    }
}

fn settings(broker: i32) -> Settings {
    let others = (1..=3).filter(|other| *other != broker).map(|other| format!("b{other}:9644"));
    let join = others.collect::<Vec<_>>().join(",");
    let mut pairs = vec![
        ("node.id", broker.to_string()),
        ("listeners", "PLAINTEXT://127.0.0.1:9092".to_owned()),
        ("ropewalk.peer.listener", "127.0.0.1:7000".to_owned()),
        ("ropewalk.peer.certificate.file", "/none".to_owned()),
        ("ropewalk.peer.key.file", "/none".to_owned()),
        ("ropewalk.peer.ca.file", "/none".to_owned()),
        ("group.initial.rebalance.delay.ms", "200".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
    ];
    if broker != 1 {
        pairs.push(("ropewalk.cluster.join", join));
    }
    let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
    Settings::new(pairs).expect("they are valid")
}

/// The network as one broker sees it.
struct Own {
    broker: i32,
    world: Arc<World>,
}

impl Network for Own {
    fn post<'a>(
        &'a self,
        to: &'a Endpoint,
        path: &'static str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            self.world.pause(1, 5).await;
            let broker = to.host.trim_start_matches('b').parse().expect("the name of a broker");
            let open = self.world.open(broker);
            let (context, _) = open.ok_or_else(|| format!("broker {broker} does not answer"))?;
            let (answer, answered) = tokio::sync::oneshot::channel();
            let body = body.clone();
            self.world.serve(broker, async move {
                let _ = answer.send(answer_post(&context, path, body).await);
            });
            let answered = tokio::time::timeout(Duration::from_secs(15), answered).await;
            let answer = answered.ok().and_then(Result::ok);
            self.world.pause(1, 5).await;
            answer.ok_or_else(|| format!("broker {broker} has not answered"))
        })
    }

    fn connect(&self, options: &ropewalk_peer::Options, inbox: Arc<dyn Inbox>) -> Connected {
        self.world.net.add(self.broker, options, inbox);
        let incarnation = options.incarnation;
        let net = Arc::clone(&self.world.net);
        Connected {
            incarnation,
            connections: Arc::new(Side { broker: self.broker, incarnation, net }),
            run: Box::pin(std::future::pending()),
        }
    }
}
