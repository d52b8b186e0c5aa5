//! A store in memory that fails as a test wants it to.

use std::collections::VecDeque;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use parking_lot::Mutex;

/// What a store does with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the answer is an error.
    Fails,
    /// It is done, and the answer is lost.
    LosesAnswer,
    /// Nothing is done, and the answer is 409.
    Conflicts,
    /// The credentials are refused.
    Denies,
    /// No answer ever.
    Hangs,
    /// The last byte of the body is missing.
    Truncates,
    /// A bit of the body is changed.
    Damages,
}

/// The faults of the next requests, and what the store does not support.
#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: InMemory,
    puts: Mutex<VecDeque<Fault>>,
    gets: Mutex<VecDeque<Fault>>,
    ignores_conditions: bool,
    drops_metadata: bool,
    ignores_ranges: bool,
    keeps_deleted: bool,
}

impl FaultyStore {
    /// The next puts fail so, and those after them succeed.
    pub fn next_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.puts.lock().extend(faults);
    }

    /// The next reads and heads fail so, and those after them succeed.
    pub fn next_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.gets.lock().extend(faults);
    }

    /// A store that replaces objects although a put is conditional.
    #[must_use]
    pub fn ignoring_conditions() -> Self {
        Self { ignores_conditions: true, ..Self::default() }
    }

    /// A store that keeps no metadata, as a directory.
    #[must_use]
    pub fn dropping_metadata() -> Self {
        Self { drops_metadata: true, ..Self::default() }
    }

    /// A store that answers a request for a range with the whole object.
    #[must_use]
    pub fn ignoring_ranges() -> Self {
        Self { ignores_ranges: true, ..Self::default() }
    }

    /// A store that reports objects as deleted and keeps them.
    #[must_use]
    pub fn keeping_deleted() -> Self {
        Self { keeps_deleted: true, ..Self::default() }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn unavailable() -> Error {
    Error::Generic { store: "faulty", source: "503 SlowDown".into() }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "AccessDenied".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.puts.lock().pop_front();
        if self.ignores_conditions {
            options.mode = PutMode::Overwrite;
        }
        if self.drops_metadata {
            options.attributes = Attributes::default();
        }
        match fault {
            None | Some(Fault::Truncates | Fault::Damages) => {
                self.inner.put_opts(path, payload, options).await
            }
            Some(Fault::LosesAnswer) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(unavailable())
            }
            Some(Fault::Fails) => Err(unavailable()),
            Some(Fault::Conflicts) => {
                let source = "409 Conflict".into();
                Err(Error::AlreadyExists { path: path.to_string(), source })
            }
            Some(Fault::Denies) => Err(denied(path)),
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = self.gets.lock().pop_front();
        if self.ignores_ranges {
            options.range = None;
        }
        match fault {
            None => self.inner.get_opts(path, options).await,
            Some(Fault::Fails | Fault::LosesAnswer | Fault::Conflicts) => Err(unavailable()),
            Some(Fault::Denies) => Err(denied(path)),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(fault @ (Fault::Truncates | Fault::Damages)) => {
                let got = self.inner.get_opts(path, options).await?;
                let (meta, range, attributes) =
                    (got.meta.clone(), got.range.clone(), got.attributes.clone());
                let mut bytes = got.bytes().await?.to_vec();
                if fault == Fault::Truncates {
                    bytes.pop();
                } else if let Some(first) = bytes.first_mut() {
                    *first ^= 1;
                }
                let body = stream::once(async { Ok(Bytes::from(bytes)) }).boxed();
                let payload = GetResultPayload::Stream(body);
                let extensions = object_store::Extensions::default();
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.keeps_deleted { paths } else { self.inner.delete_stream(paths) }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
