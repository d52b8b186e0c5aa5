//! A broker of several whose handlers never pause: its shards go on.

#[path = "cluster/authority.rs"]
mod authority;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use ropewalk_broker::boot::{Broker, Start};
use ropewalk_broker::settings::Settings;
use ropewalk_shard::command::{Command, ShardCommand};
use ropewalk_shard::{Outcome, ShardId};
use tempfile::TempDir;

use crate::authority::{Authority, CLUSTER};

/// A test that waits longer than this hangs.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn handlers_that_never_pause_keep_no_driver_waiting() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("it starts");
    let (_certificates, files) = Authority::new().files(1);
    let dir = TempDir::new().expect("a directory");
    let shown = |path: &std::path::Path| path.display().to_string();
    let settings = [
        ("node.id", "1".to_owned()),
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("ropewalk.admin.listener", "127.0.0.1:0".to_owned()),
        ("ropewalk.peer.listener", "127.0.0.1:0".to_owned()),
        ("ropewalk.peer.certificate.file", shown(&files.chain)),
        ("ropewalk.peer.key.file", shown(&files.key)),
        ("ropewalk.peer.ca.file", shown(&files.ca)),
    ];
    let start = Start {
        settings: Settings::new(settings.map(|(key, value)| (key.to_owned(), value)))
            .expect("valid"),
        dir: dir.path().join("data"),
        format: Some(CLUSTER.to_owned()),
        on_fatal: Arc::new(|reason| panic!("{reason}")),
    };
    let broker = runtime.block_on(Broker::start(start)).expect("it starts");
    let shard = Arc::clone(broker.context().node.shard(ShardId(1)).expect("it has all"));
    let (release, released) = mpsc::channel::<()>();
    let (blocked, is_blocked) = mpsc::channel();
    // As a handler that checks a large batch. Without a release it ends after some time, so that
    // the failure of this test is no hang.
    let handler = runtime.spawn(async move {
        blocked.send(()).expect("the test waits");
        released.recv_timeout(LONG).is_ok()
    });
    is_blocked.recv().expect("it runs");
    let command = ShardCommand::DeleteGroup { group: "absent".to_owned() };
    let answer = shard.submit(Command::Shard(command)).blocking_recv().expect("an answer");
    assert!(matches!(answer, Ok(Outcome::GroupRefused(_))), "{answer:?}");
    release.send(()).expect("the driver answered while the handler still had the thread");
    assert!(runtime.block_on(handler).expect("no panic"));
    runtime.block_on(broker.stop());
}
