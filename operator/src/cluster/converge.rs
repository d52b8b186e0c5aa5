//! Writes the objects of a cluster: volumes, then what pods mount, then the pods.
//!
//! Steps do not depend on each other; failures are collected and become conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::names;
use ropewalk_operator_plan::cluster::children::{self, Children};
use ropewalk_operator_plan::cluster::observed::{AnswerSettings, is_running, keeps_ending};
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use ropewalk_operator_plan::cluster::{Broker, Observed, ValidCluster, properties, volume};
use ropewalk_operator_plan::intent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{MANAGER, settings};
use crate::apply::{self, ApplyOutcome, RequiredOwner};
use crate::context::Context;

/// Result of the writes.
#[derive(Debug, Default)]
pub(super) struct ApplyReport {
    /// Failures, each to be reported as a condition.
    pub(super) problems: Vec<Problem>,
    /// The settings state of each broker that answered, by broker id.
    pub(super) settings: BTreeMap<i32, AnswerSettings>,
    /// Ids of the brokers that refused their settings.
    pub(super) refused: Vec<i32>,
}

/// Writes every object that differs from its wanted state.
pub(super) async fn apply(
    context: &Context,
    valid: &ValidCluster,
    observed: &Observed,
    children: &Children,
) -> ApplyReport {
    let mut step = Step { context, valid, report: ApplyReport::default() };
    step.claims(children, observed).await;
    step.relabel(observed).await;
    step.plain(children, observed).await;
    step.settings(observed).await;
    step.config_maps(children, observed).await;
    step.stateful_sets(children, observed).await;
    step.report
}

struct Step<'a> {
    context: &'a Context,
    valid: &'a ValidCluster,
    report: ApplyReport,
}

