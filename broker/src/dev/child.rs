//! One broker of a trial cluster as a process: its start, its log lines, its end.
//!
//! A broker whose process ends is started again, as Kubernetes would do, unless its exit code says
//! that a person has to act first. Its standard input is a pipe whose end it takes for the order to
//! stop, so that no broker outlives this process, however this one ends.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropewalk_broker::supervision::EXIT_DISK;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{info, warn};

use super::plan::PlannedBroker;
use crate::flags::LogFormat;

/// How long an ended broker is down, so that others can be seen to take over.
pub(super) const RESTART_DELAY: Duration = Duration::from_secs(5);

/// The longest delay of a broker that ends again and again.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// A broker that ran longer than this is started again after the shortest delay.
const STEADY: Duration = Duration::from_secs(60);

/// How long a broker may take to stop in order.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

/// The exit codes that a restart does not change: wrong settings, a directory or an address that
/// cannot be used, a lost disk, damage.
const LASTING: [i32; 6] = [2, 3, 4, 6, 7, 8];

/// How the brokers log.
#[derive(Debug, Clone)]
pub(super) struct Logging {
    pub(super) format: LogFormat,
    pub(super) filter: String,
}

/// Why a broker is not started again.
#[derive(Debug)]
pub(super) struct GaveUp {
    pub(super) broker: i32,
    pub(super) why: String,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} {}", self.broker, self.why)
    }
}

/// Runs a broker until `stop` turns true, and starts it again when it ends before. `pid` shows its
/// process.
///
/// # Errors
/// When it cannot run until a person acts.
pub(super) async fn keep(
    broker: PlannedBroker,
    logging: Logging,
    pid: Arc<watch::Sender<Option<u32>>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), GaveUp> {
    let id = broker.id;
    let gave_up = |why: String| GaveUp { broker: id, why };
    let mut delay = RESTART_DELAY;
    loop {
        let begun = Instant::now();
        let mut child =
            spawn(&broker, &logging).map_err(|e| gave_up(format!("cannot be started: {e}")))?;
        // Waiting for a child closes its standard input, which would stop it.
        let _input = child.stdin.take();
        pid.send_replace(child.id());
        info!(broker = id, pid = child.id(), "broker started");
        let lines =
            child.stderr.take().map(|stderr| tokio::spawn(relay(id, logging.format, stderr)));
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(ended) = ended else {
            return end(id, child)
                .await
                .map_err(|error| gave_up(format!("cannot be stopped: {error}")));
        };
        pid.send_replace(None);
        if let Some(lines) = lines {
            let _ = lines.await;
        }
        let status = ended.map_err(|error| gave_up(format!("cannot be waited for: {error}")))?;
        let how = describe(status);
        if status.code().is_some_and(|code| LASTING.contains(&code)) {
            return Err(gave_up(format!(
                "{how}; its last lines say why. Start it by hand with: ropewalk-broker run --config {}",
                broker.config.display()
            )));
        }
        delay = if begun.elapsed() >= STEADY { RESTART_DELAY } else { delay };
        warn!(broker = id, "broker {how}: it is started again in {} s", delay.as_secs());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        if begun.elapsed() < STEADY {
            delay = (delay * 2).min(RESTART_DELAY_MAX);
        }
    }
}

fn spawn(broker: &PlannedBroker, logging: &Logging) -> io::Result<Child> {
    // This very program, also if its file has been replaced by another version meanwhile.
    let own = PathBuf::from("/proc/self/exe");
    let own = if own.exists() { own } else { std::env::current_exe()? };
    let mut command = Command::new(own);
    command
        .arg0("ropewalk-broker")
        .arg("run")
        .arg("--config")
        .arg(&broker.config)
        .arg("--stop-at-end-of-input");
    command.args(["--log", &logging.filter, "--log-format", logging.format.name()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C reaches this process only, which then stops the brokers.
    command.process_group(0);
    command.spawn()
}

/// Stops a broker in order.
async fn end(id: i32, mut child: Child) -> io::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(STOP_TIME_MAX, child.wait()).await {
        Ok(ended) => info!(broker = id, "broker {}", describe(ended?)),
        Err(_) => {
            warn!(broker = id, "broker does not stop and is killed");
            child.kill().await?;
        }
    }
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => "has stopped".to_owned(),
        (Some(EXIT_DISK), _) => format!("ended with exit code {EXIT_DISK} (its disk failed)"),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Passes the log lines of a broker on, each with the broker that it is of.
async fn relay(id: i32, format: LogFormat, lines: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(lines).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        // Standard error may be closed.
        let _ = io::stderr().write_all(&labelled(id, format, &line));
    }
}

fn labelled(id: i32, format: LogFormat, line: &[u8]) -> Vec<u8> {
    let mut out = match format {
        LogFormat::Text => format!("broker {id} | ").into_bytes(),
        LogFormat::Json => format!("{{\"broker\":{id},").into_bytes(),
    };
    match (format, line) {
        (LogFormat::Json, [b'{', rest @ ..]) => out.extend(rest),
        // What is no JSON is text of the system or of a panic.
        (LogFormat::Json, other) => {
            let text =
                serde_json::json!({ "broker": id, "message": String::from_utf8_lossy(other) });
            out = text.to_string().into_bytes();
        }
        (LogFormat::Text, text) => out.extend(text),
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn an_end_is_described_by_code_or_signal() {
        let with = |raw| describe(ExitStatus::from_raw(raw));
        assert_eq!(with(0), "has stopped");
        assert_eq!(with(9 << 8), "ended with exit code 9");
        assert_eq!(with(5 << 8), "ended with exit code 5 (its disk failed)");
        assert_eq!(with(9), "was ended by signal 9");
    }

    #[test]
    fn lines_name_their_broker_and_json_stays_json() {
        let text = labelled(2, LogFormat::Text, b"INFO ready");
        assert_eq!(text, b"broker 2 | INFO ready\n");
        for line in [&b"{\"level\":\"INFO\"}"[..], b"thread panicked: \"x\""] {
            let json = labelled(2, LogFormat::Json, line);
            let read: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
            assert_eq!(read["broker"], 2);
        }
    }
}
