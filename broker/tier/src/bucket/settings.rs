//! Where a bucket is, and how it is reached.

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::TierError;

/// Everything that is needed to open a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// What to open.
    pub url: BucketUrl,
    /// URL of the S3 service, such as `https://minio.example:9000`; `None` for AWS. With `http://`
    /// records cross the network unencrypted.
    pub endpoint: Option<String>,
    /// Region of the bucket; `None` for the one in the environment, or `us-east-1`.
    pub region: Option<String>,
    /// Where requests name the bucket.
    pub style: AddressStyle,
    /// How requests are signed.
    pub credentials: Credentials,
    /// A PEM file with the certificates of the authorities that may sign the endpoint's
    /// certificate, in addition to those of the system.
    pub ca_file: Option<PathBuf>,
}

impl BucketSettings {
    /// Settings with defaults: AWS or the directory in the URL, credentials of the environment.
    #[must_use]
    pub fn new(url: BucketUrl) -> Self {
        Self {
            url,
            endpoint: None,
            region: None,
            style: AddressStyle::Path,
            credentials: Credentials::Environment,
            ca_file: None,
        }
    }
}

/// A bucket and a prefix in it, or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketUrl {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// What all names begin with, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// `file:///DIRECTORY`, for one broker or a directory that all brokers share.
    Directory(PathBuf),
    /// `memory:`, for tests: nothing outlives the bucket and its clones.
    Memory,
}

impl FromStr for BucketUrl {
    type Err = TierError;

    fn from_str(url: &str) -> Result<Self, TierError> {
        let refuse = |why: &str| {
            let forms = "it must be s3://BUCKET/PREFIX or file:///DIRECTORY";
            Err(TierError::Settings(format!("{url:?} is no URL of a bucket: {why}{forms}")))
        };
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_end_matches('/');
            let is_bucket = (3..=63).contains(&bucket.len())
                && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !is_bucket {
                return refuse("a bucket has 3 to 63 letters, digits, dots and hyphens; ");
            }
            let is_part = |part: &str| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            };
            if !prefix.is_empty() && !prefix.split('/').all(is_part) {
                return refuse("a prefix has letters, digits, dots, hyphens and single slashes; ");
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        match url.strip_prefix("file://") {
            Some(path) if path.starts_with('/') && !path.contains('%') => {
                Ok(Self::Directory(PathBuf::from(path)))
            }
            Some(_) => refuse("the path is not absolute, or has an escape; "),
            None if url == "memory:" => Ok(Self::Memory),
            None => refuse(""),
        }
    }
}

impl std::fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// Where requests name the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressStyle {
    /// In the path: `https://ENDPOINT/BUCKET/NAME`. Most other makes of S3 need this.
    Path,
    /// In the host name: `https://BUCKET.ENDPOINT/NAME`.
    VirtualHost,
}

/// How requests are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// As AWS's tools do: `AWS_ACCESS_KEY_ID` and the like, a web identity
    /// (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`), or the container's or machine's role.
    Environment,
    /// Keys in files, such as a mounted Secret. The files are read again every
    /// [`crate::limits::KEYS_READ_AGAIN`], so keys can be replaced while a broker runs.
    Files {
        /// File with the access key.
        access_key: PathBuf,
        /// File with the secret key.
        secret_key: PathBuf,
        /// File with a session token, for temporary keys.
        session_token: Option<PathBuf>,
    },
    /// A web identity: a token in a file, such as a Kubernetes ServiceAccount's, is exchanged for
    /// temporary keys, again and again before they expire.
    WebIdentity {
        /// File with the token. It is read again for each exchange.
        token_file: PathBuf,
        /// The role to assume.
        role_arn: String,
        /// URL of the service that exchanges tokens; `None` for the one of AWS in the region. It
        /// must be `https://`.
        sts_endpoint: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_shown() {
        for url in ["s3://bucket", "s3://my.bucket-1/a/b.c", "file:///var/tier", "memory:"] {
            assert_eq!(url.parse::<BucketUrl>().unwrap().to_string(), url);
        }
        assert_eq!("s3://bucket/a/".parse::<BucketUrl>().unwrap().to_string(), "s3://bucket/a");
    }

    #[test]
    fn other_urls_are_refused_with_the_forms_that_are_accepted() {
        for url in ["", "bucket", "s3://", "s3://b", "s3://bucket//a", "s3://bucket/../a", "s3:/b"]
        {
            let refused = url.parse::<BucketUrl>().unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{url:?} is no URL of a bucket: ")), "{refused}");
            assert!(refused.ends_with("s3://BUCKET/PREFIX or file:///DIRECTORY"), "{refused}");
        }
        assert!("file://host/path".parse::<BucketUrl>().is_err());
        assert!("file:///a%20b".parse::<BucketUrl>().is_err());
    }
}
