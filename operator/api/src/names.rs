//! Labels, annotations, finalizers and object names that the operator writes and reads.
//!
//! A name that is on objects of users can never change: the operator would no longer find what
//! carries the old one.

/// The API group of both kinds.
pub const GROUP: &str = "ropewalk.dev";
/// The only version of the API group.
pub const VERSION: &str = "v1alpha1";

/// The finalizer of a `Queue` or `BrokerCluster` under `deletionPolicy: Delete`, and only then.
pub const FINALIZER: &str = "ropewalk.dev/data";
/// The `BrokerCluster` of a `Queue` without `clusterRef`.
pub const DEFAULT_CLUSTER: &str = "default";

/// Label of every object of a cluster. Value: the name of the cluster.
pub const LABEL_CLUSTER: &str = "ropewalk.dev/cluster";
/// Label of every object of one broker. Value: the broker id.
pub const LABEL_BROKER: &str = "ropewalk.dev/broker-id";
/// Label for the program that manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on every object of this operator.
pub const MANAGED_BY: &str = "ropewalk-operator";
/// Label that separates brokers from other pods of a cluster.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`LABEL_COMPONENT`] on every object of a broker.
pub const COMPONENT_BROKER: &str = "broker";

/// On every object that the operator applied: the hash of the applied object.
pub const ANNOTATION_APPLIED: &str = "ropewalk.dev/applied";
/// On a StatefulSet: the hash of the user's intent for the pod at its last start.
pub const ANNOTATION_INTENT: &str = "ropewalk.dev/pod-intent";
/// On a StatefulSet: the hash of the user's intent when the pod template was last written, whether
/// or not a pod ever ran from it.
pub const ANNOTATION_TEMPLATE_INTENT: &str = "ropewalk.dev/template-intent";
/// On a StatefulSet: the hash of the pod template that the operator built.
pub const ANNOTATION_TEMPLATE: &str = "ropewalk.dev/pod-template";
/// On a StatefulSet: the pod template that was last applied, as JSON. A difference from it was made
/// by another writer.
pub const ANNOTATION_APPLIED_TEMPLATE: &str = "ropewalk.dev/applied-template";
/// On a StatefulSet: `true` if the user chose the image, `false` if it is the operator's default.
pub const ANNOTATION_IMAGE_CHOSEN: &str = "ropewalk.dev/image-chosen";
/// On a broker's volume claim: `true` once the data directory on it was formatted.
pub const ANNOTATION_FORMATTED: &str = "ropewalk.dev/formatted";
/// On a broker's volume claim: the size that the operator requested last. A claim that requests
/// another size was changed by hand.
pub const ANNOTATION_SIZE: &str = "ropewalk.dev/size";
/// On a `BrokerCluster`, set by users: a new value requests a rolling restart.
pub const ANNOTATION_RESTART: &str = "ropewalk.dev/restart";
/// On a `BrokerCluster`, set by users: approves a supervised restart. The condition
/// `RestartPending` shows the value to set.
pub const ANNOTATION_APPROVE_RESTART: &str = "ropewalk.dev/approve-restart";
/// On a `BrokerCluster`, set by users: start again with the empty volume that the value names. The
/// condition `DataLost` shows the value; each value is used once.
pub const ANNOTATION_ACCEPT_DATA_LOSS: &str = "ropewalk.dev/accept-data-loss";
/// On a `Queue`, set by users: the topic with this id is lost with its records, and the empty topic
/// that replaced it is used from now on.
pub const ANNOTATION_ACCEPT_TOPIC_LOSS: &str = "ropewalk.dev/accept-topic-loss";
/// On a `BrokerCluster` that the operator created for a Queue without `clusterRef`.
pub const ANNOTATION_MADE_FOR: &str = "ropewalk.dev/made-for-queue";

/// `<cluster>-broker-<id>`: name of a broker's StatefulSet, Service and ConfigMap.
#[must_use]
pub fn broker(cluster: &str, id: i32) -> String {
    format!("{cluster}-broker-{id}")
}

/// Name of the pod of a broker.
#[must_use]
pub fn pod(cluster: &str, id: i32) -> String {
    format!("{}-0", broker(cluster, id))
}

/// Name of the volume claim of a broker. The claim has no owner and is kept until it is deleted
/// explicitly.
#[must_use]
pub fn volume_claim(cluster: &str, id: i32) -> String {
    format!("data-{}", broker(cluster, id))
}

/// Name of the Service for `bootstrap.servers`.
#[must_use]
pub fn bootstrap(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// Name of the Secret with the token of the admin API.
#[must_use]
pub fn admin_secret(cluster: &str) -> String {
    format!("{cluster}-admin")
}

/// Name of the ServiceAccount and of the disruption budget of a cluster, and app name of its pods.
#[must_use]
pub fn brokers(cluster: &str) -> String {
    format!("{cluster}-broker")
}

/// Kafka's bound for group ids and topic names, characters.
pub const KAFKA_NAME_MAX: usize = 249;

/// The default group id of a consumer: `<namespace>.<queue>.<consumer>`. If that is longer than
/// [`KAFKA_NAME_MAX`], its end is replaced by a hash of the whole.
#[must_use]
pub fn consumer_group(namespace: &str, queue: &str, consumer: &str) -> String {
    let group = format!("{namespace}.{queue}.{consumer}");
    if group.len() <= KAFKA_NAME_MAX {
        return group;
    }
    // FNV-1a: the hash only separates names, it is not for security.
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // Names of Kubernetes objects are ASCII, so every byte is a character.
    let kept: String = group.chars().take(KAFKA_NAME_MAX - 17).collect();
    format!("{kept}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_nobody_named_is_one_that_kafka_takes() {
        assert_eq!(consumer_group("shop", "orders", "worker"), "shop.orders.worker");
        let (space, queue) = ("n".repeat(63), "q".repeat(249));
        let groups = ["a", "b"].map(|consumer| consumer_group(&space, &queue, consumer));
        for group in &groups {
            assert_eq!(group.len(), KAFKA_NAME_MAX);
            assert!(group.starts_with(&format!("{space}.qqq")), "{group}");
        }
        assert_ne!(groups[0], groups[1]);
        let longest = consumer_group(&"n".repeat(63), &"q".repeat(121), &"c".repeat(63));
        assert_eq!(longest, format!("{space}.{}.{}", "q".repeat(121), "c".repeat(63)), "249 fit");
    }
}
