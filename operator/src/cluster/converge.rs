//! Everything that is written for a cluster: volumes, then what pods mount, then the pods.
//!
//! No step waits for another; what goes wrong is collected and becomes conditions.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::{BrokerCluster, names};
use ropewalk_operator_plan::cluster::children::{self, Children};
use ropewalk_operator_plan::cluster::rollout::Decision;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use ropewalk_operator_plan::cluster::{Observed, Valid, properties};
use ropewalk_operator_plan::intent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{MANAGER, Work, restart};
use crate::admin::{CallError, Target};
use crate::apply::{self, Belongs, Outcome};
use crate::signals::ClusterKey;

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What went wrong.
    pub(super) problems: Vec<Problem>,
    /// Brokers that were restarted.
    pub(super) restarted: Vec<i32>,
    /// Brokers whose settings were refused: they are not restarted into them.
    refused: Vec<i32>,
}

/// Writes what does not hold.
pub(super) async fn converge(
    work: &Work,
    cluster: &BrokerCluster,
    valid: &Valid,
    observed: &mut Observed,
) -> Done {
    let mut step = Step { work, valid, done: Done::default() };
    let children = children::children(valid);
    step.claims(&children, observed).await;
    step.plain(&children, observed).await;
    step.settings(cluster, observed).await;
    step.config_maps(&children, observed).await;
    step.stateful_sets(&children, observed).await;
    step.done
}

struct Step<'a> {
    work: &'a Work,
    valid: &'a Valid,
    done: Done,
}

impl Step<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.work.context.client.clone(), &self.valid.namespace)
    }

    /// How the owner of what an earlier cluster of this name left behind is called.
    fn predecessor(&self) -> String {
        format!("BrokerCluster {} ", self.valid.name)
    }

    /// Applies one object; what goes wrong concerns `concerns`.
    async fn apply<K>(
        &mut self,
        wanted: &Value,
        there: Option<&K>,
        belongs: Belongs<'_>,
        concerns: Concern,
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        let kind = K::kind(&()).into_owned();
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match apply::apply(&self.api::<K>(), MANAGER, wanted, there, belongs).await {
            Ok(Outcome::Unchanged) => {}
            Ok(Outcome::Written) => {
                tracing::info!(kind, name, "applied");
                self.work.context.metrics.wrote("cluster child");
            }
            Ok(Outcome::Taken(owner)) if owner.starts_with(&self.predecessor()) => {
                let message = format!(
                    "the {kind} {name} of the BrokerCluster of this name that was deleted is still there; it goes by itself"
                );
                let concerns = Concern::Existence;
                self.done.problems.push(Problem { reason: "WaitingForCleanup", message, concerns });
            }
            Ok(Outcome::Taken(owner)) => {
                let message = format!(
                    "the {kind} {name} belongs to {owner}: delete it, or name the BrokerCluster otherwise"
                );
                let concerns = Concern::Existence;
                self.done.problems.push(Problem { reason: "NameCollision", message, concerns });
            }
            Err(error) => {
                let problem = problem(&format!("the {kind} {name}"), &error, concerns);
                self.done.problems.push(problem);
            }
        }
    }

    /// Before anything else, and whatever state the brokers are in.
    async fn claims(&mut self, children: &Children, observed: &Observed) {
        for (id, wanted) in &children.claims {
            let there = observed.claims.get(id);
            if there.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                continue; // It is made anew when it is gone.
            }
            self.apply::<PersistentVolumeClaim>(wanted, there, Belongs::ToNobody, Concern::Storage)
                .await;
        }
    }

    async fn plain(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = Belongs::To(&uid);
        let there = observed.service_account.as_ref();
        self.apply::<ServiceAccount>(&children.service_account, there, ours, Concern::Other).await;
        self.secret(observed).await;
        for wanted in &children.services {
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
            let there = observed.services.get(name);
            self.apply::<Service>(wanted, there, ours, Concern::Other).await;
        }
        let there = observed.budget.as_ref();
        self.apply::<PodDisruptionBudget>(&children.budget, there, ours, Concern::Other).await;
    }

    /// The token is drawn once. An object of that name that holds one is left as it is.
    async fn secret(&mut self, observed: &Observed) {
        let data = observed.secret.as_ref().and_then(|secret| secret.data.as_ref());
        let has_token = data.and_then(|data| data.get("token")).is_some_and(|t| !t.0.is_empty());
        let uid = self.valid.owner.uid.clone();
        let is_ours = observed
            .secret
            .as_ref()
            .is_some_and(|secret| secret.owner_references().iter().any(|owner| owner.uid == uid));
        if has_token && is_ours {
            return;
        }
        let mut bytes = [0_u8; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            tracing::error!(%error, "no random bytes");
            return;
        }
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = children::secret(self.valid, &token);
        let there = observed.secret.as_ref();
        self.apply::<Secret>(&wanted, there, Belongs::To(&uid), Concern::Other).await;
    }

    /// Tells running brokers their settings. Asked once for each start of a broker and each change.
    async fn settings(&mut self, cluster: &BrokerCluster, observed: &mut Observed) {
        let key = ClusterKey::new(self.valid.namespace.clone(), cluster.name_any());
        for broker in &self.valid.brokers {
            let Some(answer) = observed.answers.get_mut(&broker.id) else { continue };
            if !answer.ready {
                continue;
            }
            let settings = properties::settings(self.valid, broker);
            let mark = (answer.started_at_ms, intent::hash(&settings));
            let target = Target { cluster: key.clone(), broker: broker.id };
            if self.work.told.0.lock().get(&target) == Some(&mark) {
                continue;
            }
            let body = json!({ "settings": settings });
            let brokers = &self.work.context.brokers;
            match brokers.put::<Told>(&target, "/v1/settings", &body).await {
                Ok(told) => {
                    if !told.applied.is_empty() {
                        tracing::info!(broker = broker.id, settings = ?told.applied, "took effect");
                    }
                    answer.settings.needs_restart = told.needs_restart;
                    self.work.told.0.lock().insert(target, mark);
                }
                Err(error) => {
                    if error.is_refused("InvalidSetting") {
                        self.done.refused.push(broker.id);
                    }
                    let refused = error.refused();
                    let message = match error {
                        CallError::Refused { .. } => {
                            format!("{}; correct `spec.config`", refused.message)
                        }
                        CallError::Unreachable(_)
                        | CallError::Malformed(_)
                        | CallError::NoToken(_)
                        | CallError::NotLeader(_) => refused.message,
                    };
                    let concerns = Concern::Configuration;
                    self.done.problems.push(Problem { reason: refused.reason, message, concerns });
                }
            }
        }
    }

    /// The files that brokers find when they start. What a running broker refused does not get there.
    async fn config_maps(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        for (id, wanted) in &children.config_maps {
            if self.done.refused.contains(id) {
                continue;
            }
            let there = observed.config_maps.get(&names::broker(&self.valid.name, *id));
            self.apply::<ConfigMap>(wanted, there, Belongs::To(&uid), Concern::Other).await;
        }
    }

    /// Made when missing. The template of one that is there is left to the rollout; only whether its
    /// pod runs is followed at once.
    async fn stateful_sets(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        for (id, wanted) in &children.stateful_sets {
            let Some(there) = observed.stateful_sets.get(id) else {
                self.apply::<StatefulSet>(wanted, None, Belongs::To(&uid), Concern::Other).await;
                continue;
            };
            if !there.owner_references().iter().any(|owner| owner.uid == uid) {
                self.apply(wanted, Some(there), Belongs::To(&uid), Concern::Existence).await;
                continue;
            }
            let running = there.spec.as_ref().and_then(|spec| spec.replicas);
            let replicas = i32::from(self.valid.running);
            if running != Some(replicas) {
                let patch = json!({"spec": {"replicas": replicas}});
                self.patch_set(there, &patch).await;
            }
        }
    }

    async fn patch_set(&mut self, set: &StatefulSet, patch: &Value) {
        let parameters =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = set.name_any();
        let api = self.api::<StatefulSet>();
        match api.patch(&name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => self.work.context.metrics.wrote("cluster child"),
            Err(error) => {
                let what = format!("the StatefulSet {name}");
                self.done.problems.push(problem(&what, &error, Concern::Other));
            }
        }
    }
}

