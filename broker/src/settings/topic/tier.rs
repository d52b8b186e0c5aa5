//! The part of a topic's configuration that says what of it is in the bucket (KIP-405, KIP-950).
//!
//! Kafka's rules apply: remote data is kept with `remote.log.copy.disable=true`, and
//! `remote.storage.enable` becomes false only together with `remote.log.delete.on.disable=true`.

use ropewalk_segment::retention::Retention;

use super::TopicConfig;

/// What happens to the older records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierPolicy {
    /// They are uploaded to the bucket.
    Upload,
    /// No further ones are uploaded. Those in the bucket stay until retention removes them.
    Keep,
    /// Those in the bucket are removed.
    Discard,
}

/// The configuration of a topic's tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierConfig {
    /// The value of `remote.storage.enable`.
    pub is_enabled: bool,
    /// The value of `remote.log.copy.disable`.
    pub is_copy_disabled: bool,
    /// The value of `remote.log.delete.on.disable`.
    pub deletes_on_disable: bool,
    /// The value of `local.retention.ms`: -1 is no limit, -2 as `retention.ms`.
    pub local_retention_ms: i64,
    /// The value of `local.retention.bytes`: -1 is no limit, -2 as `retention.bytes`.
    pub local_retention_bytes: i64,
}

impl TierConfig {
    /// What happens to the older records.
    #[must_use]
    pub fn policy(&self) -> TierPolicy {
        match (self.is_enabled, self.is_copy_disabled, self.deletes_on_disable) {
            (true, false, _) => TierPolicy::Upload,
            (true, true, _) | (false, _, false) => TierPolicy::Keep,
            (false, _, true) => TierPolicy::Discard,
        }
    }
}

impl TopicConfig {
    /// How long the brokers keep records that are in the bucket.
    #[must_use]
    pub fn local_retention(&self) -> Retention {
        let total = self.retention();
        let own = |value: i64| u64::try_from(value).ok();
        Retention {
            retention_ms: match self.tier.local_retention_ms {
                -2 => total.retention_ms,
                ms => own(ms).map(|_| ms),
            },
            retention_bytes: match self.tier.local_retention_bytes {
                -2 => total.retention_bytes,
                bytes => own(bytes),
            },
        }
    }

    /// Checks the parts that depend on one another, of a topic that had the configuration `before`,
    /// at a broker that has a bucket or none.
    ///
    /// # Errors
    /// The reason in words for the client, as Kafka gives it where it has it.
    pub fn check_tier(&self, has_bucket: bool, before: Option<&Self>) -> Result<(), String> {
        let refuse = |key: &str, value: &str, why: &str| {
            Err(format!("Invalid value {value} for configuration {key}: {why}"))
        };
        let was_enabled = before.is_some_and(|before| before.tier.is_enabled);
        if !self.tier.is_enabled {
            return if was_enabled && !self.tier.deletes_on_disable {
                let why = "It is invalid to disable remote storage without deleting remote data. If you want to keep \
                           the remote data and turn to read only, please set `remote.storage.enable=true,\
                           remote.log.copy.disable=true`. If you want to disable remote storage and delete all remote \
                           data, please set `remote.storage.enable=false,remote.log.delete.on.disable=true`.";
                refuse("remote.storage.enable", "false", why)
            } else {
                Ok(())
            };
        }
        if !has_bucket && !was_enabled {
            let why =
                "Tiered storage is disabled in this broker: ropewalk.tier.url names no bucket";
            return refuse("remote.storage.enable", "true", why);
        }
        if self.compacts {
            let why = "Compacted topics are kept on the brokers; it needs cleanup.policy=delete";
            return refuse("remote.storage.enable", "true", why);
        }
        let total = self.retention();
        let bytes = total.retention_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let (ms, local_bytes) = (self.tier.local_retention_ms, self.tier.local_retention_bytes);
        check_local("ms", ms, total.retention_ms)?;
        check_local("bytes", local_bytes, bytes)
    }
}

/// Checks that local retention is not longer than the total one.
fn check_local(unit: &str, local: i64, total: Option<i64>) -> Result<(), String> {
    let Some(total) = total else { return Ok(()) };
    let why = match local {
        -1 => format!("Value must not be -1 as retention.{unit} value is set as {total}."),
        local if local > total => {
            format!("Value must not be more than property retention.{unit} value.")
        }
        _ => return Ok(()),
    };
    Err(format!("Invalid value {local} for configuration local.retention.{unit}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn config(pairs: &[(&str, &str)]) -> TopicConfig {
        let settings = Settings::new([]).expect("valid");
        TopicConfig::resolve(&settings, pairs.iter().copied())
    }

    const ON: (&str, &str) = ("remote.storage.enable", "true");

    #[test]
    fn the_policy_is_that_of_kafkas_three_keys() {
        let (copy, delete) =
            (("remote.log.copy.disable", "true"), ("remote.log.delete.on.disable", "true"));
        for (pairs, expected) in [
            (&[][..], TierPolicy::Keep),
            (&[ON], TierPolicy::Upload),
            (&[ON, delete], TierPolicy::Upload),
            (&[ON, copy], TierPolicy::Keep),
            (&[copy], TierPolicy::Keep),
            (&[delete], TierPolicy::Discard),
        ] {
            assert_eq!(config(pairs).tier.policy(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn local_retention_is_the_total_one_unless_it_is_set() {
        let retention = |ms, bytes| Retention { retention_ms: ms, retention_bytes: bytes };
        let total = [("retention.ms", "1000"), ("retention.bytes", "500")];
        assert_eq!(config(&total).local_retention(), retention(Some(1000), Some(500)));
        let [ms, bytes] = total;
        let own = [ms, bytes, ("local.retention.ms", "0"), ("local.retention.bytes", "-1")];
        assert_eq!(config(&own).local_retention(), retention(Some(0), None));
    }

    #[test]
    fn what_cannot_be_tiered_is_refused_with_a_reason() {
        let check = |pairs: &[(&str, &str)], has_bucket, before: &[(&str, &str)]| {
            let before = config(before);
            config(pairs).check_tier(has_bucket, Some(&before))
        };
        assert_eq!(check(&[ON], true, &[]), Ok(()));
        assert_eq!(check(&[], false, &[]), Ok(()));
        assert_eq!(check(&[ON], false, &[ON]), Ok(()), "it was on already");
        let delete = ("remote.log.delete.on.disable", "true");
        assert_eq!(check(&[delete], true, &[ON]), Ok(()));
        for (pairs, has_bucket, before, said) in [
            (&[ON][..], false, &[][..], "ropewalk.tier.url names no bucket"),
            (&[ON, ("cleanup.policy", "compact,delete")], true, &[ON], "Compacted topics"),
            (&[], true, &[ON], "without deleting remote data"),
            (&[ON, ("local.retention.ms", "-1")], true, &[], "must not be -1 as retention.ms"),
            (
                &[ON, ("retention.bytes", "5"), ("local.retention.bytes", "6")],
                true,
                &[],
                "must not be more than property retention.bytes",
            ),
        ] {
            let refused = check(pairs, has_bucket, before).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
    }
}
