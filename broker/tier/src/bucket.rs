//! A bucket: what is put into it is never replaced, what is read from it has the asked length.
//!
//! Every operation has a time limit that grows with the bytes that it moves, and is tried
//! [`limits::ATTEMPTS_MAX`] times when the store is unavailable, with pauses that grow. Then the
//! caller decides: see [`TierError::remedy`].
//!
//! # Put
//!
//! [`Bucket::put_if_absent`] is conditional (`If-None-Match: *`), so that two leaders never replace
//! each other's objects. Its answer can be lost, and the next attempt, or the next leader with the
//! same records, then finds the name taken. In this case the object's size and SHA-256 are
//! compared: equal content is success, other content is an error. After each put, size and SHA-256
//! of the object are read back. The SHA-256 is in the object's metadata; a store without metadata,
//! like a directory, has its content read.
//!
//! # A directory
//!
//! A put is durable when it returns: file and directories are synced, also if the file was there
//! before. A crash can leave files called `NAME#NUMBER`, which are in no list.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload,
};

use crate::content::{self, Content};
use crate::error::{Context, Operation, TierError};
use crate::format::FormatError;
use crate::limits;

mod open;
mod settings;
mod tally;

pub use settings::{AddressStyle, BucketSettings, BucketUrl, Credentials};
pub use tally::BucketCounts;

use tally::Tally;

/// Metadata of an object with the SHA-256 of its content, 64 hexadecimal digits.
const SHA256_KEY: &str = "ropewalk-sha256";

/// A bucket and a prefix in it. Clones share connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    /// The directory, if this is none of S3's.
    directory: Option<PathBuf>,
    tally: Tally,
}

/// How an object came to be in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// This put created it.
    Created,
    /// It was there already, with the same content: an earlier attempt, or another leader with the
    /// same records, put it.
    AlreadyThere,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name below the bucket's prefix.
    pub name: String,
    /// Size of the object.
    pub size_bytes: u64,
    /// When the store received the object, Unix milliseconds by the store's clock.
    pub modified_ms: i64,
}

/// What an object is, compared with some content.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Comparison {
    Equal,
    Missing,
    Other(String),
}

impl Bucket {
    /// Opens a bucket. Nothing is sent yet; [`crate::probe()`] examines what the store can do.
    ///
    /// # Errors
    /// When the settings cannot be used: a file that cannot be read, a bad endpoint.
    pub fn open(settings: &BucketSettings) -> Result<Self, TierError> {
        let store = open::open(settings)?;
        let (prefix, directory) = match &settings.url {
            BucketUrl::S3 { prefix, .. } => (Path::from(prefix.as_str()), None),
            BucketUrl::Directory(path) => (Path::default(), Some(path.clone())),
            BucketUrl::Memory => (Path::default(), None),
        };
        if settings.endpoint.as_deref().is_some_and(|url| url.starts_with("http://")) {
            tracing::warn!(bucket = %settings.url, "records are sent to the bucket unencrypted");
        }
        Ok(Self::new(store, prefix, settings.url.to_string(), directory))
    }

