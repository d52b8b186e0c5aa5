//! Are the custom resource definitions installed? Without them there is nothing to watch; the operator
//! waits and says what is missing instead of ending again and again.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use kube::runtime::events::EventType;
use ropewalk_operator_api::names;
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
        let obstacles = match missing(&context.client).await {
            Ok(missing) => {
                for (plural, _) in NEEDED {
                    let name = format!("{plural}.{}", names::GROUP);
                    context.metrics.crd(&name, missing.contains(&name));
                }
                missing
                    .iter()
                    .map(|name| format!("the custom resource definition {name} is not installed"))
                    .collect()
            }
            Err(error) => vec![format!("the API server cannot be asked: {error}")],
        };
        health.set(obstacles.clone());
        if obstacles.is_empty() {
            return true;
        }
        let note = obstacles.join("; ");
        tracing::warn!(note, "waiting");
        if let (Some(pod), false) = (pod, told) {
            let words = ("DefinitionsMissing", "Start");
            context.tell(pod, EventType::Warning, words, note).await;
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return false,
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
    use kube::Resource as _;
    use ropewalk_operator_api::{BrokerCluster, Queue};

    use super::*;

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
