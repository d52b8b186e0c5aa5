//! Runs the drivers of several shards in one task.
//!
//! A batch passes through the driver of its shard twice, and a round of the write-ahead log
//! concerns every shard with a write in it. With a task for each driver, each of these would be a
//! hand-over between tasks, often from one thread to another. Drivers that share a task are woken
//! together: the first request or the first answer of a round wakes the task, and it then runs
//! every driver that has something to do.
//!
//! # Fairness
//!
//! Drivers run in the order in which they were woken, each until it waits. No driver blocks. The
//! runtime bounds a turn: once a task has taken some hundred messages, its channels report that
//! they are empty until the other tasks of the thread have run, and then the next driver is first.
//!
//! # Shards that come and go
//!
//! A driver can be added to a task at any time, and ends when its shard is closed. A task ends when
//! no driver can be added any more and all have ended.
//!
//! # Supervision
//!
//! Each driver is watched by itself: the panic of one is reported with its shard, and the others
//! continue until the process ends.

use std::num::NonZero;
use std::pin::{Pin, pin};
use std::thread;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::limits;
use crate::supervision::{self, Supervisor};

/// The number of tasks that the drivers of a broker share: one for every two processors, because
/// connections need the others.
pub(crate) fn task_count() -> usize {
    if ropewalk_thread::is_simulated() {
        return 1;
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 2).clamp(1, limits::DRIVER_TASKS_MAX)
}

/// A driver until it ends.
pub(crate) type RunningDriver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks that drivers share. Dropping it lets them end when their drivers have.
#[derive(Debug)]
pub(crate) struct Tasks {
    added: Vec<mpsc::UnboundedSender<RunningDriver>>,
    next: usize,
}

impl Tasks {
    /// Adds a driver to the task that is next in turn.
    pub(crate) fn add(&mut self, driver: RunningDriver) {
        // Without its task the process is about to end.
        let _ = self.added[self.next].send(driver);
        self.next = (self.next + 1) % self.added.len();
    }
}

/// Spawns `count` tasks without drivers. The first one also runs `answers`.
pub(crate) fn spawn(
    supervisor: &Supervisor,
    count: usize,
    answers: impl Future<Output = ()> + Send + 'static,
) -> (Tasks, JoinSet<()>) {
    let (mut spawned, mut added) = (JoinSet::new(), Vec::new());
    let mut answers = Some(answers);
    for _ in 0..count {
        let (add, drivers) = mpsc::unbounded_channel();
        let drivers = run(drivers, answers.take());
        spawned.spawn(supervisor.endless(&supervision::DRIVERS, drivers));
        added.push(add);
    }
    (Tasks { added, next: 0 }, spawned)
}

/// Runs the drivers that are added until all have ended and no other can be added, and `answers` as
/// long as that takes.
async fn run<D>(mut added: mpsc::UnboundedReceiver<D>, answers: Option<impl Future<Output = ()>>)
where
    D: Future<Output = ()>,
{
    let answers = pin!(async {
        if let Some(answers) = answers {
            answers.await;
        }
        std::future::pending().await
    });
    let drivers = async {
        let mut drivers: FuturesUnordered<D> = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !drivers.is_empty() {
            tokio::select! {
                biased;
                driver = added.recv(), if is_open => match driver {
                    Some(driver) => drivers.push(driver),
                    None => is_open = false,
                },
                Some(()) = drivers.next() => {}
            }
        }
    };
    tokio::select! {
        // What a round made durable reaches all its drivers before the first of them runs.
        biased;
        () = answers => {}
        () = drivers => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use parking_lot::Mutex;

    use super::*;
    use crate::supervision::{DRIVER, Failure, Fatal};

    /// The drivers of a task to which no other is added.
    fn all<D>(drivers: impl IntoIterator<Item = D>) -> mpsc::UnboundedReceiver<D> {
        let (add, added) = mpsc::unbounded_channel();
        drivers.into_iter().for_each(|driver| drop(add.send(driver)));
        added
    }

    const NO_ANSWERS: Option<std::future::Ready<()>> = None;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_drivers_of_a_task_are_woken_together() {
        let took = Mutex::new(Vec::new());
        let (inputs, drivers): (Vec<_>, Vec<_>) = (0..5)
            .map(|shard| {
                let (input, mut queue) = mpsc::unbounded_channel::<u32>();
                let took = &took;
                let driver = async move {
                    while let Some(input) = queue.recv().await {
                        took.lock().push((shard, input));
                    }
                };
                (input, driver)
            })
            .unzip();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut task = pin!(run(all(drivers), NO_ANSWERS));
        assert!(task.as_mut().poll(&mut context).is_pending());
        woken.0.store(0, Ordering::Relaxed);
        for shard in [3, 1, 4] {
            inputs[shard].send(7).expect("it listens");
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(*took.lock(), [(3, 7), (1, 7), (4, 7)]);
        drop(inputs);
        assert_eq!(task.as_mut().poll(&mut context), Poll::Ready(()), "all have ended");
    }

    #[tokio::test]
    async fn a_driver_with_endless_work_leaves_turns_to_the_others() {
        let (input, mut queue) = mpsc::unbounded_channel::<()>();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        input.send(()).expect("it listens");
        let busy = async move {
            while queue.recv().await.is_some() {
                input.send(()).expect("it listens");
            }
        };
        let other = async move { answer.send(()).expect("the test waits") };
        let drivers: Vec<RunningDriver> = vec![Box::pin(busy), Box::pin(other)];
        let task = tokio::spawn(run(all(drivers), NO_ANSWERS));
        answered.await.expect("the other driver runs");
        task.abort();
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_shard_and_the_other_drivers_continue() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&reports);
        let supervisor = Supervisor::new(Arc::new(move |fatal| to.lock().push(fatal)));
        let (input, mut queue) = mpsc::unbounded_channel::<()>();
        let runs = |shard: u32| {
            let mut queue = (shard == 2).then(|| std::mem::replace(&mut queue, closed()));
            let work = async move {
                match &mut queue {
                    Some(queue) => queue.recv().await.ok_or(Failure::Fault("closed".to_owned())),
                    None => panic!("a bug"),
                }
            };
            supervisor.watch(&DRIVER, format!("shard {shard}"), work)
        };
        let drivers: Vec<_> = [1, 2].map(runs).into();
        let task = tokio::spawn(run(all(drivers), NO_ANSWERS));
        while reports.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        supervisor.stop();
        input.send(()).expect("shard 2 still listens");
        task.await.expect("the task does not panic");
        let reports = reports.lock();
        let [Fatal::Ended { task: "driver", of, why, .. }] = reports.as_slice() else {
            panic!("reported {reports:?}");
        };
        assert!(of == "shard 1" && why.contains("panicked: a bug"), "{of} {why}");
    }

    #[tokio::test]
    async fn a_driver_is_added_while_others_run_and_the_task_ends_after_the_last() {
        let supervisor = Supervisor::new(Arc::new(|fatal| panic!("{fatal}")));
        let (mut tasks, mut spawned) = spawn(&supervisor, 2, std::future::pending());
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            tasks.add(Box::pin(async { drop(ended.await) }));
            ends.push(end);
            tokio::task::yield_now().await;
        }
        drop(tasks);
        assert!(spawned.try_join_next().is_none(), "its drivers run");
        drop(ends);
        while spawned.join_next().await.is_some() {}
    }

    fn closed() -> mpsc::UnboundedReceiver<()> {
        mpsc::unbounded_channel().1
    }
}
