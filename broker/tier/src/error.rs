//! Errors of a bucket, split by what the caller does next.

use object_store::Error as StoreError;

use crate::format::FormatError;

/// Longest answer of a store in an error, in characters.
const ANSWER_CHARS_MAX: usize = 600;

/// Why an operation on the bucket failed.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The settings of the bucket cannot be used.
    #[error("{0}")]
    Settings(String),

    /// No answer, or a temporary failure: it was tried several times. A put may have happened.
    #[error("{bucket} did not {operation} {name}: {reason}")]
    Unavailable {
        /// URL of the bucket.
        bucket: String,
        /// What was asked for.
        operation: Operation,
        /// Name below the prefix.
        name: String,
        /// The last failure.
        reason: String,
    },

    /// The store refuses the credentials, or they do not permit the operation.
    #[error(
        "{bucket} refused to {operation} {name}: {reason}. Check the credentials, and that they \
         permit to get, put, list and delete objects"
    )]
    Denied {
        /// URL of the bucket.
        bucket: String,
        /// What was asked for.
        operation: Operation,
        /// Name below the prefix.
        name: String,
        /// The store's answer.
        reason: String,
    },

    /// There is no object with this name.
    #[error("{bucket} has no object {name}")]
    Missing {
        /// URL of the bucket.
        bucket: String,
        /// Name below the prefix.
        name: String,
    },

    /// The name is taken by other content. A name contains a digest, so this is not what another
    /// upload of the same records leaves: the object is damaged, or something else wrote it.
    #[error(
        "{bucket} already has an object {name}, and its content is another one: it has {theirs}, \
         this broker has {ours}. Nothing was replaced. Find out what else writes to this bucket; \
         `tier check` examines the object"
    )]
    OtherContent {
        /// URL of the bucket.
        bucket: String,
        /// Name below the prefix.
        name: String,
        /// Size and SHA-256 that this broker wants to put.
        ours: String,
        /// Size and SHA-256 of the object in the bucket.
        theirs: String,
    },

    /// An object is damaged, or is not the one that its name says.
    #[error("{bucket}: {name}: {source}")]
    Damaged {
        /// URL of the bucket.
        bucket: String,
        /// Name below the prefix.
        name: String,
        /// What is wrong with it.
        source: FormatError,
    },

    /// The store cannot be used for tiering.
    #[error("{bucket} cannot be used: {reason}")]
    Unsuitable {
        /// URL of the bucket.
        bucket: String,
        /// What the store did, and what to do about it.
        reason: String,
    },

    /// The bucket cannot be used until a person changes something outside of the broker, which then
    /// needs no restart: the bucket is missing, or its certificate is not accepted.
    #[error("{bucket} cannot be used: {reason}")]
    Unready {
        /// URL of the bucket.
        bucket: String,
        /// What the store did, and what to do about it.
        reason: String,
    },

    /// Another cluster owns the bucket's prefix.
    #[error(
        "{bucket} belongs to cluster {owner} (claim {epoch}), and this is cluster {own}. Use \
         another bucket or prefix for each cluster; to continue that cluster from its bucket, \
         restore it"
    )]
    OtherCluster {
        /// URL of the bucket.
        bucket: String,
        /// The cluster that owns it.
        owner: String,
        /// The epoch of its claim.
        epoch: u32,
        /// The cluster of this broker.
        own: String,
    },

    /// The cluster was restored from the bucket, and the restored one owns it.
    #[error(
        "{bucket} was taken over by {claim}, and this broker has {own}: the cluster was restored \
         elsewhere. This one uploads and deletes nothing any more. Stop it, or restore it again \
         from the bucket if it is to be used"
    )]
    Fenced {
        /// URL of the bucket.
        bucket: String,
        /// The claim that counts.
        claim: String,
        /// The claim of this broker's cluster.
        own: String,
    },
}

/// What was asked of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Write a new object.
    Put,
    /// Read an object or a part of it.
    Get,
    /// Read size and metadata of an object.
    Head,
    /// List names and sizes.
    List,
    /// Delete an object.
    Delete,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// What the caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Try again later: the bucket is expected to work again.
    RetryLater,
    /// Report it until a person changes settings, permissions or the bucket, and try again at
    /// intervals of minutes.
    Report,
    /// Do not use this object; a scrubber or a restore decides about it.
    Object,
}

