//! Names that the operator and its objects know each other by: labels, annotations, finalizers.
//!
//! A name that stands on objects of users can never change: what carries the old one would be lost.

/// The API group.
pub const GROUP: &str = "ropewalk.dev";
/// Its only version.
pub const VERSION: &str = "v1alpha1";

/// The finalizer of a `Queue` or `BrokerCluster` under `deletionPolicy: Delete`, and only then.
pub const FINALIZER: &str = "ropewalk.dev/data";
/// The `BrokerCluster` that a `Queue` without `clusterRef` lives in.
pub const DEFAULT_CLUSTER: &str = "default";

/// Label on everything that belongs to a cluster: its name.
pub const LABEL_CLUSTER: &str = "ropewalk.dev/cluster";
/// Label on everything that belongs to one broker: its id.
pub const LABEL_BROKER: &str = "ropewalk.dev/broker-id";
/// Label that says who made an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value on everything this operator made.
pub const MANAGED_BY: &str = "ropewalk-operator";
/// Label that tells brokers from other pods of a cluster.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Its value on everything of a broker.
pub const COMPONENT_BROKER: &str = "broker";

/// On what the operator applied: the hash of the intent it came from.
pub const ANNOTATION_APPLIED: &str = "ropewalk.dev/applied";
/// On a StatefulSet: the hash of what the user asked of the pod when it was last (re)started.
pub const ANNOTATION_INTENT: &str = "ropewalk.dev/pod-intent";
/// On a StatefulSet: the hash of what the user asked when its pod template was last written,
/// whether or not a pod ever ran from it.
pub const ANNOTATION_TEMPLATE_INTENT: &str = "ropewalk.dev/template-intent";
/// On a StatefulSet: the hash of its pod template as the operator built it.
pub const ANNOTATION_TEMPLATE: &str = "ropewalk.dev/pod-template";
/// On a StatefulSet: its pod template as it was last applied, as JSON. What differs from it was changed
/// by somebody else.
pub const ANNOTATION_APPLIED_TEMPLATE: &str = "ropewalk.dev/applied-template";
/// On a StatefulSet: whether the user chose the image of its pod, or got the one of the day.
pub const ANNOTATION_IMAGE_CHOSEN: &str = "ropewalk.dev/image-chosen";
/// On a broker's volume claim: that the data directory on it was formatted once.
pub const ANNOTATION_FORMATTED: &str = "ropewalk.dev/formatted";
/// On a broker's volume claim: the size that the operator asked for last. A claim that asks for
/// another was changed by a person.
pub const ANNOTATION_SIZE: &str = "ropewalk.dev/size";
/// On a `BrokerCluster`, by a person: any new value asks for a rolling restart.
pub const ANNOTATION_RESTART: &str = "ropewalk.dev/restart";
/// On a `BrokerCluster`, by a person: lets a supervised restart go ahead; the value is shown in the
/// condition that waits for it.
pub const ANNOTATION_APPROVE_RESTART: &str = "ropewalk.dev/approve-restart";
/// On a `BrokerCluster`, by a person: begin again with the empty volume that the value names. The
/// condition `DataLost` shows the value; each one is used once.
pub const ANNOTATION_ACCEPT_DATA_LOSS: &str = "ropewalk.dev/accept-data-loss";
/// On a `Queue`, by a person: the topic of that id is gone with its records, and the empty one that
/// took its place is to be used.
pub const ANNOTATION_ACCEPT_TOPIC_LOSS: &str = "ropewalk.dev/accept-topic-loss";
/// On a `BrokerCluster`: made by the operator for a Queue that named none.
pub const ANNOTATION_MADE_FOR: &str = "ropewalk.dev/made-for-queue";

/// `<cluster>-broker-<id>`: a broker's StatefulSet, Service and ConfigMap.
#[must_use]
pub fn broker(cluster: &str, id: i32) -> String {
    format!("{cluster}-broker-{id}")
}

/// The pod of a broker.
#[must_use]
pub fn pod(cluster: &str, id: i32) -> String {
    format!("{}-0", broker(cluster, id))
}

/// The volume claim of a broker. Never owned by anything, so it stays until somebody deletes it.
#[must_use]
pub fn volume_claim(cluster: &str, id: i32) -> String {
    format!("data-{}", broker(cluster, id))
}

/// The Service that clients bootstrap from.
#[must_use]
pub fn bootstrap(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// The Secret with the token of the admin API.
#[must_use]
pub fn admin_secret(cluster: &str) -> String {
    format!("{cluster}-admin")
}

/// The ServiceAccount, disruption budget and pods of a cluster's brokers.
#[must_use]
pub fn brokers(cluster: &str) -> String {
    format!("{cluster}-broker")
}

/// Kafka's bound for the id of a group, and for the name of a topic.
pub const KAFKA_NAME_MAX: usize = 249;

/// The group of a consumer that does not name its own: `<namespace>.<queue>.<consumer>`. If that is longer
/// than [`KAFKA_NAME_MAX`] its end is exchanged for a hash of the whole.
#[must_use]
pub fn consumer_group(namespace: &str, queue: &str, consumer: &str) -> String {
    let group = format!("{namespace}.{queue}.{consumer}");
    if group.len() <= KAFKA_NAME_MAX {
        return group;
    }
    // FNV-1a: it tells names apart, it protects nothing.
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The names of objects are ASCII, so every byte is a character.
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
