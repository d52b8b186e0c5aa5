//! The watch streams that trigger controllers, and the wrapper around every reconcile.
//!
//! # Invariants
//!
//! - One object that cannot be deserialized stops nothing: own kinds are read through a guard, and
//!   such an object is counted and skipped until it changes.
//! - The wait before a retry grows with each failure of an object and is reset by a success.
//! - A process that does not lead reconciles nothing.
//! - A reconcile ends within [`RECONCILE_MAX`].

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, controller, predicates, watcher};
use kube::{Client, Resource, ResourceExt as _};
use ropewalk_operator_api::names;
use serde::de::DeserializeOwned;
use tracing::Instrument as _;

use crate::admin::CallError;
use crate::context::Context;
use crate::lease::NotLeader;

/// Longest wait before a reconcile that was incomplete is retried.
const INCOMPLETE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time-out of a reconcile: a few dozen requests, and a wait for the budget.
pub const RECONCILE_MAX: Duration = Duration::from_secs(120);

/// Why a reconcile failed. It is retried in every case.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server refused or could not be reached.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// This process does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// A broker refused or could not be reached.
    #[error(transparent)]
    Broker(#[from] CallError),
    /// It took longer than [`RECONCILE_MAX`].
    #[error("the reconcile was aborted after {} s, will retry", RECONCILE_MAX.as_secs())]
    Late,
    /// A part of it failed; the conditions say which.
    #[error("{0}")]
    Incomplete(String),
}

impl Failure {
    fn kind(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "Kubernetes",
            Self::NotLeader(_) => "NotLeader",
            Self::Broker(_) => "Broker",
            Self::Late => "Late",
            Self::Incomplete(_) => "Incomplete",
        }
    }
}

/// One of the operator's own kinds, or the error of deserializing it.
pub type Guarded<K> = DeserializeGuard<K>;

/// The API of a kind in a scope: one namespace, or all.
pub fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches one of the operator's own kinds: its store, and a stream of the objects whose spec,
/// finalizers or annotations changed. A status that the operator writes does not trigger a
/// reconcile.
pub fn own<K>(
    api: Api<Guarded<K>>,
) -> (Store<Guarded<K>>, impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    use kube::runtime::Predicate as _;
    let (store, writer) = reflector::store();
    let changed =
        predicates::generation.combine(predicates::finalizers).combine(predicates::annotations);
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object: &mut Guarded<K>| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        .predicate_filter(changed, predicates_config());
    (store, stream)
}

fn predicates_config() -> kube::runtime::PredicateConfig {
    kube::runtime::PredicateConfig::default()
}

/// Watches the metadata of a kind of children: any change triggers a reconcile.
pub fn children<K>(
    client: &Client,
    scope: Option<&str>,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let selector = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
    let config = watcher::Config::default().labels(&selector);
    watcher(api::<PartialObjectMeta<K>>(client, scope), config).default_backoff().touched_objects()
}

/// The cluster of a child, by its label.
pub fn cluster_of<K, C>(child: &PartialObjectMeta<K>) -> Option<ObjectRef<C>>
where
    C: Resource<DynamicType = ()>,
{
    let name = child.metadata.labels.as_ref()?.get(names::LABEL_CLUSTER)?;
    let namespace = child.metadata.namespace.as_ref()?;
    Some(ObjectRef::new(name).within(namespace))
}

/// Configuration of the operator's controllers: 8 concurrent reconciles, 200 ms debounce.
#[must_use]
pub fn config() -> controller::Config {
    controller::Config::default().concurrency(8).debounce(Duration::from_millis(200))
}

/// Wraps a reconcile: unwraps the guard, checks leadership, enforces the time-out, logs, records
/// metrics, and resets the back-off.
///
/// # Errors
///
/// The failure of `work`, or that it took too long.
pub async fn reconcile_guarded<K, F>(
    object: Arc<Guarded<K>>,
    context: Arc<Context>,
    work: impl FnOnce(K, Arc<Context>) -> F,
) -> Result<Action, Failure>
where
    K: Resource<DynamicType = ()> + Clone,
    F: Future<Output = Result<Action, Failure>>,
{
    let kind = static_kind::<K>();
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let readable = match &object.0 {
        Ok(readable) => readable.clone(),
        Err(unreadable) => {
            context.metrics.unreadable(kind);
            tracing::warn!(kind, namespace, name, error = %unreadable, "object skipped: it cannot be deserialized");
            return Ok(Action::await_change());
        }
    };
    let span = tracing::info_span!("reconcile", kind, namespace, name);
    let begun = Instant::now();
    let outcome = async {
        context.leadership.check()?;
        // A request on a dead connection must not hold one of the few reconcile slots.
        let outcome = tokio::time::timeout(RECONCILE_MAX, work(readable, context.clone())).await;
        let outcome = outcome.unwrap_or(Err(Failure::Late));
        match &outcome {
            Ok(_) => tracing::debug!("reconciled"),
            Err(error) => tracing::warn!(%error, "reconcile failed, will retry"),
        }
        outcome
    }
    .instrument(span)
    .await;
    context.metrics.reconciled(kind, begun.elapsed(), outcome.as_ref().err().map(Failure::kind));
    if outcome.is_ok() {
        context.attempts.succeeded(&object.uid().unwrap_or_default());
    }
    outcome
}

