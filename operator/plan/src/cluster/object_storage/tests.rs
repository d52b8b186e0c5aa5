//! The settings, files and variables of a bucket.

use proptest::prelude::*;
use ropewalk_operator_api::cluster::{CertificateAuthority, KeyRef, StorageCredentials};

use super::super::{Observed, fixture, pod, properties};
use super::*;

fn storage(text: &str) -> ObjectStorage {
    serde_yaml_ng::from_str(text).expect("an ObjectStorage")
}

const WITH_KEYS: &str = "{bucket: b, prefix: a/c, endpoint: 'https://s3.example:9000', region: eu,
    ca: {configMapKeyRef: {name: authorities}}, credentials: {secret: {name: keys}},
    uploadMaxAgeSeconds: 5, checkpointIntervalSeconds: 30, objectSize: 1Mi, cacheSize: 8Mi, deleteGraceSeconds: 0}";

#[test]
fn every_field_becomes_a_setting_of_the_broker() {
    let lines: Vec<String> =
        settings(&storage(WITH_KEYS)).iter().map(|(k, v)| format!("{k}={v}")).collect();
    let expected = [
        "ropewalk.tier.access.key.id.file=/etc/ropewalk-object-storage/access-key-id",
        "ropewalk.tier.ca.file=/etc/ropewalk-object-storage/ca.crt",
        "ropewalk.tier.cache.bytes=8388608",
        "ropewalk.tier.checkpoint.interval.ms=30000",
        "ropewalk.tier.delete.grace.ms=0",
        "ropewalk.tier.endpoint=https://s3.example:9000",
        "ropewalk.tier.object.bytes=1048576",
        "ropewalk.tier.path.style=true",
        "ropewalk.tier.region=eu",
        "ropewalk.tier.secret.access.key.file=/etc/ropewalk-object-storage/secret-access-key",
        "ropewalk.tier.upload.max.age.ms=5000",
        "ropewalk.tier.url=s3://b/a/c",
    ];
    assert_eq!(lines, expected);
    let least = settings(&storage("{bucket: b, pathStyle: false}"));
    let least: Vec<_> = least.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(least, ["ropewalk.tier.path.style=false", "ropewalk.tier.url=s3://b"]);
}

#[test]
fn keys_and_certificates_are_files_of_the_pod() {
    let cluster = fixture::cluster(&format!("{{objectStorage: {WITH_KEYS}}}"));
    let valid = fixture::valid(&cluster, &Observed::default());
    let template = pod::template(&valid, &valid.brokers[0]);
    let spec = template.spec.as_ref().expect("a spec");
    let mounts = spec.containers[0].volume_mounts.as_ref().expect("mounts");
    let mount = mounts.iter().find(|mount| mount.name == VOLUME).expect("the mount");
    assert_eq!((mount.mount_path.as_str(), mount.read_only), (PATH, Some(true)));
    assert!(are_mounted(&storage(WITH_KEYS), &template));
    // Another key of the same Secret is another file of the same name.
    assert!(are_mounted(&storage("{bucket: b, credentials: {secret: {name: x}}}"), &template));
    let none = fixture::cluster("{objectStorage: {bucket: b}}");
    let none = fixture::valid(&none, &Observed::default());
    let template = pod::template(&none, &none.brokers[0]);
    assert!(!are_mounted(&storage(WITH_KEYS), &template));
    assert!(are_mounted(&storage("{bucket: b}"), &template));
    let volumes = template.spec.and_then(|spec| spec.volumes).expect("volumes");
    assert!(!volumes.iter().any(|volume| volume.name == VOLUME), "nothing is mounted");
}

#[test]
fn a_web_identity_is_a_token_and_the_variables_of_awss_sdks() {
    let spec =
        "{objectStorage: {bucket: b, credentials: {webIdentity: {roleArn: 'arn:aws:iam::1:role/r',
        annotations: {example.com/role: r}}}}}";
    let cluster = fixture::cluster(spec);
    let valid = fixture::valid(&cluster, &Observed::default());
    let template = pod::template(&valid, &valid.brokers[0]);
    let pod = template.spec.expect("a spec");
    let env = pod.containers[0].env.as_ref().expect("variables");
    let env: Vec<_> =
        env.iter().map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or("-"))).collect();
    let token = "/etc/ropewalk-object-storage/token";
    let role = "arn:aws:iam::1:role/r";
    assert_eq!(env, [("AWS_ROLE_ARN", role), ("AWS_WEB_IDENTITY_TOKEN_FILE", token)]);
    let volumes = pod.volumes.expect("volumes");
    let volume = volumes.iter().find(|volume| volume.name == VOLUME).expect("the volume");
    let sources = volume.projected.as_ref().and_then(|p| p.sources.as_ref()).expect("sources");
    let token = sources[0].service_account_token.as_ref().expect("a token");
    assert_eq!(token.audience.as_deref(), Some("sts.amazonaws.com"));
    let account = super::super::children::children(&valid).service_account;
    let annotations = account.metadata.annotations.expect("annotations");
    assert_eq!(annotations["example.com/role"], "r");
}

