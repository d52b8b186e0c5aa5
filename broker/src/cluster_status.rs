//! `cluster status`: the brokers and shards of a cluster as tables, asked from one broker.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use ropewalk_broker::admin::client::Client;
use ropewalk_broker::admin::cluster::report::{
    BrokerReport, ClusterReport, ReplicaReport, ShardReport,
};
use ropewalk_broker::settings::Endpoint;

use crate::flags::ClusterStatus;
use crate::stop::Stop;

/// What is printed.
///
/// # Errors
/// When the broker does not answer, or not as a broker.
pub(crate) async fn status(flags: &ClusterStatus) -> Result<String, Stop> {
    let endpoint = Endpoint::parse(&flags.admin).expect("checked with the flags");
    Ok(ask(endpoint, flags.json).await?)
}

async fn ask(endpoint: Endpoint, is_json: bool) -> anyhow::Result<String> {
    let answer = Client::new(endpoint.clone(), None).get("/v1/cluster").await;
    let answer = answer.context("no broker answers; --admin names its admin server")?;
    if answer.status != 200 {
        bail!("{endpoint}: {}", answer.error());
    }
    if is_json {
        return Ok(format!("{:#}\n", answer.body));
    }
    let report: ClusterReport = serde_json::from_value(answer.body).with_context(|| {
        format!("{endpoint} is a broker of another version; --json shows its answer")
    })?;
    Ok(shown(&report))
}

/// The report as two tables, and what is wrong below them.
fn shown(report: &ClusterReport) -> String {
    let mut brokers =
        vec![["BROKER", "STATE", "LEADS", "REPLICAS", "RACK", "KAFKA", "ADMIN"].map(String::from)];
    for broker in &report.brokers {
        let kafka: Vec<&str> = broker.endpoints.values().map(String::as_str).collect();
        brokers.push([
            broker.id.to_string(),
            state(broker),
            broker.leads.to_string(),
            broker.replicas.to_string(),
            broker.rack.clone().unwrap_or_else(dash),
            if kafka.is_empty() { dash() } else { kafka.join(",") },
            broker.admin.clone().unwrap_or_else(dash),
        ]);
    }
    let mut shards = vec![["SHARD", "LEADER", "TERM", "REPLICAS"].map(String::from)];
    for shard in &report.shards {
        let replicas: Vec<String> = shard.replicas.iter().map(replica).collect();
        shards.push([
            if shard.shard == 0 { "catalog".to_owned() } else { shard.shard.to_string() },
            shard.leader.map_or_else(dash, |leader| leader.to_string()),
            shard.term.map_or_else(dash, |term| term.to_string()),
            replicas.join("  "),
        ]);
    }
    let mut text = format!("Cluster {}, as broker {} sees it\n\n", report.cluster_id, report.asked);
    text += &table(&brokers);
    text.push('\n');
    text += &table(&shards);
    let without = report.shards.iter().filter(|shard| shard.leader.is_none()).count();
    if without > 0 {
        let _ = writeln!(
            text,
            "\n{without} shards have no leader: their records can be neither read nor written"
        );
    }
    let few = report.shards.iter().filter(|shard| is_reduced(report, shard)).count();
    if few > 0 {
        let _ = writeln!(text, "\n{few} shards have replicas that are down or not caught up");
    }
    text
}

/// `up`, `down`, `draining`, `down, restarting`, `up, slow disk`.
fn state(broker: &BrokerReport) -> String {
    let mut words = vec![if broker.alive { "up" } else { "down" }];
    match broker.standing.as_str() {
        "Draining" => words.push("draining"),
        "Restarting" => words.push("restarting"),
        _ => {}
    }
    if broker.slow_disk {
        words.push("slow or full disk");
    }
    words.join(", ")
}

/// `2 voter`, `3 learner +120`: the broker, the role, and how many entries it lacks.
fn replica(replica: &ReplicaReport) -> String {
    let mut text = format!("{} {}", replica.broker, replica.role.to_lowercase());
    if replica.role == "Voter" && replica.votes == Some(false) {
        text += " (not yet)";
    }
    if let Some(lag @ 1..) = replica.lag {
        let _ = write!(text, " +{lag}");
    }
    text
}

fn is_reduced(report: &ClusterReport, shard: &ShardReport) -> bool {
    let is_down = |id: i32| report.brokers.iter().any(|broker| broker.id == id && !broker.alive);
    shard.replicas.iter().any(|replica| is_down(replica.broker) || replica.votes == Some(false))
}

fn dash() -> String {
    "-".to_owned()
}

/// Columns are as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn broker(id: i32, alive: bool) -> BrokerReport {
        let kafka = BTreeMap::from([("PLAINTEXT".to_owned(), format!("127.0.0.1:909{id}"))]);
        BrokerReport { id, alive, endpoints: kafka, leads: 1, replicas: 2, ..Default::default() }
    }

    #[test]
    fn what_is_down_and_what_lags_is_shown() {
        let replica = |replica, broker, role: &str, votes, lag| ReplicaReport {
            replica,
            broker,
            role: role.to_owned(),
            votes,
            caught_up: votes,
            lag,
        };
        let of_1 = vec![
            replica(1, 1, "Voter", Some(true), Some(0)),
            replica(2, 2, "Voter", Some(false), Some(7)),
            replica(3, 3, "Learner", None, None),
        ];
        let report = ClusterReport {
            cluster_id: "c".into(),
            asked: 1,
            brokers: vec![broker(1, true), broker(2, false)],
            shards: vec![
                ShardReport {
                    shard: 0,
                    leader: Some(1),
                    term: Some(12),
                    replicas: of_1,
                    ..Default::default()
                },
                ShardReport { shard: 1, ..Default::default() },
            ],
        };
        let text = shown(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Cluster c, as broker 1 sees it");
        assert_eq!(lines[2], "BROKER  STATE  LEADS  REPLICAS  RACK  KAFKA           ADMIN");
        assert_eq!(lines[4], "2       down   1      2         -     127.0.0.1:9092  -");
        assert_eq!(lines[7], "catalog  1       12    1 voter  2 voter (not yet) +7  3 learner");
        assert_eq!(lines[8], "1        -       -");
        assert!(
            text.contains("1 shards have no leader")
                && text.contains("1 shards have replicas that")
        );
    }

    #[test]
    fn the_state_of_a_broker_says_what_is_done_to_it() {
        let of = |alive, standing: &str, slow_disk| {
            let standing = standing.to_owned();
            state(&BrokerReport { standing, slow_disk, ..broker(1, alive) })
        };
        assert_eq!(of(true, "Serving", false), "up");
        assert_eq!(of(true, "NotRestarted", false), "up");
        assert_eq!(of(true, "Draining", true), "up, draining, slow or full disk");
        assert_eq!(of(false, "Restarting", false), "down, restarting");
    }

    #[tokio::test]
    async fn a_broker_that_does_not_answer_is_an_error_with_the_address() {
        let flags = ClusterStatus { admin: "127.0.0.1:1".into(), json: false };
        let stop = status(&flags).await.expect_err("no broker listens");
        let text = stop.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("--admin"), "{text}");
    }
}