    /// An empty bucket in memory, for tests. Its clones share the objects.
    #[must_use]
    pub fn memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()))
    }

    /// A bucket on any store, for tests of faults.
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self::new(store, Path::default(), BucketUrl::Memory.to_string(), None)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        url: String,
        directory: Option<PathBuf>,
    ) -> Self {
        let tally = Tally::default();
        Self { shared: Arc::new(Shared { store, prefix, url, directory, tally }) }
    }

    /// The URL, for logs and errors.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Requests and bytes since the bucket was opened.
    #[must_use]
    pub fn counts(&self) -> BucketCounts {
        self.shared.tally.counts()
    }

    /// Puts an object, unless it is there already; see the head of this module.
    ///
    /// # Errors
    /// [`TierError::OtherContent`] when the name is taken by other content. After
    /// [`TierError::Unavailable`] the object may be there, now or later: the caller puts the same
    /// content again.
    #[tracing::instrument(level = "debug", skip_all, fields(bucket = self.url(), name))]
    pub async fn put_if_absent(
        &self,
        name: &str,
        content: &Content,
    ) -> Result<PutOutcome, TierError> {
        let context = self.context(Operation::Put, name);
        let mut attempts = Attempts::default();
        loop {
            let error = match self.create(name, content).await {
                Ok(is_created) => match self.compare(name, content).await? {
                    Comparison::Equal if is_created => return Ok(PutOutcome::Created),
                    Comparison::Equal => {
                        self.sync(name).await?;
                        return Ok(PutOutcome::AlreadyThere);
                    }
                    Comparison::Other(theirs) => return Err(self.other(name, content, theirs)),
                    // S3 answers 409 to puts of one name at the same time, also if none succeeds.
                    Comparison::Missing => {
                        context.unavailable("the object is not there afterwards")
                    }
                },
                Err(error) => error,
            };
            attempts.pause_after(error, &self.shared.tally).await?;
        }
    }

    /// One conditional put. Returns whether it created the object, or the name was taken.
    pub(crate) async fn create(&self, name: &str, content: &Content) -> Result<bool, TierError> {
        let context = self.context(Operation::Put, name);
        let payload: PutPayload = content.pieces().iter().cloned().collect();
        let mut attributes = Attributes::new();
        if self.shared.directory.is_none() {
            let digest = content::hex(&content.sha256());
            attributes.insert(Attribute::Metadata(SHA256_KEY.into()), digest.into());
        }
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        let path = self.path(name);
        self.shared.tally.put(content.size_bytes());
        let put = self.shared.store.put_opts(&path, payload, options);
        match limited(put, time_limit(content.size_bytes())).await {
            None => Err(context.unavailable(late(content.size_bytes()))),
            Some(Ok(_)) => Ok(true),
            Some(Err(StoreError::AlreadyExists { .. })) => Ok(false),
            Some(Err(error)) => Err(context.failed(&error)),
        }
    }

    fn other(&self, name: &str, content: &Content, theirs: String) -> TierError {
        let ours = shown(content.size_bytes(), &content::hex(&content.sha256()));
        let (bucket, name) = (self.url().to_owned(), name.to_owned());
        TierError::OtherContent { bucket, name, ours, theirs }
    }

    async fn compare(&self, name: &str, content: &Content) -> Result<Comparison, TierError> {
        let Some((size_bytes, digest)) = self.head(name).await? else {
            return Ok(Comparison::Missing);
        };
        if size_bytes != content.size_bytes() {
            return Ok(Comparison::Other(shown(size_bytes, &digest.unwrap_or_default())));
        }
        let ours = content::hex(&content.sha256());
        let theirs = match digest {
            Some(digest) => digest,
            None => {
                let bytes = self.get(name, size_bytes).await?;
                content::hex(&content::sha256([&bytes[..]]))
            }
        };
        if theirs == ours {
            return Ok(Comparison::Equal);
        }
        Ok(Comparison::Other(shown(size_bytes, &theirs)))
    }

    /// Size of an object in bytes; `None` if there is none.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn size_bytes(&self, name: &str) -> Result<Option<u64>, TierError> {
        Ok(self.head(name).await?.map(|(size_bytes, _)| size_bytes))
    }

    /// Size and the SHA-256 in the metadata.
    pub(crate) async fn head(
        &self,
        name: &str,
    ) -> Result<Option<(u64, Option<String>)>, TierError> {
        let context = self.context(Operation::Head, name);
        let path = self.path(name);
        let mut attempts = Attempts::default();
        loop {
            self.shared.tally.head();
            let options = GetOptions { head: true, ..GetOptions::default() };
            let head = self.shared.store.get_opts(&path, options);
            let error = match limited(head, time_limit(0)).await {
                Some(Ok(found)) => {
                    let key = Attribute::Metadata(SHA256_KEY.into());
                    let digest = found.attributes.get(&key).map(|digest| digest.to_string());
                    return Ok(Some((found.meta.size, digest)));
                }
                Some(Err(error)) => context.failed(&error),
                None => context.unavailable(late(0)),
            };
            if error.is_missing() {
                return Ok(None);
            }
            attempts.pause_after(error, &self.shared.tally).await?;
        }
    }

    /// A whole object of at most `bytes_max`.
    ///
    /// # Errors
    /// [`TierError::Missing`] when there is none; [`TierError::Damaged`] when it is larger.
    pub async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, TierError> {
        self.read(name, None, bytes_max).await
    }

    /// A range of an object: exactly its bytes.
    ///
    /// # Errors
    /// [`TierError::Missing`] when there is no object, [`TierError::Damaged`] when the range is not
    /// inside it, [`TierError::Unavailable`] also when the answer is truncated each time.
    ///
    /// # Panics
    /// When the range is empty.
    #[tracing::instrument(level = "debug", skip_all, fields(bucket = self.url(), name, ?range))]
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, TierError> {
        assert!(range.start < range.end, "an empty range has no request");
        let length = range.end - range.start;
        self.read(name, Some(range), length).await
    }

    async fn read(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        bytes_max: u64,
    ) -> Result<Bytes, TierError> {
        let context = self.context(Operation::Get, name);
        let mut attempts = Attempts::default();
        loop {
            self.shared.tally.get();
            let read = self.read_once(context, range.clone(), bytes_max);
            let error = match limited(read, time_limit(bytes_max)).await {
                Some(Ok(bytes)) => {
                    self.shared.tally.read(bytes.len() as u64);
                    return Ok(bytes);
                }
                Some(Err(error)) => error,
                None => context.unavailable(late(bytes_max)),
            };
            attempts.pause_after(error, &self.shared.tally).await?;
        }
    }

    async fn read_once(
        &self,
        context: Context<'_>,
        range: Option<Range<u64>>,
        bytes_max: u64,
    ) -> Result<Bytes, TierError> {
        let expected = range.as_ref().map(|range| range.end - range.start);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.shared.store.get_opts(&self.path(context.name), options).await;
        let got = got.map_err(|error| match is_behind_the_end(&error) {
            true => context.damaged(FormatError::Short { what: "object" }),
            false => context.failed(&error),
        })?;
        let announced = got.range.end - got.range.start;
        let expected = expected.unwrap_or(announced);
        if expected > bytes_max {
            let limit = FormatError::Bound { what: "size", found: expected, limit: bytes_max };
            return Err(context.damaged(limit));
        }
        if announced < expected && got.range.end == got.meta.size {
            return Err(context.damaged(FormatError::Short { what: "object" }));
        }
        if announced != expected {
            let reason = format!("it has {announced} bytes of the {expected} that were asked for");
            return Err(context.unavailable(reason));
        }
        let bytes = got.bytes().await.map_err(|error| context.failed(&error))?;
        if bytes.len() as u64 != expected {
            let reason = format!("{} of {expected} bytes arrived", bytes.len());
            return Err(context.unavailable(reason));
        }
        Ok(bytes)
    }

    /// All objects whose names begin with `folder` and a slash, or all of the prefix for an empty
    /// one. S3 lists them in ascending order, a directory in none. Held in memory are only the
    /// names of one answer, up to a thousand. After an error the list ends, and the caller begins
    /// again.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed, TierError>> {
        self.shared.tally.list();
        let listed = self.shared.store.list(Some(&self.path(folder)));
        let state = (self.clone(), folder.to_owned(), Some(listed));
        let next = |(bucket, folder, listed): (Self, String, Option<BoxStream<'static, _>>)| async {
            let mut listed = listed?;
            let context = bucket.context(Operation::List, &folder);
            let item = match limited(listed.next(), time_limit(0)).await {
                None => Err(context.unavailable(late(0))),
                Some(None) => return None,
                Some(Some(Err(error))) => Err(context.failed(&error)),
                Some(Some(Ok(meta))) => Ok(bucket.listed(&meta)),
            };
            let rest = item.is_ok().then_some(listed);
            Some((item, (bucket, folder, rest)))
        };
        futures_util::stream::unfold(state, next).boxed()
    }

    fn listed(&self, meta: &object_store::ObjectMeta) -> Listed {
        let path = meta.location.as_ref();
        let name = path.strip_prefix(self.shared.prefix.as_ref()).unwrap_or(path);
        Listed {
            name: name.trim_start_matches('/').to_owned(),
            size_bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
        }
    }

    /// Deletes an object; it is no error if there is none. In a bucket with versions S3 keeps the
    /// content.
    ///
    /// # Errors
    /// When the store does not answer or refuses. The object may be deleted then.
    #[tracing::instrument(level = "debug", skip_all, fields(bucket = self.url(), name))]
    pub async fn delete(&self, name: &str) -> Result<(), TierError> {
        let context = self.context(Operation::Delete, name);
        let path = self.path(name);
        let mut attempts = Attempts::default();
        loop {
            self.shared.tally.delete();
            let error = match limited(self.shared.store.delete(&path), time_limit(0)).await {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => context.failed(&error),
                None => context.unavailable(late(0)),
            };
            if error.is_missing() {
                return Ok(());
            }
            attempts.pause_after(error, &self.shared.tally).await?;
        }
    }

    /// Makes a file durable that an earlier process may have left without a sync of its directory.
    async fn sync(&self, name: &str) -> Result<(), TierError> {
        let Some(directory) = self.shared.directory.clone() else { return Ok(()) };
        let file = directory.join(name);
        let work = move || {
            let mut at = Some(file.as_path());
            while let Some(path) = at.filter(|path| path.starts_with(&directory)) {
                std::fs::File::open(path)?.sync_all()?;
                at = path.parent();
            }
            Ok(())
        };
        let done: std::io::Result<()> =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.into()));
        done.map_err(|error| self.context(Operation::Put, name).unavailable(error.to_string()))
    }

    fn path(&self, name: &str) -> Path {
        let parts = self.shared.prefix.as_ref().split('/').chain(name.split('/'));
        Path::from_iter(parts.filter(|part| !part.is_empty()))
    }

    pub(crate) fn context<'a>(&'a self, operation: Operation, name: &'a str) -> Context<'a> {
        Context { bucket: self.url(), operation, name }
    }
}