impl Step<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), &self.valid.namespace)
    }

    /// Whether this cluster, and not an earlier one of its name, owns the object.
    fn is_owned(&self, object: &impl Resource) -> bool {
        object.owner_references().iter().any(|owner| owner.uid == self.valid.owner.uid)
    }

    /// How the owner reference of an object of an earlier cluster of this name begins.
    fn predecessor(&self) -> String {
        format!("BrokerCluster {} ", self.valid.name)
    }

    /// Applies one object; a failure is reported under `concerns`.
    async fn apply<K>(
        &mut self,
        wanted: &K,
        there: Option<&K>,
        owner: RequiredOwner<'_>,
        concerns: Concern,
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        let kind = K::kind(&()).into_owned();
        let name = wanted.name_any();
        let (of, hash) = (
            format!("{}/{}/{kind} {name}", self.valid.namespace, self.valid.name),
            intent::hash(wanted),
        );
        let contested = &self.context.contested;
        if there.is_some_and(|there| contested.is_futile(&of, &hash, &apply::mark(there))) {
            self.report.problems.push(altered(&kind, &name));
            return;
        }
        match apply::apply(&self.api::<K>(), MANAGER, wanted, there, owner).await {
            Ok(ApplyOutcome::Unchanged) => contested.succeeded(&of),
            Ok(ApplyOutcome::Written) => {
                tracing::info!(kind, name, "object applied");
                contested.succeeded(&of);
                self.context.metrics.wrote("cluster child");
            }
            Ok(ApplyOutcome::Altered(left)) => {
                tracing::warn!(
                    kind,
                    name,
                    "object applied, and altered while it was written, probably by an admission policy"
                );
                contested.altered(of, hash, left);
                self.context.metrics.wrote("cluster child");
                self.report.problems.push(altered(&kind, &name));
            }
            Ok(ApplyOutcome::OwnedByOther(owner)) if owner.starts_with(&self.predecessor()) => {
                let message = format!(
                    "the {kind} {name} of the BrokerCluster of this name that was deleted is still there; Kubernetes is removing it"
                );
                let concerns = Concern::Existence;
                self.report.problems.push(Problem {
                    reason: "WaitingForCleanup",
                    message,
                    concerns,
                });
            }
            Ok(ApplyOutcome::OwnedByOther(owner)) => {
                let message = format!(
                    "the {kind} {name} belongs to {owner}: delete it, or name the BrokerCluster otherwise"
                );
                let concerns = Concern::Existence;
                self.report.problems.push(Problem { reason: "NameCollision", message, concerns });
            }
            Err(error) => {
                let problem = problem(&format!("the {kind} {name}"), &error, concerns);
                self.report.problems.push(problem);
            }
        }
    }

    /// Writes the volume claims first, in any state of the brokers.
    async fn claims(&mut self, children: &Children, observed: &Observed) {
        for (id, wanted) in &children.claims {
            let there = observed.claims.get(id);
            if there.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                continue; // Created again once it is gone.
            }
            self.apply(wanted, there, RequiredOwner::None, Concern::Storage).await;
        }
    }

    /// Removes the label of earlier releases from objects that must not be pruned by a deployment
    /// tool.
    async fn relabel(&mut self, observed: &Observed) {
        for claim in observed.claims.values() {
            if let Some(patch) = children::relabelled(self.valid, claim) {
                self.patch(claim, &patch).await;
            }
        }
        if let Some(secret) = observed.secret.as_ref().filter(|secret| self.is_owned(*secret))
            && let Some(patch) = children::relabelled(self.valid, secret)
        {
            self.patch(secret, &patch).await;
        }
    }

    async fn plain(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = RequiredOwner::Controller(&uid);
        let there = observed.service_account.as_ref();
        self.apply(&children.service_account, there, ours, Concern::Other).await;
        self.secret(observed).await;
        for wanted in &children.services {
            let there = observed.services.get(&wanted.name_any());
            self.apply(wanted, there, ours, Concern::Other).await;
        }
        let there = observed.budget.as_ref();
        self.apply(&children.budget, there, ours, Concern::Other).await;
    }

    /// Creates the Secret with a random token once. A Secret of this cluster that holds a token is
    /// not changed.
    async fn secret(&mut self, observed: &Observed) {
        let data = observed.secret.as_ref().and_then(|secret| secret.data.as_ref());
        let has_token = data.and_then(|data| data.get("token")).is_some_and(|t| !t.0.is_empty());
        if has_token && observed.secret.as_ref().is_some_and(|secret| self.is_owned(secret)) {
            return;
        }
        let mut bytes = [0_u8; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            tracing::error!(%error, "token not generated: no random bytes");
            return;
        }
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = children::secret(self.valid, &token);
        let there = observed.secret.as_ref();
        let uid = self.valid.owner.uid.clone();
        self.apply(&wanted, there, RequiredOwner::Controller(&uid), Concern::Other).await;
    }

    /// Sends settings before the ConfigMaps are written: a setting that a broker refuses must not
    /// get into the file that it reads on start.
    async fn settings(&mut self, observed: &Observed) {
        let push = settings::push(self.context, self.valid, observed).await;
        self.report.settings = push.settings;
        self.report.refused = push.refused;
        self.report.problems.extend(push.problems);
    }

    /// Writes the ConfigMaps that brokers read on start. Settings that a running broker refused, or
    /// could not yet refuse, are not written; the permission to format is revoked in any case.
    async fn config_maps(&mut self, children: &Children, observed: &Observed) {
        let valid = self.valid;
        let uid = valid.owner.uid.clone();
        for broker in &valid.brokers {
            let Some(wanted) = children.config_maps.get(&broker.id) else { continue };
            let there = observed.config_maps.get(&names::broker(&valid.name, broker.id));
            let is_held = self.report.refused.contains(&broker.id)
                || (there.is_some() && self.may_refuse(broker.id, observed));
            let wanted = match (is_held, there) {
                (false, _) => wanted.clone(),
                (true, Some(there)) if broker.format.is_none() => {
                    let data = there.data.as_ref();
                    let file = data.and_then(|data| data.get(children::SETTINGS_FILE));
                    let Some(file) = file.and_then(|file| properties::without_leave(file)) else {
                        continue;
                    };
                    children::config_map_with(valid, broker, &file)
                }
                (true, _) => continue,
            };
            self.apply(&wanted, there, RequiredOwner::Controller(&uid), Concern::Other).await;
        }
    }

    /// Whether a broker runs and has not yet accepted its current settings.
    fn may_refuse(&self, id: i32, observed: &Observed) -> bool {
        let Some(pod) = observed.pods.get(&id).filter(|pod| is_running(pod)) else { return false };
        let Some(broker) = self.valid.brokers.iter().find(|broker| broker.id == id) else {
            return false;
        };
        let hash = properties::hash(&properties::settings(self.valid, broker));
        let knows = self.report.settings.get(&id).is_some_and(|settings| settings.are(&hash));
        !knows && !keeps_ending(observed, pod)
    }

    /// Creates missing StatefulSets. The template of an existing one is left to the rollout; other
    /// changes by other clients are reverted, and `replicas` follows the run state at once.
    async fn stateful_sets(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = RequiredOwner::Controller(&uid);
        for broker in &self.valid.brokers {
            let Some(wanted) = children.stateful_sets.get(&broker.id) else { continue };
            let Some(there) = observed.stateful_sets.get(&broker.id) else {
                self.apply(wanted, None, ours, Concern::Other).await;
                continue;
            };
            if !self.is_owned(there) {
                self.apply(wanted, Some(there), ours, Concern::Existence).await;
                continue;
            }
            let replicas = self.replicas(broker, there, observed);
            if let Some(mut applied) = children::as_applied(self.valid, broker, there) {
                if let Some(spec) = applied.spec.as_mut() {
                    spec.replicas = replicas;
                }
                self.apply(&applied, Some(there), ours, Concern::Other).await;
            } else if there.spec.as_ref().and_then(|spec| spec.replicas) != replicas {
                self.patch(there, &json!({"spec": {"replicas": replicas}})).await;
            }
        }
    }

    /// The replicas of a broker's StatefulSet. A pod whose volume would be lost with it is not
    /// stopped for hibernation.
    fn replicas(&mut self, broker: &Broker, there: &StatefulSet, seen: &Observed) -> Option<i32> {
        let wanted = Some(i32::from(self.valid.running));
        let threat = volume::threat(seen, broker.id).filter(|_| !self.valid.running);
        let (Some(threat), true) = (threat, seen.pods.contains_key(&broker.id)) else {
            return wanted;
        };
        let rescue = volume::rescue(seen, &self.valid.name, broker.id).unwrap_or_default();
        let message = format!("broker {} is not stopped: {rescue}", broker.id);
        let concerns = Concern::Other;
        self.report.problems.push(Problem { reason: threat.reason(), message, concerns });
        there.spec.as_ref().and_then(|spec| spec.replicas)
    }

    /// Merges a patch into an object.
    async fn patch<K>(&mut self, object: &K, patch: &Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let parameters =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = object.name_any();
        match self.api::<K>().patch(&name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => self.context.metrics.wrote("cluster child"),
            Err(error) => {
                let what = format!("the {} {name}", K::kind(&()));
                self.report.problems.push(problem(&what, &error, Concern::Other));
            }
        }
    }
}

