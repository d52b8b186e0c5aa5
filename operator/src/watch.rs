//! Watching: the streams that controllers run on, and the frame around every reconcile.
//!
//! # Invariants
//!
//! - One unreadable object stops nothing: own kinds are read through a guard, and what cannot be read
//!   is counted and left until it changes.
//! - An object that fails waits longer each time; one that succeeds begins again.
//! - Nothing is reconciled by a process that does not lead.
//! - A reconcile ends within [`RECONCILE_MAX`], whatever it waits for.

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

/// What is incomplete is looked at again so often at least.
const INCOMPLETE_WAIT_MAX: Duration = Duration::from_secs(30);

/// A reconcile takes no longer: a few dozen requests, and a wait for the budget.
pub const RECONCILE_MAX: Duration = Duration::from_secs(120);

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server refused or could not be reached.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// This process must not act.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// A broker refused or could not be reached.
    #[error(transparent)]
    Broker(#[from] CallError),
    /// It took longer than [`RECONCILE_MAX`].
    #[error("no end within {} s: given up, and tried again later", RECONCILE_MAX.as_secs())]
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

/// A kind of ours, in a scope.
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

/// Watches one of our own kinds: its store, and a stream of the objects whose spec, finalizers or
/// annotations changed. What the operator writes into a status does not come back as a trigger.
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

/// Watches a kind that the operator makes, for its metadata only: whatever changes, somebody looks.
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

/// The cluster that a child belongs to, by its label.
pub fn cluster_of<K, C>(child: &PartialObjectMeta<K>) -> Option<ObjectRef<C>>
where
    C: Resource<DynamicType = ()>,
{
    let name = child.metadata.labels.as_ref()?.get(names::LABEL_CLUSTER)?;
    let namespace = child.metadata.namespace.as_ref()?;
    Some(ObjectRef::new(name).within(namespace))
}

/// How every controller of ours runs.
#[must_use]
pub fn config() -> controller::Config {
    controller::Config::default().concurrency(8).debounce(Duration::from_millis(200))
}

/// The frame around a reconcile: reads the guard, measures, counts, and keeps the back-off.
///
/// # Errors
///
/// What the work failed with.
pub async fn framed<K, F>(
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
            tracing::warn!(kind, namespace, name, error = %unreadable, "an object cannot be read");
            return Ok(Action::await_change());
        }
    };
    let span = tracing::info_span!("reconcile", kind, namespace, name);
    let begun = Instant::now();
    let outcome = async {
        context.leadership.check()?;
        // A request whose connection has gone dead without a word must not hold one of the few places.
        let outcome = tokio::time::timeout(RECONCILE_MAX, work(readable, context.clone())).await;
        let outcome = outcome.unwrap_or(Err(Failure::Late));
        match &outcome {
            Ok(_) => tracing::debug!("reconciled"),
            Err(error) => tracing::warn!(%error, "a reconcile failed"),
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

/// After a failure: again, but later each time.
pub fn again<K>(object: Arc<Guarded<K>>, failure: &Failure, context: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let uid = object.uid().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    (&uid, Instant::now()).hash(&mut hasher);
    let wait = context.attempts.failed(&uid, hasher.finish());
    Action::requeue(match failure {
        // A person may be mending it right now, and no watch would tell.
        Failure::Incomplete(_) => wait.min(INCOMPLETE_WAIT_MAX),
        Failure::Kubernetes(_) | Failure::NotLeader(_) | Failure::Broker(_) | Failure::Late => wait,
    })
}

/// Lets a controller run until its streams end.
pub async fn drive<K, E>(
    stream: impl Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<Failure, E>>>,
) where
    K: Resource<DynamicType = ()>,
    E: std::error::Error + 'static,
{
    let mut stream = std::pin::pin!(stream);
    while let Some(outcome) = stream.next().await {
        match outcome {
            // Reconciles log for themselves, and an object that is gone is nothing to log.
            Ok(_)
            | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) =>
                {}
            Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watching failed"),
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
    async fn a_reconcile_whose_request_is_never_answered_is_given_up_and_tried_again() {
        let context = context();
        let hangs = |_: Queue, _: Arc<Context>| std::future::pending();
        let work = framed(queue(), context.clone(), hangs);
        let outcome = tokio::time::timeout(RECONCILE_MAX * 2, work).await.expect("it was given up");
        let failure = outcome.expect_err("it did not end");
        assert!(matches!(failure, Failure::Late), "{failure}");
        assert_ne!(again(queue(), &failure, context), Action::await_change());
    }

    #[tokio::test]
    async fn k2_a_process_that_does_not_lead_reconciles_nothing() {
        let context = context_of(Leadership::none("me"));
        let work = |_: Queue, _: Arc<Context>| async { Ok(Action::await_change()) };
        let failure = framed(queue(), context, work).await.expect_err("it must not");
        assert!(matches!(failure, Failure::NotLeader(_)), "{failure}");
    }

    #[tokio::test]
    async fn an_object_that_was_reconciled_begins_its_back_off_anew() {
        let context = context();
        for _ in 0..10 {
            again(queue(), &Failure::Late, context.clone());
        }
        let incomplete = Failure::Incomplete("a part of it failed".to_owned());
        let fails = |_: Queue, _: Arc<Context>| async { Err(incomplete) };
        framed(queue(), context.clone(), fails).await.expect_err("it failed");
        assert!(context.attempts.failed("u", 0) > Duration::from_secs(200), "a failure is none");
        let succeeds = |_: Queue, _: Arc<Context>| async { Ok(Action::await_change()) };
        framed(queue(), context.clone(), succeeds).await.expect("reconciled");
        assert!(context.attempts.failed("u", 0) <= Duration::from_secs(2));
    }
}
