//! Opens what the settings name.

use std::fs;
use std::path::Path as FilePath;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::settings::{AddressStyle, BucketSettings, BucketUrl, Credentials};
use crate::error::TierError;
use crate::limits;

/// The store of these settings. Nothing is sent yet.
pub(super) fn open(settings: &BucketSettings) -> Result<Arc<dyn ObjectStore>, TierError> {
    match &settings.url {
        BucketUrl::Memory => Ok(Arc::new(InMemory::new())),
        BucketUrl::Directory(path) => open_directory(path),
        BucketUrl::S3 { bucket, .. } => open_s3(settings, bucket),
    }
}

fn open_directory(path: &FilePath) -> Result<Arc<dyn ObjectStore>, TierError> {
    let fail = |error: String| {
        TierError::Settings(format!("directory {} cannot be used: {error}", path.display()))
    };
    fs::create_dir_all(path).map_err(|error| fail(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| fail(error.to_string()))?;
    // Local records are deleted after a put: it has to be durable.
    Ok(Arc::new(store.with_fsync(true)))
}

fn open_s3(settings: &BucketSettings, bucket: &str) -> Result<Arc<dyn ObjectStore>, TierError> {
    let mut builder = match &settings.credentials {
        Credentials::Environment => AmazonS3Builder::from_env(),
        Credentials::Files { .. } | Credentials::WebIdentity { .. } => AmazonS3Builder::new(),
    };
    builder = builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(settings.style == AddressStyle::VirtualHost)
        .with_client_options(client_options(settings)?)
        .with_retry(no_retries());
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint_of(endpoint, bucket, settings.style)?);
    }
    builder = match &settings.credentials {
        Credentials::Environment => builder,
        Credentials::Files { access_key, secret_key, session_token } => {
            let keys = KeyFiles {
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
                session_token: session_token.clone(),
                last: Mutex::new(None),
            };
            keys.read().map_err(TierError::Settings)?;
            builder.with_credentials(Arc::new(keys))
        }
        Credentials::WebIdentity { token_file, role_arn, sts_endpoint } => {
            let file = token_file.to_string_lossy();
            let mut builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, file)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn)
                .with_config(AmazonS3ConfigKey::RoleSessionName, "ropewalk");
            if let Some(endpoint) = sts_endpoint {
                builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, endpoint);
            }
            builder
        }
    };
    let store = builder.build().map_err(|error| {
        TierError::Settings(format!("{} cannot be used: {error}", settings.url))
    })?;
    Ok(Arc::new(store))
}

/// The endpoint as the library wants it: with the bucket, if requests name it in the host name.
fn endpoint_of(endpoint: &str, bucket: &str, style: AddressStyle) -> Result<String, TierError> {
    let schemes = ["https://", "http://"];
    let split = schemes.iter().find_map(|s| Some((*s, endpoint.strip_prefix(*s)?)));
    let Some((scheme, host)) = split.filter(|(_, host)| !host.is_empty()) else {
        let error = format!("endpoint {endpoint:?} must begin with https:// or http://");
        return Err(TierError::Settings(error));
    };
    let host = host.trim_end_matches('/');
    Ok(match style {
        AddressStyle::Path => format!("{scheme}{host}"),
        AddressStyle::VirtualHost => format!("{scheme}{bucket}.{host}"),
    })
}

/// Time limits are those of each operation, which depend on the bytes that it moves.
fn client_options(settings: &BucketSettings) -> Result<ClientOptions, TierError> {
    let is_http = settings.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_allow_http(is_http)
        .with_connect_timeout(limits::CONNECT_TIMEOUT)
        .with_timeout_disabled();
    if let Some(file) = &settings.ca_file {
        let fail = |error: String| {
            let file = file.display();
            TierError::Settings(format!("{file} has no certificates of authorities: {error}"))
        };
        let pem = fs::read(file).map_err(|error| fail(error.to_string()))?;
        let certificates =
            Certificate::from_pem_bundle(&pem).map_err(|error| fail(error.to_string()))?;
        if certificates.is_empty() {
            return Err(fail("it is not PEM, or empty".to_owned()));
        }
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// The bucket itself repeats requests, in one place for all stores, with credentials as they are
/// then.
fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: limits::CONNECT_TIMEOUT,
    }
}

