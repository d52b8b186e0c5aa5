//! Are the custom resource definitions installed? Without them there is nothing to watch; the operator
//! waits and says what is missing instead of ending again and again. The same goes for definitions that
//! are older than the operator: the API server would drop what they do not know without a word, and the
//! status would be written again at every look.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::runtime::events::EventType;
use kube::{Client, Resource as _};
use ropewalk_operator_api::{definitions, names};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::context::Context;
use crate::health::Health;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is watched: plural, kind.
const NEEDED: &[(&str, &str)] = &[("queues", "Queue"), ("brokerclusters", "BrokerCluster")];

/// Waits until every definition is there. `false` when it was told to stop before.
pub async fn wait(
    context: &Context,
    health: &Health,
    pod: Option<&k8s_openapi::api::core::v1::Pod>,
    mut stopping: watch::Receiver<bool>,
) -> bool {
    let mut told = false;
    loop {
        let obstacles = obstacles(context).await;
        health.set(obstacles.clone());
        if obstacles.is_empty() {
            return true;
        }
        let note = obstacles.join("; ");
        tracing::warn!(note, "waiting");
        if let (Some(pod), false) = (pod, told) {
            let words = ("DefinitionsMissing", "Start");
            context.tell(&pod.object_ref(&()), EventType::Warning, words, note).await;
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return false,
        }
    }
}

/// What keeps the operator from starting.
async fn obstacles(context: &Context) -> Vec<String> {
    let missing = match missing(&context.client).await {
        Ok(missing) => missing,
        Err(error) => return vec![format!("the API server cannot be asked: {error}")],
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

/// The definitions that do not know all that this operator says, and what they lack. What everybody may
/// read shows it: no right to definitions is needed.
async fn older(client: &Client) -> Vec<String> {
    let path = format!("/openapi/v3/apis/{}/{}", names::GROUP, names::VERSION);
    let request = hyper::Request::get(path).body(Vec::new());
    let request = request.expect("a path and no body are a request");
    let served: Value = match client.request(request).await {
        Ok(served) => served,
        Err(error) => {
            tracing::warn!(%error, "it is not known whether the custom resource definitions are old");
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
            tracing::warn!(name, "the API server publishes no more than a part of the definition");
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

/// The schema of a kind among those that the API server publishes.
fn schema_of<'a>(published: &'a Value, kind: &str) -> Option<&'a Value> {
    let schemas = published["components"]["schemas"].as_object()?;
    schemas.values().find(|schema| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|all| {
            all.iter().any(|of| of["kind"] == kind && of["version"] == names::VERSION)
        })
    })
}

/// Every field of a schema, as a path. What every object has is left out.
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

/// The definitions that are not there.
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

    /// What an API server publishes of the definitions of today, changed.
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
        assert!(older(&server.client()).await.is_empty(), "not published: not known");
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
