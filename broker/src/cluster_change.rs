//! `cluster drain`, `prepare-restart`, `admit` and `remove`: operations on one broker over the
//! admin API of any.
//!
//! They use the newest fencing epoch that the asked broker knows and claim none, so that an
//! operator that has claimed it continues.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow, bail};
use ropewalk_broker::admin::client::{Answer, Client};
use ropewalk_broker::admin::cluster::report::BrokerProgress;
use ropewalk_broker::admin::shard_reason::ShardReason;
use ropewalk_broker::settings::Endpoint;
use serde_json::{Value, json};

use crate::flags::{Cluster, ClusterChange};
use crate::stop::Stop;

/// Most shards that are printed.
const SHARDS_SHOWN_MAX: usize = 30;

/// Carries the command out. Returns what is printed.
///
/// # Errors
/// When the broker does not answer, or refuses.
pub(crate) async fn change(command: &Cluster) -> Result<String, Stop> {
    let (flags, call) = match command {
        Cluster::Drain(flags) => {
            let body = json!({ "acceptFewerReplicas": flags.accept_fewer_replicas });
            (&flags.change, Call::Post("drain", body))
        }
        Cluster::PrepareRestart(flags) => {
            let body = json!({ "deadlineSeconds": flags.deadline_seconds });
            (&flags.change, Call::Post("prepare-restart", body))
        }
        Cluster::Admit(flags) => (flags, Call::Post("admit", json!({}))),
        Cluster::Remove(flags) => (flags, Call::Delete),
        Cluster::Status(_) => unreachable!("it is another command"),
    };
    Ok(ask(flags, call).await?)
}

/// The call of the admin API.
enum Call {
    Post(&'static str, Value),
    Delete,
}

async fn ask(flags: &ClusterChange, call: Call) -> anyhow::Result<String> {
    let endpoint = Endpoint::parse(&flags.admin).expect("checked with the flags");
    let token = flags.token_file.as_ref().map(|file| {
        let text = std::fs::read_to_string(file);
        text.map(|text| text.trim().to_owned()).with_context(|| file.display().to_string())
    });
    let client = Client::new(endpoint.clone(), token.transpose()?);
    let asked = client.get("/v1/broker").await;
    let about = asked.context("no broker answers; --admin names its admin server")?;
    let epoch = about.body["epoch"].as_u64();
    let epoch = epoch.ok_or_else(|| anyhow!("{endpoint} is no broker: {}", about.error()))?;
    let client = client.under(epoch);
    let path = format!("/v1/cluster/brokers/{}", flags.id);
    let answer = match &call {
        Call::Post(operation, body) => client.post(&format!("{path}/{operation}"), body).await?,
        Call::Delete => client.delete(&path).await?,
    };
    if answer.status != 200 {
        bail!("{endpoint}: {}", refusal(&answer));
    }
    if flags.json {
        return Ok(format!("{:#}\n", answer.body));
    }
    match call {
        Call::Delete => Ok(format!("Broker {} is removed from the cluster\n", flags.id)),
        Call::Post(..) => {
            let progress = serde_json::from_value(answer.body).with_context(|| {
                format!("{endpoint} is a broker of another version; --json shows its answer")
            })?;
            Ok(shown(&progress))
        }
    }
}

/// The sentence of a refusal, and the shards that are in the way.
fn refusal(answer: &Answer) -> String {
    let shards = serde_json::from_value::<Vec<ShardReason>>(answer.body["shards"].clone());
    answer.error() + "\n" + &lines(&shards.unwrap_or_default())
}

fn shown(progress: &BrokerProgress) -> String {
    let BrokerProgress { id, message, shards, .. } = progress;
    let mut text = format!("Broker {id}: {message}\n");
    if let Some(bytes) = progress.bytes {
        let _ = writeln!(text, "{bytes} bytes of records are left");
    }
    text + &lines(shards)
}

/// A line for each shard, the first few of many.
fn lines(shards: &[ShardReason]) -> String {
    let mut text = String::new();
    for ShardReason { shard, reason, message, .. } in shards.iter().take(SHARDS_SHOWN_MAX) {
        let _ = writeln!(text, "  shard {shard}: {message} ({reason})");
    }
    if shards.len() > SHARDS_SHOWN_MAX {
        let _ = writeln!(text, "  and {} more", shards.len() - SHARDS_SHOWN_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(shard: u32) -> ShardReason {
        let (reason, message) = ("Waits".to_owned(), "it waits".to_owned());
        ShardReason { shard, reason, message, bytes: None }
    }

    #[test]
    fn what_is_left_is_shown_with_its_reasons() {
        let progress = BrokerProgress {
            id: 2,
            message: "3 replicas are left on it".into(),
            bytes: Some(77),
            shards: (0..40).map(reason).collect(),
            ..Default::default()
        };
        let text = shown(&progress);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Broker 2: 3 replicas are left on it");
        assert_eq!(lines[1], "77 bytes of records are left");
        assert_eq!(lines[2], "  shard 0: it waits (Waits)");
        assert_eq!(lines.last(), Some(&"  and 10 more"));
        let done = BrokerProgress { id: 2, message: "it serves".into(), ..Default::default() };
        assert_eq!(shown(&done), "Broker 2: it serves\n");
    }

    #[test]
    fn a_refusal_names_the_shards_that_are_in_the_way() {
        let body = json!({ "reason": "X", "error": "not now", "shards": [reason(4)] });
        let text = refusal(&Answer { status: 409, body });
        assert_eq!(text, "not now\n  shard 4: it waits (Waits)\n");
        let plain = Answer { status: 409, body: json!({ "reason": "X", "error": "no" }) };
        assert_eq!(refusal(&plain), "no\n");
    }
}
