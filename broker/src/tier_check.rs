//! `tier check`: checks what a cluster has in its bucket, and prints a report.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ropewalk_broker::clock;
use ropewalk_broker::settings::{Settings, TierSettings};
use ropewalk_tier::check::{CheckOptions, CheckProgress, CheckReport, check};
use ropewalk_tier::{Bucket, Claim, ClusterId, current_claim};
use serde_json::json;
use tracing::info;

use crate::config_file;
use crate::flags::{BucketFlags, TierCheck};
use crate::stop::Stop;

/// Time between two log lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs `tier check`.
///
/// # Errors
/// [`Stop::TierProblems`] when there are problems, other errors when the check could not be done.
pub(crate) async fn tier_check(flags: &TierCheck) -> Result<(), Stop> {
    let settings = bucket_settings(&flags.bucket)?;
    let bucket = Bucket::open(&settings.bucket)?;
    let claim = claim_of(&bucket).await?;
    let cluster = match &flags.cluster {
        Some(id) => ClusterId::new(id).map_err(|error| Stop::Usage(error.to_string()))?,
        None => claim.cluster.clone(),
    };
    let options = CheckOptions {
        quick: flags.quick,
        grace_ms: i64::try_from(settings.delete_grace.as_millis()).unwrap_or(i64::MAX),
        now_ms: clock::now_ms(),
    };
    let report = check(&bucket, &cluster, options, progress()).await?;
    let checked = Checked { bucket: bucket.url(), cluster: &cluster, claim: &claim, options };
    print!("{}", if flags.json { checked.to_json(&report) } else { checked.to_text(&report) });
    match report.problems_all() {
        0 => Ok(()),
        count => Err(Stop::TierProblems(format!("{}: problems found: {count}", bucket.url()))),
    }
}

/// The settings of the bucket that the flags name.
///
/// # Errors
/// When they name none, or its settings cannot be used.
pub(crate) fn bucket_settings(flags: &BucketFlags) -> Result<TierSettings, Stop> {
    let settings = all_settings(flags)?;
    let tier = settings.tier().map_err(|invalid| Stop::Settings(vec![invalid]))?;
    let nowhere =
        "the bucket is not named: give --from URL, or a --config FILE with ropewalk.tier.url";
    tier.ok_or_else(|| Stop::Usage(nowhere.into()))
}

/// The settings of the file and the flags together.
///
/// # Errors
/// When one of them is invalid.
pub(crate) fn all_settings(flags: &BucketFlags) -> Result<Settings, Stop> {
    let mut set = flags.set.clone();
    set.extend(flags.from.clone().map(|url| ("ropewalk.tier.url".to_owned(), url)));
    config_file::settings(flags.config.as_deref(), set)
}

/// Who owns the bucket.
///
/// # Errors
/// When it cannot be read, or no cluster has used it.
pub(crate) async fn claim_of(bucket: &Bucket) -> Result<Claim, Stop> {
    current_claim(bucket).await?.ok_or_else(|| {
        Stop::Usage(format!(
            "{}: no cluster has used this bucket and prefix: there is no claim in ropewalk.claims",
            bucket.url()
        ))
    })
}

/// Logs how far the check is, now and then.
fn progress() -> impl Fn(CheckProgress) {
    let logged = Cell::new(Instant::now());
    move |at| {
        if logged.get().elapsed() >= PROGRESS_INTERVAL {
            logged.set(Instant::now());
            info!(objects = at.objects, of = at.objects_all, "checking");
        }
    }
}

/// What was checked.
struct Checked<'a> {
    bucket: &'a str,
    cluster: &'a ClusterId,
    claim: &'a Claim,
    options: CheckOptions,
}

