//! The settings of the bucket for older records.
//!
//! Without `ropewalk.tier.url` all records stay on the brokers, and no other key of the tier may be
//! set: a broker that is half configured would upload nothing without saying so.

use std::path::PathBuf;
use std::time::Duration;

use ropewalk_tier::{AddressStyle, BucketSettings, BucketUrl, Credentials, TierError};

use super::key::{Key, Kind, Valid};
use super::{Invalid, Settings};

const URL: &str = "ropewalk.tier.url";
const ENDPOINT: &str = "ropewalk.tier.endpoint";
const REGION: &str = "ropewalk.tier.region";
const ACCESS_KEY: &str = "ropewalk.tier.access.key.id.file";
const SECRET_KEY: &str = "ropewalk.tier.secret.access.key.file";
const CA: &str = "ropewalk.tier.ca.file";
const PATH_STYLE: &str = "ropewalk.tier.path.style";
const OBJECT_BYTES: &str = "ropewalk.tier.object.bytes";
const AGE: &str = "ropewalk.tier.upload.max.age.ms";
const CACHE_BYTES: &str = "ropewalk.tier.cache.bytes";
const GRACE: &str = "ropewalk.tier.delete.grace.ms";
const CHECKPOINTS: &str = "ropewalk.tier.checkpoint.interval.ms";
const ORPHANS: &str = "ropewalk.tier.orphan.check.interval.ms";

/// Most bytes of records that an object may be planned for: an upload holds them in memory.
const OBJECT_BYTES_MAX: i64 = 128 << 20;

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key::new(name, kind, Some(default))
}

const fn unset(name: &'static str) -> Key {
    Key::new(name, Kind::String, None)
}

pub(super) static KEYS: &[Key] = &[
    unset(URL).doc(
        "The bucket for older records, s3://BUCKET/PREFIX or file:///DIRECTORY; topics with \
         remote.storage.enable move records there. Without it all records stay on the brokers.",
    ),
    unset(ENDPOINT).doc("The URL of an S3 service other than AWS, such as https://minio.example:9000."),
    unset(REGION).doc("The region of the bucket; else the one in AWS_REGION, or us-east-1."),
    unset(ACCESS_KEY).doc(
        "A file with the access key. It is read again when it changes. Without it, keys come from \
         the environment as for AWS's tools, a web identity included.",
    ),
    unset(SECRET_KEY).doc("A file with the secret key of the access key."),
    unset(CA).doc(
        "A PEM file with the certificates of the authorities that sign the endpoint's certificate.",
    ),
    key(PATH_STYLE, Kind::Boolean, "true").doc(
        "Whether requests name the bucket in the path, as most S3 services need, or in the host name.",
    ),
    key(OBJECT_BYTES, Kind::Long, "67108864")
        .valid(Valid::Between(1 << 20, OBJECT_BYTES_MAX))
        .doc("The size of the records that are uploaded as one object, bytes."),
    key(AGE, Kind::Long, "3600000").valid(Valid::AtLeast(1)).doc(
        "The longest time that a record waits until it is uploaded, also if its object stays small: \
         a quiet partition makes at most one object in this time.",
    ),
    key(CACHE_BYTES, Kind::Long, "67108864")
        .valid(Valid::AtLeast(8 << 20))
        .doc("Memory for records that were read from the bucket, bytes."),
    key(GRACE, Kind::Long, "3600000").valid(Valid::AtLeast(0)).doc(
        "How long an object stays in the bucket after retention removed its records: the time that \
         a read in progress has.",
    ),
    key(CHECKPOINTS, Kind::Long, "60000").valid(Valid::AtLeast(1)).doc(
        "How often the offsets of groups and the manifests of partitions are written to the bucket, \
         if they changed: what a restore has of them is at most as old. Topics are written at once.",
    ),
    key(ORPHANS, Kind::Long, "86400000").valid(Valid::AtLeast(1)).doc(
        "How often the bucket is searched for objects that no manifest names, such as those of an \
         upload that its leader did not complete. They are deleted after \
         ropewalk.tier.delete.grace.ms.",
    ),
];

/// The bucket, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierSettings {
    /// Where the bucket is, and how it is reached.
    pub bucket: BucketSettings,
    /// Size of the records that are uploaded as one object, bytes.
    pub object_bytes: u64,
    /// The longest time that a record waits until it is uploaded.
    pub upload_age_max: Duration,
    /// Memory for records that were read from the bucket, bytes.
    pub cache_bytes: u64,
    /// How long a dropped object stays in the bucket.
    pub delete_grace: Duration,
    /// Between two checkpoints of a shard in the bucket.
    pub checkpoint_interval: Duration,
    /// Between two searches for objects that no manifest names.
    pub orphan_check_interval: Duration,
}