/// The problem of an object that another client, such as an admission policy, changes at every
/// write.
fn altered(kind: &str, name: &str) -> Problem {
    let message = format!(
        "the {kind} {name} is changed by another client, such as an admission policy, at every write; the operator leaves it as it is. Make an exception for objects with the label {}={}",
        names::LABEL_MANAGED_BY,
        names::MANAGED_BY
    );
    Problem { reason: "ChangedByOthers", message, concerns: Concern::Other }
}

/// The problem for an error of the API server, with the action for the user.
pub(super) fn problem(what: &str, error: &kube::Error, concerns: Concern) -> Problem {
    let kube::Error::Api(status) = error else {
        let message = format!("{what} cannot be written: {error}");
        return Problem { reason: "ApiServerUnreachable", message, concerns };
    };
    let text = &status.message;
    let (reason, advice) = match status.code {
        403 if text.contains("exceeded quota") => ("QuotaExceeded", "raise the quota or free some"),
        403 if concerns == Concern::Storage && text.contains("resize") => (
            "ResizeRefused",
            "use a StorageClass with `allowVolumeExpansion: true`, or restore the previous size",
        ),
        403 => {
            ("Forbidden", "grant the operator the permission, or change the policy that refuses")
        }
        422 if concerns == Concern::Storage && text.contains("can not be less than") => (
            "ResizeNotTakenBack",
            "before 1.32 Kubernetes cannot reduce the requested size of a volume that could not grow: set `spec.storage.size` to what the claim asks for",
        ),
        409 => ("Conflict", "it is retried"),
        422 => ("Rejected", "correct the spec"),
        _ => ("ApiServerError", "it is retried"),
    };
    Problem { reason, message: format!("{what} cannot be written: {text}; {advice}"), concerns }
}