impl Checked<'_> {
    fn to_json(&self, report: &CheckReport) -> String {
        let whole = json!({
            "bucket": self.bucket,
            "cluster": self.cluster.as_str(),
            "claim": { "cluster": self.claim.cluster.as_str(), "epoch": self.claim.epoch },
            "quick": self.options.quick,
            "report": report,
        });
        format!("{whole:#}\n")
    }

    fn to_text(&self, report: &CheckReport) -> String {
        let Self { bucket, cluster, claim, options } = self;
        let mut text = format!("{bucket}: cluster {cluster}, claim {}\n", claim.epoch);
        let CheckReport { partitions, objects, objects_bytes, pages, checkpoints, .. } = report;
        let read = if options.quick { "footers only" } else { "all records" };
        let _ = writeln!(
            text,
            "partitions {partitions}, objects {objects} with {objects_bytes} bytes, pages {pages}, checkpoints {checkpoints}; \
             read: {read}"
        );
        let young_orphans = report.young_orphans;
        if young_orphans > 0 {
            let seconds = options.grace_ms / 1000;
            let _ = writeln!(
                text,
                "{young_orphans} objects that no manifest names are younger than {seconds} s, which is normal"
            );
        }
        for problem in &report.problems {
            let _ = writeln!(text, "{}: {}: {}", problem.kind, problem.name, problem.why);
        }
        let left_out = report.problems_all() - report.problems.len() as u64;
        if left_out > 0 {
            let _ = writeln!(text, "and {left_out} more problems");
        }
        let counts: Vec<String> =
            report.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        text += &match counts.is_empty() {
            true => "nothing is wrong\n".to_owned(),
            false => format!("problems: {}\n", counts.join(", ")),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use ropewalk_tier::{Content, hold_claim};

    use super::*;
    use crate::flags::{Command, Flags, Tier};

    fn flags(arguments: &[&str]) -> TierCheck {
        let all = ["ropewalk-broker", "tier", "check"].into_iter().chain(arguments.iter().copied());
        let parsed = Flags::try_parse_from(all).expect("they parse").command;
        let Command::Tier(Tier::Check(check)) = parsed else { panic!("{parsed:?}") };
        check
    }

    /// A directory as a bucket, claimed.
    async fn bucket(dir: &tempfile::TempDir) -> (String, Bucket) {
        let url = format!("file://{}", dir.path().display());
        let bucket =
            Bucket::open(&bucket_settings(&flags(&["--from", &url]).bucket).unwrap().bucket);
        (url, bucket.expect("it can be opened"))
    }

    #[tokio::test]
    async fn a_bucket_without_a_claim_cannot_be_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let (url, _) = bucket(&dir).await;
        let stop = tier_check(&flags(&["--from", &url])).await.expect_err("there is no claim");
        assert!(stop.to_string().contains("no cluster has used this bucket"), "{stop}");
        assert_eq!(stop.code(), 2);
    }

    #[tokio::test]
    async fn problems_and_a_clean_bucket_have_their_exit_codes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (url, bucket) = bucket(&dir).await;
        let cluster = ClusterId::new("one").expect("valid");
        let claim = Claim { cluster, epoch: 1, holder: 5 };
        hold_claim(&bucket, &claim).await.expect("it is empty");
        for more in [&[][..], &["--quick"], &["--json"], &["--cluster", "two"]] {
            let all: Vec<&str> = ["--from", &url].iter().chain(more).copied().collect();
            tier_check(&flags(&all)).await.expect("it is clean");
        }
        let content = Content::from(bytes::Bytes::from_static(b"notes"));
        bucket.put_if_absent("one/notes", &content).await.expect("it is put");
        let stop = tier_check(&flags(&["--from", &url])).await.expect_err("there is a problem");
        assert_eq!((stop.code(), stop.to_string().contains("problems found: 1")), (1, true));
    }

    #[test]
    fn the_report_names_every_problem() {
        use ropewalk_tier::check::{Problem, ProblemKind};
        let cluster = ClusterId::new("one").expect("valid");
        let claim = Claim { cluster: cluster.clone(), epoch: 3, holder: 5 };
        let options = CheckOptions { quick: true, grace_ms: 60_000, now_ms: 0 };
        let checked = Checked { bucket: "s3://b", cluster: &cluster, claim: &claim, options };
        let problem =
            Problem { kind: ProblemKind::Gap, name: "one/t/0".into(), why: "because".into() };
        let report = CheckReport {
            partitions: 1,
            young_orphans: 2,
            counts: [(ProblemKind::Gap, 5)].into(),
            problems: vec![problem],
            ..CheckReport::default()
        };
        assert_eq!(
            checked.to_text(&report),
            "s3://b: cluster one, claim 3\n\
             partitions 1, objects 0 with 0 bytes, pages 0, checkpoints 0; read: footers only\n\
             2 objects that no manifest names are younger than 60 s, which is normal\n\
             gap: one/t/0: because\n\
             and 4 more problems\n\
             problems: gap 5\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&checked.to_json(&report)).expect("it is JSON");
        assert_eq!(json["report"]["counts"]["gap"], 5);
        assert_eq!(json["report"]["problems"][0]["kind"], "gap");
        assert_eq!(json["claim"]["epoch"], 3);
    }

    #[test]
    fn without_a_bucket_the_flags_are_refused() {
        let all = ["ropewalk-broker", "tier", "check"];
        let error = Flags::try_parse_from(all).expect_err("no bucket").to_string();
        assert!(error.contains("--from <URL>") && error.contains("--config <FILE>"), "{error}");
    }
}