/// Requeues after a failure, with a back-off that grows each time.
pub fn error_policy<K>(object: Arc<Guarded<K>>, failure: &Failure, context: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let uid = object.uid().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    (&uid, Instant::now()).hash(&mut hasher);
    let wait = context.attempts.failed(&uid, hasher.finish());
    Action::requeue(match failure {
        // The user may be fixing the cause, and no watch would report it.
        Failure::Incomplete(_) => wait.min(INCOMPLETE_WAIT_MAX),
        Failure::Kubernetes(_) | Failure::NotLeader(_) | Failure::Broker(_) | Failure::Late => wait,
    })
}

/// Runs a controller until its streams end.
pub async fn drive<K, E>(
    stream: impl Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<Failure, E>>>,
) where
    K: Resource<DynamicType = ()>,
    E: std::error::Error + 'static,
{
    let mut stream = std::pin::pin!(stream);
    while let Some(outcome) = stream.next().await {
        match outcome {
            // Reconciles log their failures, and an object that is gone needs no log line.
            Ok(_)
            | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) =>
                {}
            Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watch failed, will retry"),
        }
    }
}

fn static_kind<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()).as_ref() {
        "Queue" => "Queue",
        "BrokerCluster" => "BrokerCluster",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_operator_api::Queue;
    use ropewalk_operator_plan::cluster::validate::Settings;
    use serde_json::json;

    use super::*;
    use crate::fake_api_server::Server;
    use crate::lease::Leadership;
    use crate::metrics::Metrics;

    fn context() -> Arc<Context> {
        let until = Instant::now() + Duration::from_secs(600);
        context_of(Leadership::assumed("me", until))
    }

    fn context_of(leadership: Leadership) -> Arc<Context> {
        let settings = Settings { broker_image: "b:1".into() };
        let (client, metrics) = (Server::default().client(), Metrics::default());
        Arc::new(Context::new(client, leadership, metrics, settings, "127.0.0.1:1".into()))
    }

    fn queue() -> Arc<Guarded<Queue>> {
        let queue = json!({
            "apiVersion": "ropewalk.dev/v1alpha1", "kind": "Queue", "spec": {},
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
        });
        Arc::new(serde_json::from_value(queue).expect("a Queue"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_whose_request_is_never_answered_is_aborted_and_retried() {
        let context = context();
        let hangs = |_: Queue, _: Arc<Context>| std::future::pending();
        let work = reconcile_guarded(queue(), context.clone(), hangs);
        let outcome = tokio::time::timeout(RECONCILE_MAX * 2, work).await.expect("it was aborted");
        let failure = outcome.expect_err("it did not end");
        assert!(matches!(failure, Failure::Late), "{failure}");
        assert_ne!(error_policy(queue(), &failure, context), Action::await_change());
    }

    #[tokio::test]
    async fn k2_a_process_that_does_not_lead_reconciles_nothing() {
        let context = context_of(Leadership::none("me"));
        let work = |_: Queue, _: Arc<Context>| async { Ok(Action::await_change()) };
        let failure = reconcile_guarded(queue(), context, work).await.expect_err("it must not");
        assert!(matches!(failure, Failure::NotLeader(_)), "{failure}");
    }

    #[tokio::test]
    async fn a_reconciled_object_resets_its_back_off() {
        let context = context();
        for _ in 0..10 {
            error_policy(queue(), &Failure::Late, context.clone());
        }
        let incomplete = Failure::Incomplete("a part of it failed".to_owned());
        let fails = |_: Queue, _: Arc<Context>| async { Err(incomplete) };
        reconcile_guarded(queue(), context.clone(), fails).await.expect_err("it failed");
        assert!(context.attempts.failed("u", 0) > Duration::from_secs(200), "a failure is none");
        let succeeds = |_: Queue, _: Arc<Context>| async { Ok(Action::await_change()) };
        reconcile_guarded(queue(), context.clone(), succeeds).await.expect("reconciled");
        assert!(context.attempts.failed("u", 0) <= Duration::from_secs(2));
    }
}
