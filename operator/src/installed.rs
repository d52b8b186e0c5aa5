//! Waits until the custom resource definitions are installed and current.
//!
//! Without them there is nothing to watch; the operator waits and reports what is missing instead
//! of crash-looping. Definitions that are older than the operator also block it: the API server
//! would silently drop unknown fields, and the status would be written again at every reconcile.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::runtime::events::EventType;
use kube::{Client, Resource as _};
use ropewalk_operator_api::{definitions, names};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::context::{Context, EventReason};
use crate::health::Health;

/// Interval of the check.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The watched kinds, as plural and kind.
const NEEDED: &[(&str, &str)] = &[("queues", "Queue"), ("brokerclusters", "BrokerCluster")];

/// Waits until every definition is installed. Returns `false` when a stop was requested before.
pub async fn wait(
    context: &Context,
    health: &Health,
    pod: Option<&k8s_openapi::api::core::v1::Pod>,
    mut stopping: watch::Receiver<bool>,
) -> bool {
    let mut is_reported = false;
    loop {
        let obstacles = obstacles(context).await;
        health.set(obstacles.clone());
        if obstacles.is_empty() {
            return true;
        }
        let note = obstacles.join("; ");
        tracing::warn!(note, "operator start delayed");
        if let (Some(pod), false) = (pod, is_reported) {
            let reason = EventReason { reason: "DefinitionsMissing", action: "Start" };
            context.publish_event(&pod.object_ref(&()), EventType::Warning, reason, note).await;
            is_reported = true;
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return false,
        }
    }
}

/// The obstacles to starting, as messages for the user; empty if there are none.
async fn obstacles(context: &Context) -> Vec<String> {
    let missing = match missing(&context.client).await {
        Ok(missing) => missing,
        Err(error) => return vec![format!("listing the API resources failed: {error}")],
    };
    for (plural, _) in NEEDED {
        let name = format!("{plural}.{}", names::GROUP);
        context.metrics.crd(&name, missing.contains(&name));
    }
    if missing.is_empty() {
        return older(&context.client).await;
    }
    let words = |name: &String| format!("the custom resource definition {name} is not installed");
    missing.iter().map(words).collect()
}

/// Messages about definitions that lack fields of this release. Reads the published OpenAPI schema,
/// which needs no permission on definitions.
async fn older(client: &Client) -> Vec<String> {
    let path = format!("/openapi/v3/apis/{}/{}", names::GROUP, names::VERSION);
    let request = hyper::Request::get(path).body(Vec::new());
    let request = request.expect("a path and no body are a request");
    let served: Value = match client.request(request).await {
        Ok(served) => served,
        Err(error) => {
            tracing::warn!(%error, "custom resource definitions not compared: reading the OpenAPI schema failed");
            return Vec::new();
        }
    };
    let mut obstacles = Vec::new();
    for (_, definition) in definitions::all() {
        let kind = &definition.spec.names.kind;
        let name = format!("{}.{}", definition.spec.names.plural, names::GROUP);
        let Some(served) = schema_of(&served, kind) else { continue };
        let ours =
            json!(definition.spec.versions[0].schema.as_ref().map(|s| &s.open_api_v3_schema));
        let (ours, known) = (fields(&ours), fields(served));
        let lacks: Vec<&String> = ours.difference(&known).collect();
        if lacks.len() * 2 > ours.len() {
            tracing::warn!(
                name,
                "custom resource definition not compared: the published schema is incomplete"
            );
            continue;
        }
        if let Some(first) = lacks.first() {
            let more = match lacks.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            obstacles.push(format!(
                "the custom resource definition {name} is older than this operator: it lacks {first}{more}. Install that of this release: `ropewalk-operator crd | kubectl apply --server-side -f -`, or the chart with crds.install=true"
            ));
        }
    }
    obstacles
}

/// The schema of a kind in the OpenAPI document of the API group.
fn schema_of<'a>(published: &'a Value, kind: &str) -> Option<&'a Value> {
    let schemas = published["components"]["schemas"].as_object()?;
    schemas.values().find(|schema| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|all| {
            all.iter().any(|of| of["kind"] == kind && of["version"] == names::VERSION)
        })
    })
}

/// Every field of `spec` and `status` in a schema, as a path.
fn fields(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ["spec", "status"] {
        collect(&schema["properties"][part], part, &mut found);
    }
    found
}

fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if schema.is_null() {
        return;
    }
    found.insert(path.to_owned());
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        collect(inner, &format!("{path}.{name}"), found);
    }
    for inside in ["items", "additionalProperties"] {
        if schema[inside].is_object() {
            collect(&schema[inside], &format!("{path}[]"), found);
        }
    }
}

/// Names of the definitions that are not installed.
async fn missing(client: &Client) -> Result<Vec<String>, kube::Error> {
    let version = format!("{}/{}", names::GROUP, names::VERSION);
    let served: Vec<String> = match client.list_api_group_resources(&version).await {
        Ok(APIResourceList { resources, .. }) => {
            resources.into_iter().map(|resource| resource.name).collect()
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    let absent = NEEDED.iter().filter(|(plural, _)| !served.iter().any(|name| name == plural));
    Ok(absent.map(|(plural, _)| format!("{plural}.{}", names::GROUP)).collect())
}

#[cfg(test)]
mod tests {
    use ropewalk_operator_api::{BrokerCluster, Queue};

    use super::*;
    use crate::fake_api_server::Server;

    /// The OpenAPI document of the current definitions, after `change`.
    fn published(change: impl Fn(&mut Value)) -> Value {
        let mut schemas = json!({});
        for (name, definition) in definitions::all() {
            let version = &definition.spec.versions[0];
            let mut schema = json!(version.schema.as_ref().map(|s| &s.open_api_v3_schema));
            let of = json!([{"group": names::GROUP, "version": names::VERSION, "kind": definition.spec.names.kind}]);
            schema["x-kubernetes-group-version-kind"] = of;
            change(&mut schema);
            schemas[name] = schema;
        }
        json!({"components": {"schemas": schemas}})
    }

    #[tokio::test]
    async fn a_definition_that_is_older_than_the_operator_is_named_with_what_it_lacks() {
        let server = Server::default();
        let path = "/openapi/v3/apis/ropewalk.dev/v1alpha1";
        assert!(older(&server.client()).await.is_empty(), "not published: not compared");
        server.put(path, published(|_| {}));
        assert_eq!(older(&server.client()).await, Vec::<String>::new());
        server.put(
            path,
            published(|schema| {
                let brokers = &mut schema["properties"]["status"]["properties"]["brokers"];
                if let Some(fields) = brokers["items"]["properties"].as_object_mut() {
                    fields.remove("acceptedLoss");
                }
            }),
        );
        let obstacles = older(&server.client()).await;
        assert_eq!(obstacles.len(), 1, "{obstacles:?}");
        for words in
            ["brokerclusters.ropewalk.dev", "status.brokers[].acceptedLoss", "crds.install"]
        {
            assert!(obstacles[0].contains(words), "{obstacles:?}");
        }
    }

    #[test]
    fn what_is_needed_is_what_is_watched() {
        let kinds = [
            (Queue::plural(&()), Queue::kind(&())),
            (BrokerCluster::plural(&()), BrokerCluster::kind(&())),
        ];
        let needed: Vec<_> = NEEDED.iter().map(|(p, k)| ((*p).into(), (*k).into())).collect();
        assert_eq!(needed, kinds);
    }
}
