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
//! # Supervision
//!
//! Each driver is watched by itself: the panic of one is reported with its shard, and the others
//! continue until the process ends.

use std::num::NonZero;
use std::pin::pin;
use std::thread;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;

use crate::limits;
use crate::supervision::{self, Supervisor};

/// The number of tasks that the drivers of a broker share: one for every two processors, because
/// connections need the others.
pub(crate) fn task_count() -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 2).clamp(1, limits::DRIVER_TASKS_MAX)
}

/// Spawns a task for each of `tasks`, the drivers that share it. The first one also runs `answers`.
pub(crate) fn spawn<D>(
    supervisor: &Supervisor,
    tasks: Vec<Vec<D>>,
    answers: impl Future<Output = ()> + Send + 'static,
) -> JoinSet<()>
where
    D: Future<Output = ()> + Send + 'static,
{
    let mut spawned = JoinSet::new();
    let mut answers = Some(answers);
    for drivers in tasks {
        let drivers = run(drivers, answers.take());
        spawned.spawn(supervisor.endless(&supervision::DRIVERS, drivers));
    }
    spawned
}

/// Runs `drivers` until all have ended, and `answers` as long as that takes.
async fn run<D>(drivers: Vec<D>, answers: Option<impl Future<Output = ()>>)
where
    D: Future<Output = ()>,
{
    let mut drivers: FuturesUnordered<D> = drivers.into_iter().collect();
    let answers = pin!(async {
        if let Some(answers) = answers {
            answers.await;
        }
        std::future::pending().await
    });
    tokio::select! {
        // What a round made durable reaches all its drivers before the first of them runs.
        biased;
        () = answers => {}
        () = async { while drivers.next().await.is_some() {} } => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::*;
    use crate::supervision::{DRIVER, Failure, Fatal};

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
        let mut task = pin!(run(drivers, NO_ANSWERS));
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
        let drivers: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> =
            vec![Box::pin(busy), Box::pin(other)];
        let task = tokio::spawn(run(drivers, NO_ANSWERS));
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
        let task = tokio::spawn(run(drivers, NO_ANSWERS));
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

    fn closed() -> mpsc::UnboundedReceiver<()> {
        mpsc::unbounded_channel().1
    }
}
