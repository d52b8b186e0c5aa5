//! Each way in which a task can end, and the report that follows.

use std::sync::Mutex;

use super::*;

tasks! {
    pub(super),
    /// A task that must not end.
    NEEDED = "needed", ProcessEnds, "the test";
    /// A task that may return.
    SHORT = "short", ProcessEndsOnPanic, "a part of the test";
}

fn supervisor() -> (Supervisor, Arc<Mutex<Vec<Fatal>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&reports);
    (Supervisor::new(Arc::new(move |fatal| to.lock().expect("no panic").push(fatal))), reports)
}

fn reported(reports: &Mutex<Vec<Fatal>>) -> Vec<String> {
    reports.lock().expect("no panic").iter().map(ToString::to_string).collect()
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(work);
}

#[test]
fn a_needed_task_that_returns_panics_or_fails_is_reported_with_its_name() {
    let fault = || Err(Failure::Fault("it is broken".to_owned()));
    let disk = || Err(Failure::Disk("EIO".to_owned()));
    type Body = fn() -> Result<(), Failure>;
    let cases: [(Body, &str); 4] = [
        (|| Ok(()), "needed (shard 3) returned although the broker runs; with it ends: the test"),
        (|| panic!("boom {}", 7), "needed (shard 3) panicked: boom 7; with it ends: the test"),
        (fault, "needed (shard 3) failed: it is broken; with it ends: the test"),
        (disk, "the disk can no longer be trusted: EIO"),
    ];
    for (body, line) in cases {
        let (supervisor, reports) = supervisor();
        let of = "shard 3".to_owned();
        run(supervisor.watch(&NEEDED, of, async move {
            tokio::task::yield_now().await;
            body()
        }));
        assert_eq!(reported(&reports), [line]);

        let (supervisor, reports) = self::supervisor();
        supervisor.run(&NEEDED, body);
        assert_eq!(reported(&reports), [line.replace(" (shard 3)", "")]);
    }
}

#[test]
fn a_stop_lets_tasks_return_and_not_panic() {
    let (supervisor, reports) = supervisor();
    supervisor.stop();
    assert_eq!(supervisor.run(&NEEDED, || Ok(5)), Some(5));
    assert!(reported(&reports).is_empty());
    assert_eq!(supervisor.run(&NEEDED, || -> Result<(), _> { panic!("late") }), None);
    assert_eq!(reported(&reports).len(), 1);
}

#[test]
fn a_short_task_may_return_and_not_panic() {
    let (supervisor, reports) = supervisor();
    run(supervisor.endless(&SHORT, async {}));
    assert!(reported(&reports).is_empty());
    run(supervisor.endless(&SHORT, async { panic!("boom") }));
    assert_eq!(reported(&reports), ["short panicked: boom; with it ends: a part of the test"]);
}

#[test]
fn the_table_lists_every_row_once() {
    assert_eq!(TASKS, [&NEEDED, &SHORT]);
    let names: std::collections::BTreeSet<_> = super::TASKS.iter().map(|task| task.name).collect();
    assert_eq!(names.len(), super::TASKS.len());
}

#[test]
fn only_the_first_end_is_reported() {
    let (supervisor, reports) = supervisor();
    supervisor.run(&NEEDED, || -> Result<(), _> { panic!("first") });
    supervisor.run(&NEEDED, || -> Result<(), _> { panic!("second") });
    assert_eq!(reported(&reports).len(), 1);
    assert!(reported(&reports)[0].contains("first"));
}