impl Settings {
    /// The bucket for older records; `None` for a broker without one.
    ///
    /// # Errors
    /// When a value is malformed, or a key of the tier is set without what it needs.
    pub fn tier(&self) -> Result<Option<TierSettings>, Invalid> {
        let Some(text) = self.filled(URL) else {
            let is_set = |name| self.set(name).filter(|value| !value.trim().is_empty());
            return match KEYS.iter().find_map(|key| Some((key.name, is_set(key.name)?))) {
                Some((name, value)) => {
                    let why = format!("It has an effect only with {URL}: set that too");
                    Err(Invalid::value(name, &value, why))
                }
                None => Ok(None),
            };
        };
        let refuse = |why: String| Invalid::value(URL, &text, why);
        let url: BucketUrl = text.parse().map_err(|error: TierError| refuse(error.to_string()))?;
        if url == BucketUrl::Memory {
            let why = "A bucket in memory would lose records with the next restart";
            return Err(refuse(why.into()));
        }
        let style =
            if self.boolean(PATH_STYLE) { AddressStyle::Path } else { AddressStyle::VirtualHost };
        let bucket = BucketSettings {
            endpoint: self.filled(ENDPOINT),
            region: self.filled(REGION),
            style,
            credentials: self.credentials()?,
            ca_file: self.filled(CA).map(PathBuf::from),
            ..BucketSettings::new(url)
        };
        let bytes = |name| u64::try_from(self.long(name)).unwrap_or(0);
        Ok(Some(TierSettings {
            bucket,
            object_bytes: bytes(OBJECT_BYTES),
            upload_age_max: self.millis(AGE),
            cache_bytes: bytes(CACHE_BYTES),
            delete_grace: self.millis(GRACE),
            checkpoint_interval: self.millis(CHECKPOINTS),
            orphan_check_interval: self.millis(ORPHANS),
        }))
    }

    fn credentials(&self) -> Result<Credentials, Invalid> {
        match (self.filled(ACCESS_KEY), self.filled(SECRET_KEY)) {
            (None, None) => Ok(Credentials::Environment),
            (Some(access), Some(secret)) => Ok(Credentials::Files {
                access_key: access.into(),
                secret_key: secret.into(),
                session_token: None,
            }),
            (Some(access), None) => Err(needs(ACCESS_KEY, &access, SECRET_KEY)),
            (None, Some(secret)) => Err(needs(SECRET_KEY, &secret, ACCESS_KEY)),
        }
    }
}

fn needs(name: &str, value: &str, other: &str) -> Invalid {
    Invalid::value(name, value, format!("{other} is needed as well"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::new(pairs).map_err(|wrong| wrong[0].to_string())
    }

    fn tier(pairs: &[(&str, &str)]) -> TierSettings {
        settings(pairs).expect("valid").tier().expect("valid").expect("it has a bucket")
    }

    #[test]
    fn without_a_url_there_is_no_tier() {
        assert_eq!(settings(&[]).expect("valid").tier(), Ok(None));
        assert_eq!(settings(&[(URL, " ")]).expect("valid").tier(), Ok(None));
    }

    #[test]
    fn a_directory_has_kafkas_kind_of_defaults() {
        let tier = tier(&[(URL, "file:///var/tier")]);
        assert_eq!(tier.bucket, BucketSettings::new(BucketUrl::Directory("/var/tier".into())));
        assert_eq!((tier.object_bytes, tier.cache_bytes), (64 << 20, 64 << 20));
        let hour = Duration::from_secs(3600);
        assert_eq!((tier.upload_age_max, tier.delete_grace), (hour, hour));
        let (minute, day) = (Duration::from_secs(60), 24 * hour);
        assert_eq!((tier.checkpoint_interval, tier.orphan_check_interval), (minute, day));
    }

    #[test]
    fn a_service_with_keys_in_files_is_read() {
        let tier = tier(&[
            (URL, "s3://bucket/prefix"),
            (ENDPOINT, "https://minio.example:9000"),
            (REGION, "eu-central-1"),
            (ACCESS_KEY, "/keys/access"),
            (SECRET_KEY, "/keys/secret"),
            (CA, "/keys/ca.pem"),
            (PATH_STYLE, "false"),
            (OBJECT_BYTES, "1048576"),
            (AGE, "5"),
        ]);
        let expected = BucketSettings {
            url: "s3://bucket/prefix".parse().expect("valid"),
            endpoint: Some("https://minio.example:9000".into()),
            region: Some("eu-central-1".into()),
            style: AddressStyle::VirtualHost,
            credentials: Credentials::Files {
                access_key: "/keys/access".into(),
                secret_key: "/keys/secret".into(),
                session_token: None,
            },
            ca_file: Some("/keys/ca.pem".into()),
        };
        assert_eq!(tier.bucket, expected);
        assert_eq!((tier.object_bytes, tier.upload_age_max), (1 << 20, Duration::from_millis(5)));
    }

    #[test]
    fn half_a_tier_is_refused_with_what_is_missing() {
        for (pairs, said) in [
            (&[(REGION, "eu")][..], "only with ropewalk.tier.url"),
            (&[(URL, "bucket")], "s3://BUCKET/PREFIX or file:///DIRECTORY"),
            (&[(URL, "memory:")], "would lose records"),
            (&[(URL, "s3://bucket"), (ACCESS_KEY, "/a")], "secret.access.key.file is needed"),
            (&[(URL, "s3://bucket"), (SECRET_KEY, "/a")], "access.key.id.file is needed"),
            (&[(URL, "s3://bucket"), (OBJECT_BYTES, "1")], "must be at least 1048576"),
        ] {
            let refused = settings(pairs).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
    }
}
