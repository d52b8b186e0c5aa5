//! The bucket for older messages: where it is, how requests to it are signed, and how it is used.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::Size;

/// A bucket with the API of S3. Queues with `tiering` move older messages there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorage {
    /// Name of the bucket, 3 to 63 letters, digits, dots, hyphens and underscores. It has to exist.
    /// Immutable once the brokers have written to it.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub bucket: String,
    /// Prefix of the names of all objects, at most 255 characters, without slashes at its ends.
    /// Each BrokerCluster needs a bucket or a prefix of its own. Default: none. Immutable once the
    /// brokers have written to the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-zA-Z0-9._-]+(/[a-zA-Z0-9._-]+)*$")
    )]
    #[x_kube(validation = Rule::new("self.split('/').all(part, part != '.' && part != '..')")
        .message("a part of `prefix` must not be `.` or `..`"))]
    pub prefix: Option<String>,
    /// URL of an S3 service other than AWS, such as `https://minio.storage.svc:9000`. With
    /// `http://` messages cross the network unencrypted. Default: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = r"^https?://[a-zA-Z0-9._:\[\]-]+/?$"))]
    pub endpoint: Option<String>,
    /// Region of the bucket, at most 64 characters. Default: `us-east-1`, or the region that the
    /// platform sets in `AWS_REGION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z0-9-]+$"))]
    pub region: Option<String>,
    /// Whether requests name the bucket in the path, as most S3 services need, or in the host name.
    /// Default true.
    #[serde(default = "path_style")]
    pub path_style: bool,
    /// Certificates of the authorities that sign the certificate of `endpoint`, in PEM. Brokers
    /// read them when they start. Default: the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// How requests are signed. Default: as the platform provides for the pods, such as the role of
    /// the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StorageCredentials>,
    /// Seconds after which a message is uploaded at the latest, 1 to 604800, default 3600. A quiet
    /// partition makes at most one object in this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub upload_max_age_seconds: Option<i64>,
    /// Seconds between writes of group offsets and manifests to the bucket, 1 to 86400, default 60:
    /// what a restore has of them is at most as old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub checkpoint_interval_seconds: Option<i64>,
    /// Size of an object, 1Mi to 128Mi, default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('128Mi')) <= 0")
        .message("`objectSize` must be between 1Mi and 128Mi"))]
    pub object_size: Option<Size>,
    /// Memory of a broker for messages that were read from the bucket, at least 8Mi, default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('8Mi')) >= 0")
        .message("`cacheSize` must be at least 8Mi"))]
    pub cache_size: Option<Size>,
    /// Seconds that an object stays in the bucket after retention removed its messages, 0 to
    /// 31536000, default 3600: the time that a read in progress has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub delete_grace_seconds: Option<i64>,
}

impl ObjectStorage {
    /// The bucket and the prefix as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.prefix {
            Some(prefix) => format!("s3://{}/{prefix}", self.bucket),
            None => format!("s3://{}", self.bucket),
        }
    }
}

/// Certificates in PEM, in a Secret or ConfigMap of the namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
        .message("`ca` needs `secretKeyRef` or `configMapKeyRef`, and not both")
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthority {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// Names a key of an object of the namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRef {
    /// Name of the object, at most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the object, at most 253 characters, default `ca.crt`.
    #[serde(default = "certificate_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// How requests to the bucket are signed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.secret) != has(self.webIdentity)")
        .message("`credentials` needs `secret` or `webIdentity`, and not both")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageCredentials {
    /// An access key in a Secret. Brokers read a replaced key within two minutes and without a
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<AccessKeySecret>,
    /// The identity of the brokers' ServiceAccount, which is exchanged for a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_identity: Option<WebIdentity>,
}

/// An access key in a Secret of the namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AccessKeySecret {
    /// Name of the Secret, at most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the Secret that holds the access key id, default `accessKeyId`.
    #[serde(default = "access_key_id_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub access_key_id_key: String,
    /// Key of the Secret that holds the secret access key, default `secretAccessKey`.
    #[serde(default = "secret_access_key_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub secret_access_key_key: String,
}

/// A token of the brokers' ServiceAccount, exchanged for a role as AWS's SDKs do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("has(self.roleArn) || (has(self.annotations) && size(self.annotations) > 0)")
        .message("`webIdentity` needs `roleArn`, or `annotations` for a platform that provides the token itself")
)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// The role, such as `arn:aws:iam::123456789012:role/ropewalk`, at most 2048 characters. The
    /// pods get a token of their ServiceAccount, `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^arn:[^\s]+$"))]
    pub role_arn: Option<String>,
    /// Audience of the token, at most 255 characters, default `sts.amazonaws.com`.
    #[serde(default = "audience")]
    #[schemars(length(min = 1, max = 255))]
    pub audience: String,
    /// Annotations of the ServiceAccount, at most 16, for a platform that recognizes pods by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('ropewalk.dev/'))")
        .message("annotations under `ropewalk.dev/` belong to the operator"))]
    pub annotations: BTreeMap<String, String>,
}

/// What a new BrokerCluster begins with.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// `ObjectStorage`: the bucket of `objectStorage`. The cluster has the Queues, offsets and
    /// messages of the cluster that wrote there, and takes the bucket over from it.
    #[serde(default)]
    pub source: RestoreSource,
    /// Restore also if the bucket has no list of the topics: they get names that are made from
    /// their ids. Default false.
    #[serde(default)]
    pub without_catalog: bool,
    /// Restore also if objects are damaged or missing, without their messages. Default false.
    #[serde(default)]
    pub accept_loss: bool,
}

/// Where a new BrokerCluster is restored from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreSource {
    /// The bucket of `objectStorage`.
    #[default]
    ObjectStorage,
}

fn annotations(_: &mut schemars::SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

fn path_style() -> bool {
    true
}

fn certificate_key() -> String {
    "ca.crt".to_owned()
}

fn access_key_id_key() -> String {
    "accessKeyId".to_owned()
}

fn secret_access_key_key() -> String {
    "secretAccessKey".to_owned()
}

fn audience() -> String {
    "sts.amazonaws.com".to_owned()
}