/// The attempts of one operation.
#[derive(Default)]
struct Attempts {
    failed: u32,
}

impl Attempts {
    /// Waits before the next attempt. Returns the error if another attempt is useless or was the
    /// last one.
    async fn pause_after(&mut self, error: TierError, tally: &Tally) -> Result<(), TierError> {
        tally.failure();
        self.failed += 1;
        let is_last = self.failed == limits::ATTEMPTS_MAX;
        let TierError::Unavailable { bucket, operation, name, reason } = &error else {
            return Err(error);
        };
        if is_last {
            return Err(error);
        }
        let pause = limits::PAUSE * 4_u32.pow(self.failed - 1);
        tracing::info!(%bucket, %operation, name, reason, ?pause, "bucket unavailable, will retry");
        tally.retry();
        tokio::time::sleep(pause + jitter(pause)).await;
        Ok(())
    }
}

/// Up to half of the pause, so that several brokers do not return at the same moment.
fn jitter(pause: Duration) -> Duration {
    // Without randomness there is only no jitter.
    pause.mul_f64(f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX) / 2.0)
}

/// Whether a read failed because it begins behind the end of the object. The library says so only
/// as text, each of its stores another one.
fn is_behind_the_end(error: &StoreError) -> bool {
    let said = error.to_string();
    ["InvalidRange", "status code: 416", "Requested range was invalid", "Wanted range starting at"]
        .iter()
        .any(|text| said.contains(text))
}

/// Time for an operation that moves so many bytes.
fn time_limit(bytes: u64) -> Duration {
    limits::REQUEST_TIMEOUT + Duration::from_secs(bytes / limits::BYTES_PER_SECOND_MIN)
}

async fn limited<T>(work: impl Future<Output = T>, limit: Duration) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn late(bytes: u64) -> String {
    format!("no answer in {} s", time_limit(bytes).as_secs())
}

fn shown(size_bytes: u64, digest: &str) -> String {
    let digest = if digest.is_empty() { "unknown" } else { digest };
    format!("{size_bytes} bytes, SHA-256 {digest}")
}

#[cfg(test)]
mod tests;