impl TierError {
    /// Whether there is no object with the name.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// A short name for metrics and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Unavailable { .. } => "unavailable",
            Self::Denied { .. } => "denied",
            Self::Missing { .. } => "missing",
            Self::OtherContent { .. } => "other_content",
            Self::Damaged { .. } => "damaged",
            Self::Unsuitable { .. } => "unsuitable",
            Self::Unready { .. } => "unready",
            Self::OtherCluster { .. } => "other_cluster",
            Self::Fenced { .. } => "fenced",
        }
    }

    /// What was asked of the bucket, if the failure is about a request.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        if let Self::Unavailable { operation, .. } | Self::Denied { operation, .. } = self {
            return Some(*operation);
        }
        None
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } => Remedy::RetryLater,
            Self::Settings(_)
            | Self::Denied { .. }
            | Self::Unsuitable { .. }
            | Self::Unready { .. }
            | Self::OtherCluster { .. }
            | Self::Fenced { .. } => Remedy::Report,
            Self::Missing { .. } | Self::OtherContent { .. } | Self::Damaged { .. } => {
                Remedy::Object
            }
        }
    }
}

/// What was done to which object, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) operation: Operation,
    pub(crate) name: &'a str,
}

impl Context<'_> {
    pub(crate) fn unavailable(self, reason: impl Into<String>) -> TierError {
        let (bucket, name) = (self.bucket.to_owned(), self.name.to_owned());
        TierError::Unavailable { bucket, operation: self.operation, name, reason: reason.into() }
    }

    fn denied(self, reason: String) -> TierError {
        let (bucket, name) = (self.bucket.to_owned(), self.name.to_owned());
        TierError::Denied { bucket, operation: self.operation, name, reason }
    }

    fn unready(self, reason: &str) -> TierError {
        TierError::Unready { bucket: self.bucket.to_owned(), reason: reason.to_owned() }
    }

    fn unsuitable(self, reason: &str) -> TierError {
        TierError::Unsuitable { bucket: self.bucket.to_owned(), reason: reason.to_owned() }
    }

    pub(crate) fn missing(self) -> TierError {
        TierError::Missing { bucket: self.bucket.to_owned(), name: self.name.to_owned() }
    }

    pub(crate) fn damaged(self, source: FormatError) -> TierError {
        let (bucket, name) = (self.bucket.to_owned(), self.name.to_owned());
        TierError::Damaged { bucket, name, source }
    }

    /// The error of a store. The library reports several of S3's errors only as text.
    pub(crate) fn failed(self, error: &StoreError) -> TierError {
        let said = causes(error);
        let says = |code: &str| said.contains(code);
        if says("NoSuchBucket") {
            return self.unready("the store has no bucket with this name. Create it first");
        }
        if says("RequestTimeTooSkewed") {
            return self.unready("its clock and the clock of this machine differ too much");
        }
        if says("without LOCATION") || says("AuthorizationHeaderMalformed") {
            return self.unready(
                "it is in another region than the settings say. Set the region of the bucket",
            );
        }
        if says("invalid peer certificate") {
            return self.unready(&format!(
                "its certificate is not accepted. Set the file with the authority that signed it, \
                 or the endpoint's name in the certificate: {}",
                shorten(&said)
            ));
        }
        if says("<Code>NotImplemented") {
            return self.unsuitable(&format!("it does not support a request: {}", shorten(&said)));
        }
        if ["AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId"]
            .iter()
            .any(|code| says(code))
        {
            return self.denied(shorten(&said));
        }
        if matches!(error, StoreError::NotFound { .. }) {
            return self.missing();
        }
        if matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
        {
            return self.denied(shorten(&said));
        }
        if matches!(error, StoreError::NotSupported { .. } | StoreError::NotImplemented { .. }) {
            return self.unsuitable(&shorten(&said));
        }
        self.unavailable(shorten(&said))
    }
}

/// The text of an error and of its causes, each once. The library's own text ends before the cause
/// of a failed connection.
fn causes(error: &StoreError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said += ": ";
            said += &text;
        }
        cause = error.source();
    }
    said
}

/// The answer of a store in one line of bounded length.
fn shorten(said: &str) -> String {
    let mut line: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = line.char_indices().nth(ANSWER_CHARS_MAX) {
        line.truncate(at);
        line.push('…');
    }
    line
}
