//! The bucket for older messages: the settings of the brokers, and what their pods mount for it.
//!
//! - Keys and certificates are files of a volume of their own: if one of these objects is deleted,
//!   the settings of running brokers are still updated. Kubernetes replaces the files when a Secret
//!   changes, so that a new key needs no restart.
//! - A settings file never names a file that the pod does not mount: a broker that is restarted by
//!   its node before the rollout would not start ([`are_mounted`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, EnvVar, KeyToPath, PodTemplateSpec, ProjectedVolumeSource,
    Secret, SecretProjection, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use ropewalk_operator_api::Size;
use ropewalk_operator_api::cluster::{AccessKeySecret, ObjectStorage, WebIdentity};

/// Name of the volume.
pub const VOLUME: &str = "object-storage";
/// Mount path of the volume.
pub const PATH: &str = "/etc/ropewalk-object-storage";
/// What the settings of the bucket begin with.
pub const SETTINGS_PREFIX: &str = "ropewalk.tier.";

const ACCESS_KEY: &str = "access-key-id";
const SECRET_KEY: &str = "secret-access-key";
const AUTHORITIES: &str = "ca.crt";
const TOKEN: &str = "token";
/// Validity of a token, seconds. Kubernetes replaces it after four fifths of this time.
const TOKEN_SECONDS: i64 = 3600;

/// Keys of a Secret or ConfigMap of the namespace that the pods of a cluster mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Whether it is a Secret, or a ConfigMap.
    pub is_secret: bool,
    /// Name of the object.
    pub name: String,
    /// Each key, with the name of its file.
    pub files: Vec<(String, &'static str)>,
}

/// What the pods mount.
#[must_use]
pub fn inputs(storage: &ObjectStorage) -> Vec<Input> {
    let mut inputs = Vec::new();
    if let Some(keys) = secret_of(storage) {
        let files = vec![
            (keys.access_key_id_key.clone(), ACCESS_KEY),
            (keys.secret_access_key_key.clone(), SECRET_KEY),
        ];
        inputs.push(Input { is_secret: true, name: keys.name.clone(), files });
    }
    let ca = storage.ca.iter();
    for (is_secret, key) in ca.flat_map(|ca| {
        let secret = ca.secret_key_ref.as_ref().map(|key| (true, key));
        secret.into_iter().chain(ca.config_map_key_ref.as_ref().map(|key| (false, key)))
    }) {
        let files = vec![(key.key.clone(), AUTHORITIES)];
        inputs.push(Input { is_secret, name: key.name.clone(), files });
    }
    inputs
}

impl Input {
    /// What the object lacks, for people; `None` if it has every key.
    #[must_use]
    pub fn lacks(&self, keys: Option<&[String]>) -> Option<String> {
        let kind = if self.is_secret { "Secret" } else { "ConfigMap" };
        let Some(keys) = keys else {
            return Some(format!("there is no {kind} {}", self.name));
        };
        let missing = self.files.iter().find(|(key, _)| !keys.contains(key));
        missing.map(|(key, _)| format!("the {kind} {} has no key {key}", self.name))
    }
}

/// The names of the keys in a Secret.
#[must_use]
pub fn keys_of_secret(secret: &Secret) -> Vec<String> {
    secret.data.iter().flat_map(BTreeMap::keys).cloned().collect()
}

/// The names of the keys in a ConfigMap.
#[must_use]
pub fn keys_of_config_map(map: &ConfigMap) -> Vec<String> {
    let binary = map.binary_data.iter().flat_map(BTreeMap::keys);
    map.data.iter().flat_map(BTreeMap::keys).chain(binary).cloned().collect()
}

fn secret_of(storage: &ObjectStorage) -> Option<&AccessKeySecret> {
    storage.credentials.as_ref()?.secret.as_ref()
}

/// The identity of the pods, if requests are signed by it.
#[must_use]
pub fn web_identity(storage: &ObjectStorage) -> Option<&WebIdentity> {
    storage.credentials.as_ref()?.web_identity.as_ref()
}

