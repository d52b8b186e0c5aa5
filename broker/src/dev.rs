//! `dev --brokers N`: several brokers on this machine as one cluster, to try out what happens when
//! one of them ends.
//!
//! Each broker is a process of this program, with a settings file that [`plan`] writes. The first
//! one founds the cluster and the others join it; at a later start all have their data. [`child`]
//! keeps each running.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_broker::admin::client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::flags::{Dev, LogFormat};
use crate::stop::Stop;

mod certificates;
mod plan;
mod child;

use child::{GaveUp, Logging};
use plan::{Plan, PlannedBroker};

/// How often a broker is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(200);

/// How often it is said what is waited for.
const WAIT_REPORT: Duration = Duration::from_secs(10);

/// The brokers of a cluster.
struct Running {
    plan: Plan,
    /// The process of each broker, in the order of the plan.
    pids: Vec<Arc<watch::Sender<Option<u32>>>>,
    stop: watch::Sender<bool>,
    brokers: JoinSet<Result<(), GaveUp>>,
}

/// Runs the cluster until a signal stops it.
pub(crate) async fn run(dev: &Dev, dir: PathBuf, log: (LogFormat, String)) -> Result<(), Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (format, filter) = log;
    let plan = Plan::write(dev, dir)?;
    info!(cluster_id = plan.cluster_id, brokers = plan.brokers.len(), "cluster starts");
    let mut ready = pin!(all_ready(plan.brokers.clone()));
    let mut running = Running::start(plan, &Logging { format, filter });
    let mut is_ready = false;
    let result = loop {
        tokio::select! {
            () = &mut ready, if !is_ready => {
                is_ready = true;
                running.print_welcome();
            }
            Some(ended) = running.brokers.join_next() => {
                if let Err(stop) = running.ended(ended, is_ready) {
                    break Err(stop);
                }
            }
            _ = terminate.recv() => {
                info!("SIGTERM: all brokers are stopped");
                break Ok(());
            }
            _ = interrupt.recv() => {
                info!("SIGINT: all brokers are stopped");
                break Ok(());
            }
        }
    };
    let _ = running.stop.send(true);
    while running.brokers.join_next().await.is_some() {}
    result
}

impl Running {
    fn start(plan: Plan, logging: &Logging) -> Self {
        let (stop, stopping) = watch::channel(false);
        let mut brokers = JoinSet::new();
        let mut pids = Vec::with_capacity(plan.brokers.len());
        for broker in &plan.brokers {
            let pid = Arc::new(watch::channel(None).0);
            pids.push(Arc::clone(&pid));
            brokers.spawn(child::keep(broker.clone(), logging.clone(), pid, stopping.clone()));
        }
        Self { plan, pids, stop, brokers }
    }

    /// A broker is not started again. The others go on, unless the cluster has not begun or none is
    /// left.
    fn ended(
        &self,
        ended: Result<Result<(), GaveUp>, tokio::task::JoinError>,
        is_ready: bool,
    ) -> Result<(), Stop> {
        let why = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(gave_up)) => gave_up.to_string(),
            Err(panicked) => panicked.to_string(),
        };
        if is_ready && !self.brokers.is_empty() {
            tracing::error!("{why}");
            return Ok(());
        }
        Err(Stop::Cluster(why))
    }

    /// Prints what to try next. A closed standard output is not an error.
    fn print_welcome(&self) {
        let pids: Vec<Option<u32>> = self.pids.iter().map(|pid| *pid.borrow()).collect();
        let _ = io::stdout().write_all(welcome(&self.plan, &pids).as_bytes());
    }
}

/// Waits until every broker is ready.
async fn all_ready(brokers: Vec<PlannedBroker>) {
    for broker in &brokers {
        ready(broker).await;
    }
}

async fn ready(broker: &PlannedBroker) {
    let client = Client::new(broker.admin.clone(), None);
    let mut said = tokio::time::Instant::now();
    loop {
        let why = match client.get("/ready").await {
            Ok(answer) if answer.status == 200 => return,
            Ok(answer) => answer.body["reasons"].to_string(),
            Err(error) => error.to_string(),
        };
        if said.elapsed() >= WAIT_REPORT {
            said = tokio::time::Instant::now();
            info!("waiting for broker {}: {why}", broker.id);
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

fn welcome(plan: &Plan, pids: &[Option<u32>]) -> String {
    let bootstrap: Vec<String> =
        plan.brokers.iter().map(|broker| broker.kafka.to_string()).collect();
    let bootstrap = bootstrap.join(",");
    let rows: String = plan
        .brokers
        .iter()
        .zip(pids)
        .map(|(broker, pid)| {
            let PlannedBroker { id, kafka, admin, .. } = broker;
            let pid = pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
            format!("    broker {id}: Kafka {kafka}, admin http://{admin}, process {pid}\n")
        })
        .collect();
    let last = plan.brokers.last();
    let admin = last.map(|last| last.admin.to_string()).unwrap_or_default();
    let victim =
        pids.first().copied().flatten().map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    let delay = child::RESTART_DELAY.as_secs();
    format!(
        "Ropewalk {} is ready: {} brokers, Kafka clients at {bootstrap}, data in {}\n\
         \n\
         {rows}\
         \n\
         Try it with Python (pip install kafka-python):\n\
         \n\
         \x20   from kafka import KafkaProducer, KafkaConsumer\n\
         \x20   brokers = '{bootstrap}'.split(',')\n\
         \x20   KafkaProducer(bootstrap_servers=brokers, acks='all').send('my-topic', value=b'Hello, World!').get()\n\
         \x20   for message in KafkaConsumer('my-topic', bootstrap_servers=brokers, auto_offset_reset='earliest'): print(message.value)\n\
         \n\
         See which broker leads what, kill one, and see the others take over. It is started again after {delay} s:\n\
         \n\
         \x20   ropewalk-broker cluster status --admin {admin}\n\
         \x20   kill -9 {victim}\n\
         \x20   ropewalk-broker cluster status --admin {admin}\n\
         \n\
         Ctrl-C stops all brokers; the data stays.\n",
        env!("CARGO_PKG_VERSION"),
        plan.brokers.len(),
        plan.dir.display(),
    )
}

#[cfg(test)]
mod tests {
    use ropewalk_broker::settings::Endpoint;

    use super::*;

    #[test]
    fn the_welcome_names_every_broker_and_how_to_see_one_fail() {
        let broker = |id: i32| PlannedBroker {
            id,
            kafka: Endpoint { host: "127.0.0.1".into(), port: 9091 + id as u16 },
            admin: Endpoint { host: "127.0.0.1".into(), port: 9643 + id as u16 },
            config: PathBuf::new(),
        };
        let brokers = (1..=3).map(broker).collect();
        let plan = Plan { dir: "/d".into(), cluster_id: "c".into(), brokers };
        let text = welcome(&plan, &[Some(11), Some(12), None]);
        for part in [
            "3 brokers, Kafka clients at 127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094, data in /d",
            "broker 2: Kafka 127.0.0.1:9093, admin http://127.0.0.1:9645, process 12",
            "cluster status --admin 127.0.0.1:9646",
            "kill -9 11",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