#[test]
fn a_missing_object_or_key_is_named() {
    let inputs = inputs(&storage(WITH_KEYS));
    let [keys, authorities] = inputs.as_slice() else { panic!("{inputs:?}") };
    assert_eq!(keys.lacks(None).as_deref(), Some("there is no Secret keys"));
    let found = ["accessKeyId".to_owned()];
    let lacks = "the Secret keys has no key secretAccessKey";
    assert_eq!(keys.lacks(Some(&found)).as_deref(), Some(lacks));
    assert_eq!(authorities.lacks(Some(&["ca.crt".to_owned()])), None);
    assert_eq!(authorities.lacks(None).as_deref(), Some("there is no ConfigMap authorities"));
}

fn key_ref() -> impl Strategy<Value = KeyRef> {
    ("[a-z]{1,8}", "[a-z.]{1,8}").prop_map(|(name, key)| KeyRef { name, key })
}

fn authority() -> impl Strategy<Value = CertificateAuthority> {
    (key_ref(), any::<bool>()).prop_map(|(key, is_secret)| {
        let (secret, map) = if is_secret { (Some(key), None) } else { (None, Some(key)) };
        CertificateAuthority { secret_key_ref: secret, config_map_key_ref: map }
    })
}

fn identity() -> impl Strategy<Value = WebIdentity> {
    ("\\PC{1,20}", "\\PC{1,20}").prop_map(|(role, audience)| WebIdentity {
        role_arn: Some(role),
        audience,
        annotations: BTreeMap::new(),
    })
}

fn signed() -> impl Strategy<Value = StorageCredentials> {
    let keys = ("[a-z]{1,8}", "[a-z.]{1,8}", "[a-z.]{1,8}");
    let keys = keys.prop_map(|(name, access_key_id_key, secret_access_key_key)| {
        let keys = AccessKeySecret { name, access_key_id_key, secret_access_key_key };
        StorageCredentials { secret: Some(keys), web_identity: None }
    });
    let identity =
        identity().prop_map(|it| StorageCredentials { secret: None, web_identity: Some(it) });
    prop_oneof![keys, identity]
}

prop_compose! {
    // Also what the schema does not let through: it is not the only line of defence.
    fn any_storage()(
        bucket in any::<String>(),
        prefix in any::<Option<String>>(),
        endpoint in any::<Option<String>>(),
        region in any::<Option<String>>(),
        path_style in any::<bool>(),
        ca in proptest::option::of(authority()),
        credentials in proptest::option::of(signed()),
        upload_max_age_seconds in any::<Option<i64>>(),
    ) -> ObjectStorage {
        ObjectStorage {
            bucket, prefix, endpoint, region, path_style, ca, credentials, upload_max_age_seconds,
            ..ObjectStorage::default()
        }
    }
}

proptest! {
    #[test]
    fn settings_name_only_files_that_the_pod_mounts(storage in any_storage()) {
        let mut cluster = fixture::cluster("{}");
        cluster.spec.object_storage = Some(storage.clone());
        let valid = fixture::valid(&cluster, &Observed::default());
        let template = pod::template(&valid, &valid.brokers[0]);
        prop_assert!(are_mounted(&storage, &template));
        let volume = volume(&storage);
        let sources = volume.and_then(|volume| volume.projected?.sources).unwrap_or_default();
        let mounted: Vec<String> =
            sources.iter().flat_map(paths).map(|path| format!("{PATH}/{path}")).collect();
        for (key, value) in settings(&storage).iter().filter(|(key, _)| key.ends_with(".file")) {
            prop_assert!(mounted.contains(value), "{key}={value}");
        }
    }

    #[test]
    fn a_settings_file_has_a_line_for_each_setting_whatever_the_values(storage in any_storage()) {
        let mut cluster = fixture::cluster("{}");
        cluster.spec.object_storage = Some(storage);
        let valid = fixture::valid(&cluster, &Observed::default());
        let text = properties::file(&valid, &valid.brokers[0]);
        let wanted = properties::settings(&valid, &valid.brokers[0]);
        // One more for the comment, one for the permission to format.
        prop_assert_eq!(text.lines().count(), wanted.len() + 2);
        let tier = |line: &&str| line.starts_with(SETTINGS_PREFIX);
        let keys = wanted.keys().filter(|key| tier(&key.as_str())).count();
        prop_assert_eq!(text.lines().filter(tier).count(), keys);
    }
}
