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
use ropewalk_operator_plan::cluster::observed::{is_running, keeps_ending};
use ropewalk_operator_plan::cluster::rollout::Decision;
use ropewalk_operator_plan::cluster::verdict::{Concern, Problem};
use ropewalk_operator_plan::cluster::{Answer, Broker, Observed, Valid, properties, volume};
use ropewalk_operator_plan::intent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::restart::{self, Restarted};
use super::{MANAGER, Work, key};
use crate::admin::{CallError, Target};
use crate::apply::{self, Belongs, Outcome};

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
    step.relabel(observed).await;
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
        let (of, hash) = (
            format!("{}/{}/{kind} {name}", self.valid.namespace, self.valid.name),
            intent::hash(wanted),
        );
        let contested = &self.work.contested;
        if there.is_some_and(|there| contested.is_vain(&of, &hash, &apply::mark(there))) {
            self.done.problems.push(altered(&kind, &name));
            return;
        }
        match apply::apply(&self.api::<K>(), MANAGER, wanted, there, belongs).await {
            Ok(Outcome::Unchanged) => contested.settled(&of),
            Ok(Outcome::Written) => {
                tracing::info!(kind, name, "applied");
                contested.settled(&of);
                self.work.context.metrics.wrote("cluster child");
            }
            Ok(Outcome::Altered(left)) => {
                tracing::warn!(kind, name, "applied, and changed by somebody else at once");
                contested.lost(of, hash, left);
                self.work.context.metrics.wrote("cluster child");
                self.done.problems.push(altered(&kind, &name));
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

    /// Tells brokers their settings as soon as they answer, ready or not: a shorter retention is what
    /// a full one needs. Asked once for each start of a broker and each change.
    async fn settings(&mut self, cluster: &BrokerCluster, observed: &mut Observed) {
        for broker in &self.valid.brokers {
            let Some(answer) = observed.answers.get_mut(&broker.id) else { continue };
            let target = Target { cluster: key(cluster), broker: broker.id };
            answer.settings.told_hash = self.work.told.recall(&target, answer.started_at_ms);
            let settings = properties::settings(self.valid, broker);
            let hash = properties::hash(&settings);
            if answer.settings.are(&hash) {
                continue;
            }
            let body = json!({ "settings": settings });
            let brokers = &self.work.context.brokers;
            match brokers.put::<SettingsOutcome>(&target, "/v1/settings", &body).await {
                Ok(outcome) => {
                    if !outcome.applied.is_empty() {
                        let settings = outcome.applied;
                        tracing::info!(broker = broker.id, ?settings, "took effect");
                    }
                    answer.settings.needs_restart = outcome.needs_restart;
                    answer.settings.last_hash = Some(hash.clone());
                    self.work.told.remember(target, answer.started_at_ms, hash);
                }
                // It reads its log, and answers when that is done.
                Err(error) if error.is_refused("NotReady") => {}
                Err(error) => {
                    if error.is_refused("InvalidSetting") {
                        self.done.refused.push(broker.id);
                    }
                    self.done.problems.push(settings_problem(&error));
                }
            }
        }
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
            let is_held = self.done.refused.contains(&broker.id)
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
            self.apply::<ConfigMap>(&wanted, there, Belongs::To(&uid), Concern::Other).await;
        }
    }

    /// Whether a broker runs and was not told its settings yet.
    fn may_refuse(&self, id: i32, observed: &Observed) -> bool {
        let Some(pod) = observed.pods.get(&id).filter(|pod| is_running(pod)) else { return false };
        let Some(broker) = self.valid.brokers.iter().find(|broker| broker.id == id) else {
            return false;
        };
        let hash = properties::hash(&properties::settings(self.valid, broker));
        let answer: Option<&Answer> = observed.answers.get(&id);
        let is_told = answer.is_some_and(|answer| answer.settings.are(&hash));
        !is_told && !keeps_ending(observed, pod)
    }

    /// Made when missing. The template of one that is there is left to the rollout; what somebody else
    /// changed is put back, and whether its pod runs is followed at once.
    async fn stateful_sets(&mut self, children: &Children, observed: &Observed) {
        let uid = self.valid.owner.uid.clone();
        let ours = Belongs::To(&uid);
        for broker in &self.valid.brokers {
            let Some(wanted) = children.stateful_sets.get(&broker.id) else { continue };
            let Some(there) = observed.stateful_sets.get(&broker.id) else {
                self.apply::<StatefulSet>(wanted, None, ours, Concern::Other).await;
                continue;
            };
            if !there.owner_references().iter().any(|owner| owner.uid == uid) {
                self.apply(wanted, Some(there), ours, Concern::Existence).await;
                continue;
            }
            let replicas = self.replicas(broker, there, observed);
            if let Some(mut applied) = children::as_applied(self.valid, broker, there) {
                applied["spec"]["replicas"] = json!(replicas);
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
        self.done.problems.push(Problem { reason: threat.reason(), message, concerns });
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
            Ok(_) => self.work.context.metrics.wrote("cluster child"),
            Err(error) => {
                let what = format!("the {} {name}", K::kind(&()));
                self.done.problems.push(problem(&what, &error, Concern::Other));
            }
        }
    }
}

/// What a broker says when it is told its settings.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SettingsOutcome {
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
            Decision::Settled
            | Decision::Unconfirmed { .. }
            | Decision::Wait { .. }
            | Decision::Offer { .. } => {}
            Decision::Record => {
                let intent = valid.intent.to_string();
                let annotations = json!({
                    names::ANNOTATION_INTENT: intent,
                    names::ANNOTATION_TEMPLATE_INTENT: intent,
                });
                let patch = json!({"metadata": {"annotations": annotations}});
                let name = names::broker(&valid.name, *id);
                let set = StatefulSet {
                    metadata: kube::core::ObjectMeta { name: Some(name), ..Default::default() },
                    ..StatefulSet::default()
                };
                step.patch(&set, &patch).await;
            }
            Decision::Restart { reason } => {
                match restart::restart(work, cluster, valid, *id, reason).await {
                    Ok(Restarted::Yes) => step.done.restarted.push(*id),
                    Ok(Restarted::LookAgain) => {}
                    Ok(Restarted::Refused(words)) => {
                        let message = format!(
                            "broker {id} has to restart, and Kubernetes refuses to evict its pod: {words}; it is tried again"
                        );
                        let (reason, concerns) = ("EvictionRefused", Concern::Other);
                        step.done.problems.push(Problem { reason, message, concerns });
                    }
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

/// Why settings were not taken, in words that say what to do.
fn settings_problem(error: &CallError) -> Problem {
    let refused = error.refused();
    let message = if matches!(error, CallError::Refused { .. }) {
        format!("{}; correct `spec.config`", refused.message)
    } else {
        refused.message
    };
    Problem { reason: refused.reason, message, concerns: Concern::Configuration }
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