/// Keys in files, which are read again from time to time.
#[derive(Debug)]
struct KeyFiles {
    access_key: std::path::PathBuf,
    secret_key: std::path::PathBuf,
    session_token: Option<std::path::PathBuf>,
    last: Mutex<Option<ReadKeys>>,
}

#[derive(Debug, Clone)]
struct ReadKeys {
    at: Instant,
    keys: Arc<AwsCredential>,
}

impl KeyFiles {
    fn read(&self) -> Result<AwsCredential, String> {
        let text = |path: &FilePath| {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("credentials in {}: {error}", path.display()))?;
            match text.trim() {
                "" => Err(format!("{} is empty, it must contain a key", path.display())),
                key => Ok(key.to_owned()),
            }
        };
        Ok(AwsCredential {
            key_id: text(&self.access_key)?,
            secret_key: text(&self.secret_key)?,
            token: self.session_token.as_deref().map(text).transpose()?,
        })
    }
}

#[async_trait]
impl CredentialProvider for KeyFiles {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock();
        let now = Instant::now();
        if let Some(read) = &*last
            && now.duration_since(read.at) < limits::KEYS_READ_AGAIN
        {
            return Ok(read.keys.clone());
        }
        // Small files, usually in memory: not worth a thread.
        let keys = self
            .read()
            .map(Arc::new)
            .map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
        *last = Some(ReadKeys { at: now, keys: keys.clone() });
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn files(dir: &TempDir) -> KeyFiles {
        KeyFiles {
            access_key: dir.path().join("access"),
            secret_key: dir.path().join("secret"),
            session_token: None,
            last: Mutex::new(None),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_keys_are_read_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let keys = files(&dir);
        let write = |secret: &str| {
            fs::write(dir.path().join("access"), "me\n").unwrap();
            fs::write(dir.path().join("secret"), secret).unwrap();
        };
        write("first\n");
        assert_eq!(keys.get_credential().await.unwrap().secret_key, "first");
        write("second");
        assert_eq!(keys.get_credential().await.unwrap().secret_key, "first");
        tokio::time::advance(limits::KEYS_READ_AGAIN + Duration::from_millis(1)).await;
        assert_eq!(keys.get_credential().await.unwrap().secret_key, "second");
    }

    #[tokio::test]
    async fn keys_that_cannot_be_read_are_named_and_are_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("access"), "me").unwrap();
        fs::write(dir.path().join("secret"), " \n").unwrap();
        let path = dir.path().join("secret");
        let refused = files(&dir).read().unwrap_err();
        assert_eq!(refused, format!("{} is empty, it must contain a key", path.display()));
        fs::remove_file(&path).unwrap();
        let refused = files(&dir).get_credential().await.unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
    }

    #[test]
    fn an_endpoint_names_the_bucket_where_requests_do() {
        let path = endpoint_of("http://minio:9000/", "b", AddressStyle::Path).unwrap();
        assert_eq!(path, "http://minio:9000");
        let host = endpoint_of("https://s3.example", "b", AddressStyle::VirtualHost).unwrap();
        assert_eq!(host, "https://b.s3.example");
        let refused = endpoint_of("minio:9000", "b", AddressStyle::Path).unwrap_err();
        let text = "endpoint \"minio:9000\" must begin with https:// or http://";
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        fs::write(&file, "nothing").unwrap();
        let mut settings = BucketSettings::new("s3://bucket".parse().unwrap());
        settings.ca_file = Some(file.clone());
        let refused = client_options(&settings).unwrap_err().to_string();
        assert!(refused.starts_with(&file.display().to_string()), "{refused}");
    }
}