/// What a broker says when it is told its settings.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    applied: Vec<String>,
    needs_restart: Vec<String>,
}

/// Carries out what the rollout decided.
pub(super) async fn roll(
    work: &Work,
    (cluster, valid): (&BrokerCluster, &Valid),
    decisions: &mut [(i32, Decision)],
    done: &mut Done,
) {
    let mut step = Step { work, valid, done: std::mem::take(done) };
    for (id, decision) in decisions.iter_mut() {
        if step.done.refused.contains(id) {
            *decision = Decision::Settled;
        }
        match decision {
            Decision::Settled | Decision::Wait { .. } | Decision::Offer { .. } => {}
            Decision::Record => {
                let intent = valid.intent.to_string();
                let annotations = json!({names::ANNOTATION_INTENT: intent});
                let patch = json!({"metadata": {"annotations": annotations}});
                let name = names::broker(&valid.name, *id);
                let set = StatefulSet {
                    metadata: kube::core::ObjectMeta { name: Some(name), ..Default::default() },
                    ..StatefulSet::default()
                };
                step.patch_set(&set, &patch).await;
            }
            Decision::Restart { reason } => {
                match restart::restart(work, cluster, valid, *id, reason).await {
                    Ok(true) => step.done.restarted.push(*id),
                    Ok(false) => {}
                    Err(error) => {
                        let message = format!("broker {id} could not be restarted: {error}");
                        let concerns = Concern::Other;
                        let reason = "RestartFailed";
                        step.done.problems.push(Problem { reason, message, concerns });
                    }
                }
            }
        }
    }
    *done = step.done;
}

/// What the API server said, in words that say what to do.
fn problem(what: &str, error: &kube::Error, concerns: Concern) -> Problem {
    let kube::Error::Api(status) = error else {
        let message = format!("{what} cannot be written: {error}");
        return Problem { reason: "ApiServerUnreachable", message, concerns };
    };
    let said = &status.message;
    let (reason, advice) = match status.code {
        403 if said.contains("exceeded quota") => ("QuotaExceeded", "raise the quota or free some"),
        403 if concerns == Concern::Storage && said.contains("resize") => {
            ("ResizeRefused", "use a class with `allowVolumeExpansion: true`, or set the size back")
        }
        403 => ("Forbidden", "give the operator the right, or change the policy that refuses"),
        409 => ("Conflict", "it is tried again"),
        422 => ("Rejected", "correct the spec"),
        _ => ("ApiServerError", "it is tried again"),
    };
    Problem { reason, message: format!("{what} cannot be written: {said}; {advice}"), concerns }
}