/// The settings of the brokers, by the broker's names.
#[must_use]
pub fn settings(storage: &ObjectStorage) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        settings.extend(value.map(|value| (format!("{SETTINGS_PREFIX}{key}"), value)));
    };
    let millis = |seconds: i64| seconds.saturating_mul(1000).to_string();
    let bytes = |size: &Size| size.bytes().map(|bytes| bytes.to_string());
    let file = |name: &str| format!("{PATH}/{name}");
    set("url", Some(storage.url()));
    set("endpoint", storage.endpoint.clone());
    set("region", storage.region.clone());
    set("path.style", Some(storage.path_style.to_string()));
    set("upload.max.age.ms", storage.upload_max_age_seconds.map(millis));
    set("checkpoint.interval.ms", storage.checkpoint_interval_seconds.map(millis));
    set("delete.grace.ms", storage.delete_grace_seconds.map(millis));
    set("object.bytes", storage.object_size.as_ref().and_then(bytes));
    set("cache.bytes", storage.cache_size.as_ref().and_then(bytes));
    set("ca.file", storage.ca.as_ref().map(|_| file(AUTHORITIES)));
    let keys = secret_of(storage);
    set("access.key.id.file", keys.map(|_| file(ACCESS_KEY)));
    set("secret.access.key.file", keys.map(|_| file(SECRET_KEY)));
    settings
}

/// The volume with keys, certificates and the token; `None` if there is nothing to mount.
#[must_use]
pub fn volume(storage: &ObjectStorage) -> Option<Volume> {
    let mut sources: Vec<VolumeProjection> = inputs(storage).iter().map(projection).collect();
    let identity = web_identity(storage);
    sources.extend(identity.filter(|identity| identity.role_arn.is_some()).map(|identity| {
        let token = ServiceAccountTokenProjection {
            audience: Some(identity.audience.clone()),
            expiration_seconds: Some(TOKEN_SECONDS),
            path: TOKEN.to_owned(),
        };
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }
    }));
    let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: None };
    let is_used = projected.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    is_used.then(|| Volume {
        name: VOLUME.to_owned(),
        projected: Some(projected),
        ..Volume::default()
    })
}

fn projection(input: &Input) -> VolumeProjection {
    let name = input.name.clone();
    let items = input.files.iter().map(|(key, path)| KeyToPath {
        key: key.clone(),
        path: (*path).to_owned(),
        mode: None,
    });
    let items = Some(items.collect());
    if input.is_secret {
        let secret = SecretProjection { name, items, optional: None };
        return VolumeProjection { secret: Some(secret), ..VolumeProjection::default() };
    }
    let map = ConfigMapProjection { name, items, optional: None };
    VolumeProjection { config_map: Some(map), ..VolumeProjection::default() }
}

/// Environment variables by which the broker finds the token, as AWS's SDKs name them.
#[must_use]
pub fn environment(storage: &ObjectStorage) -> Vec<EnvVar> {
    let Some(role) = web_identity(storage).and_then(|identity| identity.role_arn.as_ref()) else {
        return Vec::new();
    };
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    vec![
        variable("AWS_ROLE_ARN", role.clone()),
        variable("AWS_WEB_IDENTITY_TOKEN_FILE", format!("{PATH}/{TOKEN}")),
    ]
}

/// Whether a pod of this template has every file that the settings name.
#[must_use]
pub fn are_mounted(storage: &ObjectStorage, template: &PodTemplateSpec) -> bool {
    let volumes = template.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let volume = volumes.into_iter().flatten().find(|volume| volume.name == VOLUME);
    let projected = volume.and_then(|volume| volume.projected.as_ref());
    let sources = projected.and_then(|projected| projected.sources.as_ref());
    let mounted: Vec<&str> = sources.into_iter().flatten().flat_map(paths).collect();
    let wanted = inputs(storage);
    wanted.iter().flat_map(|input| &input.files).all(|(_, path)| mounted.contains(path))
}

fn paths(source: &VolumeProjection) -> Vec<&str> {
    let secret = source.secret.as_ref().and_then(|secret| secret.items.as_ref());
    let map = source.config_map.as_ref().and_then(|map| map.items.as_ref());
    let items = secret.into_iter().chain(map).flatten();
    items.map(|item| item.path.as_str()).collect()
}

#[cfg(test)]
mod tests;
