//! Everything that is written for a cluster: volumes, then what pods mount, then the pods.
//!
//! No step waits for another; what goes wrong is collected and becomes conditions.

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
use crate::apply::{self, Belongs, Outcome};
use crate::context::Context;

/// What came of the writes.
#[derive(Debug, Default)]
pub(super) struct ApplyReport {
    /// What went wrong.
    pub(super) problems: Vec<Problem>,
    /// What each broker that answers says of its settings now, by broker id.
    pub(super) settings: BTreeMap<i32, AnswerSettings>,
    /// Brokers that refused their settings.
    pub(super) refused: Vec<i32>,
}

/// Writes what does not hold.
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

    /// How the owner of what an earlier cluster of this name left behind is called.
    fn predecessor(&self) -> String {
        format!("BrokerCluster {} ", self.valid.name)
    }

    /// Applies one object; what goes wrong concerns `concerns`.
    async fn apply<K>(
        &mut self,
        wanted: &K,
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
        let name = wanted.name_any();
        let (of, hash) = (
            format!("{}/{}/{kind} {name}", self.valid.namespace, self.valid.name),
            intent::hash(wanted),
        );
        let contested = &self.context.contested;
        if there.is_some_and(|there| contested.is_vain(&of, &hash, &apply::mark(there))) {
            self.report.problems.push(altered(&kind, &name));
            return;
        }
        match apply::apply(&self.api::<K>(), MANAGER, wanted, there, belongs).await {
            Ok(Outcome::Unchanged) => contested.settled(&of),
            Ok(Outcome::Written) => {
                tracing::info!(kind, name, "applied");
                contested.settled(&of);
                self.context.metrics.wrote("cluster child");
            }
            Ok(Outcome::Altered(left)) => {
                tracing::warn!(kind, name, "applied, and changed by somebody else at once");
                contested.lost(of, hash, left);
                self.context.metrics.wrote("cluster child");
                self.report.problems.push(altered(&kind, &name));
            }
            Ok(Outcome::Taken(owner)) if owner.starts_with(&self.predecessor()) => {
                let message = format!(
                    "the {kind} {name} of the BrokerCluster of this name that was deleted is still there; it goes by itself"
                );
                let concerns = Concern::Existence;
                self.report.problems.push(Problem {
                    reason: "WaitingForCleanup",
                    message,
                    concerns,
                });
            }
            Ok(Outcome::Taken(owner)) => {
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

    /// Before anything else, and whatever state the brokers are in.
    async fn claims(&mut self, children: &Children, observed: &Observed) {
        for (id, wanted) in &children.claims {
            let there = observed.claims.get(id);
            if there.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                continue; // It is made anew when it is gone.
            }
            self.apply(wanted, there, Belongs::ToNobody, Concern::Storage).await;
        }
    }

    /// Takes the label of earlier releases off what must outlive a deployment tool's mistake.
    async fn relabel(&mut self, observed: &Observed) {
        for claim in observed.claims.values() {
            if let Some(patch) = children::relabelled(self.valid, claim) {
                self.patch(claim, &patch).await;
            }
        }
        let uid = &self.valid.owner.uid;
        let secret = observed.secret.as_ref();
        let ours = secret.filter(|it| it.owner_references().iter().any(|one| one.uid == *uid));
        if let Some(secret) = ours
            && let Some(patch) = children::relabelled(self.valid, secret)
        {
            self.patch(secret, &patch).await;
        }
    }

    async fn plain(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = Belongs::To(&uid);
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
        self.apply(&wanted, there, Belongs::To(&uid), Concern::Other).await;
    }

    /// Before the files that brokers find when they start: what a broker refuses must not get there.
    async fn settings(&mut self, observed: &Observed) {
        let push = settings::push(self.context, self.valid, observed).await;
        self.report.settings = push.settings;
        self.report.refused = push.refused;
        self.report.problems.extend(push.problems);
    }

    /// The files that brokers find when they start. What a running broker refused does not get
    /// there, and neither does what it had no chance to refuse; the leave to format is taken back
    /// all the same.
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
            self.apply(&wanted, there, Belongs::To(&uid), Concern::Other).await;
        }
    }

    /// Whether a broker runs and does not know its settings yet.
    fn may_refuse(&self, id: i32, observed: &Observed) -> bool {
        let Some(pod) = observed.pods.get(&id).filter(|pod| is_running(pod)) else { return false };
        let Some(broker) = self.valid.brokers.iter().find(|broker| broker.id == id) else {
            return false;
        };
        let hash = properties::hash(&properties::settings(self.valid, broker));
        let knows = self.report.settings.get(&id).is_some_and(|settings| settings.are(&hash));
        !knows && !keeps_ending(observed, pod)
    }

    /// Made when missing. The template of one that is there is left to the rollout; what somebody else
    /// changed is put back, and whether its pod runs is followed at once.
    async fn stateful_sets(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = Belongs::To(&uid);
        for broker in &self.valid.brokers {
            let Some(wanted) = children.stateful_sets.get(&broker.id) else { continue };
            let Some(there) = observed.stateful_sets.get(&broker.id) else {
                self.apply(wanted, None, ours, Concern::Other).await;
                continue;
            };
            if !there.owner_references().iter().any(|owner| owner.uid == uid) {
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

    /// How many pods a broker has. One whose volume would go with its pod does not go to sleep.
    fn replicas(&mut self, broker: &Broker, there: &StatefulSet, seen: &Observed) -> Option<i32> {
        let wanted = Some(i32::from(self.valid.running));
        let threat = volume::threat(seen, broker.id).filter(|_| !self.valid.running);
        let (Some(threat), true) = (threat, seen.pods.contains_key(&broker.id)) else {
            return wanted;
        };
        let words = volume::rescue(seen, &self.valid.name, broker.id).unwrap_or_default();
        let message = format!("broker {} is not stopped: {words}", broker.id);
        let concerns = Concern::Other;
        self.report.problems.push(Problem { reason: threat.reason(), message, concerns });
        there.spec.as_ref().and_then(|spec| spec.replicas)
    }

    /// Changes a part of an object, and leaves the rest as it is.
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

/// Somebody else changes an object while it is written.
fn altered(kind: &str, name: &str) -> Problem {
    let message = format!(
        "the {kind} {name} is changed by somebody else whenever it is written, such as an admission policy; it is left so. Make an exception for objects with the label {}={}",
        names::LABEL_MANAGED_BY,
        names::MANAGED_BY
    );
    Problem { reason: "ChangedByOthers", message, concerns: Concern::Other }
}

/// What the API server said, in words that say what to do.
pub(super) fn problem(what: &str, error: &kube::Error, concerns: Concern) -> Problem {
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
        422 if concerns == Concern::Storage && said.contains("can not be less than") => (
            "ResizeNotTakenBack",
            "before 1.32 Kubernetes does not take back the size of a volume that could not grow: set `spec.storage.size` to what the claim asks for",
        ),
        409 => ("Conflict", "it is tried again"),
        422 => ("Rejected", "correct the spec"),
        _ => ("ApiServerError", "it is tried again"),
    };
    Problem { reason, message: format!("{what} cannot be written: {said}; {advice}"), concerns }
}
