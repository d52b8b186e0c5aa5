//! An in-memory fake of the API server, limited to what the controllers use: get, list by labels,
//! create, apply, merge, replace, delete, evict, status.
//!
//! It keeps the guarantees that the controllers rely on: a uid or a resource version in a body and
//! the preconditions of a deletion or an eviction are compared, an object is created once, and an
//! object with finalizers stays until they are removed. It counts every write, which proves K1.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// An action that runs once, right before a request is answered, as a concurrent client would.
type Before = (String, Box<dyn FnOnce(&Server) + Send>);

/// A permission: verb, API group, resource with its subresource.
pub(crate) type Right = (&'static str, String, String);

/// The fake API server. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// The objects, by path without the query.
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    version: u64,
    uids: u64,
    before: Vec<Before>,
    asked: BTreeSet<Right>,
    /// Why evictions are refused.
    budget: Option<String>,
    /// Several budgets cover every pod: an eviction is answered with 201 and a failure as the body.
    has_two_budgets: bool,
    /// What an admission policy merges into everything that is written below a path.
    policies: Vec<(String, Value)>,
}

impl Server {
    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "shop")
    }

    /// Stores an object, as another client would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        let mut state = self.0.lock();
        let old = state.objects.insert(path.to_owned(), object).unwrap_or_default();
        state.touch(path, &old);
    }

    /// The object at a path; null if there is none.
    pub(crate) fn at(&self, path: &str) -> Value {
        self.0.lock().objects.get(path).cloned().unwrap_or_default()
    }

    /// Every object below a path.
    pub(crate) fn below(&self, path: &str) -> Vec<Value> {
        let state = self.0.lock();
        let found = state.objects.iter().filter(|(at, _)| at.starts_with(path));
        found.map(|(_, object)| object.clone()).collect()
    }

    /// Deletes an object, as another client would.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    /// Changes an object, as another client would.
    pub(crate) fn change(&self, path: &str, patch: &Value) {
        let mut state = self.0.lock();
        let object = state.objects.entry(path.to_owned()).or_insert_with(|| json!({}));
        let old = object.clone();
        merge(object, patch);
        state.touch(path, &old);
    }

    /// Lets another client act once, right before the next request that begins with `request`, such
    /// as `PATCH /api/v1/…`, is answered.
    pub(crate) fn before(&self, request: &str, act: impl FnOnce(&Self) + Send + 'static) {
        self.0.lock().before.push((request.to_owned(), Box::new(act)));
    }

    /// From now on evictions are refused with these words, or no longer.
    pub(crate) fn refuse_evictions(&self, words: Option<&str>) {
        self.0.lock().budget = words.map(str::to_owned);
    }

    /// Lets several budgets cover every pod from now on, or no longer.
    pub(crate) fn set_two_budgets(&self, has_two_budgets: bool) {
        self.0.lock().has_two_budgets = has_two_budgets;
    }

    /// From now on an admission policy merges this into everything that is written below `path`.
    pub(crate) fn mutate(&self, path: &str, patch: Value) {
        self.0.lock().policies.push((path.to_owned(), patch));
    }

    /// Every write since the last call, without Events.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().writes)
    }

    /// Every permission that was used so far.
    pub(crate) fn asked(&self) -> BTreeSet<Right> {
        self.0.lock().asked.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let bytes =
            body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let line = format!("{} {path}", parts.method);
        let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let is_apply = kind.is_some_and(|kind| kind.starts_with("application/apply-patch"));
        let faster = {
            let mut state = self.0.lock();
            let found = state.before.iter().position(|(request, _)| line.starts_with(request));
            found.map(|at| state.before.remove(at).1)
        };
        if let Some(act) = faster {
            act(self);
        }
        let mut state = self.0.lock();
        let needed = rights(&parts.method, &path, is_apply);
        let refused = needed.iter().find(|right| !granted().contains(*right));
        if let Some((verb, group, resource)) = refused {
            let words =
                format!("the operator may not {verb} {resource} in the API group \"{group}\"");
            return response(failure(StatusCode::FORBIDDEN, "Forbidden", &words));
        }
        state.asked.extend(needed);
        let is_dry = query.contains("dryRun=All");
        if parts.method != Method::GET && !path.contains("/events") && !is_dry {
            state.writes.push(line);
        }
        response(match parts.method {
            Method::GET => state.get(&path, &query),
            Method::POST if path.ends_with("/eviction") => state.evict(&path, &body, is_dry),
            Method::POST => state.create(&path, &body),
            Method::PATCH | Method::PUT => {
                let is_status = path.ends_with("/status");
                let path = path.strip_suffix("/status").unwrap_or(&path);
                state.write(path, &body, is_apply && !is_status)
            }
            Method::DELETE => state.delete(&path, &body["preconditions"]),
            _ => missing(),
        })
    }
}

impl State {
    /// Sets a new resource version, and a new generation if the spec changed.
    fn touch(&mut self, path: &str, old: &Value) {
        self.version += 1;
        let version = self.version.to_string();
        let Some(object) = self.objects.get_mut(path) else { return };
        if object["metadata"]["uid"].is_null() {
            self.uids += 1;
            object["metadata"]["uid"] = json!(format!("uid-{}-of-{path}", self.uids));
        }
        object["metadata"]["resourceVersion"] = json!(version);
        let counts = path.contains("/statefulsets/") || path.contains("/poddisruptionbudgets/");
        if counts && object["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            object["metadata"]["generation"] = json!(generation);
        }
    }

    fn get(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let is_list = path.rsplit('/').nth(2) == Some("namespaces");
        if !is_list {
            return missing();
        }
        let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let wanted = wanted.unwrap_or_default().replace("%2F", "/").replace("%3D", "=");
        let wanted = wanted.replace("%2C", ",");
        let matches = |object: &&Value| {
            wanted.split(',').filter(|one| !one.is_empty()).all(|one| {
                let (key, value) = one.split_once('=').unwrap_or_default();
                object["metadata"]["labels"][key] == value
            })
        };
        let prefix = format!("{path}/");
        let below = self.objects.iter().filter(|(at, _)| at.starts_with(&prefix));
        let items: Vec<&Value> = below.map(|(_, object)| object).filter(matches).collect();
        (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn create(&mut self, path: &str, body: &Value) -> (StatusCode, Value) {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{path}/{name}");
        if self.objects.contains_key(&path) && !path.contains("/events/") {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "it exists already");
        }
        self.write(&path, body, true)
    }

    fn write(&mut self, path: &str, body: &Value, may_create: bool) -> (StatusCode, Value) {
        let there = self.objects.get(path);
        if there.is_none() && !may_create {
            return missing();
        }
        for key in ["uid", "resourceVersion"] {
            let meant = &body["metadata"][key];
            if let Some(refusal) = there.and_then(|there| differs(there, key, meant)) {
                return refusal;
            }
        }
        let object = self.objects.entry(path.to_owned()).or_insert_with(|| json!({}));
        let old = object.clone();
        merge(object, body);
        for (_, policy) in self.policies.iter().filter(|(below, _)| path.starts_with(below)) {
            merge(object, policy);
        }
        self.touch(path, &old);
        (StatusCode::OK, self.objects[path].clone())
    }

    fn delete(&mut self, path: &str, preconditions: &Value) -> (StatusCode, Value) {
        let Some(object) = self.objects.get_mut(path) else { return missing() };
        for key in ["uid", "resourceVersion"] {
            if let Some(refusal) = differs(object, key, &preconditions[key]) {
                return refusal;
            }
        }
        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return (StatusCode::OK, object.clone());
        }
        (StatusCode::OK, self.objects.remove(path).unwrap_or_default())
    }

    fn evict(&mut self, path: &str, body: &Value, is_dry: bool) -> (StatusCode, Value) {
        let pod = path.strip_suffix("/eviction").unwrap_or(path).to_owned();
        if !self.objects.contains_key(&pod) {
            return missing();
        }
        if let Some(words) = &self.budget {
            return failure(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", words);
        }
        if self.has_two_budgets {
            let words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return (StatusCode::CREATED, failure(status, "", words).1);
        }
        let preconditions = &body["deleteOptions"]["preconditions"];
        if is_dry {
            let refusal = differs(&self.objects[&pod], "uid", &preconditions["uid"]);
            return refusal.unwrap_or_else(|| (StatusCode::CREATED, success()));
        }
        let (status, answer) = self.delete(&pod, preconditions);
        if status == StatusCode::OK { (StatusCode::CREATED, success()) } else { (status, answer) }
    }
}

/// The refusal of a request for another object of the name, or another version of it.
fn differs(there: &Value, key: &str, meant: &Value) -> Option<(StatusCode, Value)> {
    let has = &there["metadata"][key];
    if meant.is_null() || has.is_null() || meant == has {
        return None;
    }
    let words = format!("the {key} is {has}, not {meant}");
    Some(failure(StatusCode::CONFLICT, "Conflict", &words))
}

fn response((status, body): (StatusCode, Value)) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = status;
    response
}

/// The permissions that the chart grants to the operator in the watched namespaces.
pub(crate) fn granted() -> &'static BTreeSet<Right> {
    const VERBS: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
    static GRANTED: OnceLock<BTreeSet<Right>> = OnceLock::new();
    GRANTED.get_or_init(|| {
        let text = include_str!("../../charts/ropewalk/templates/_rules.tpl");
        // Without the rules for what users add, and without what Helm alone understands.
        let (before, rest) = text.split_once("{{- range").expect("a range");
        let after = rest.split_once("{{- end }}").expect("its end").1;
        let lines = before.lines().chain(after.lines()).filter(|line| !line.contains("{{"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let rules: Vec<BTreeMap<String, Vec<String>>> =
            serde_yaml_ng::from_str(&text).expect("rules");
        let mut granted = BTreeSet::new();
        for rule in &rules {
            for (group, resource) in
                rule["apiGroups"].iter().flat_map(|g| rule["resources"].iter().map(move |r| (g, r)))
            {
                for verb in &rule["verbs"] {
                    let verb = VERBS.iter().find(|known| *known == verb).expect("a verb");
                    granted.insert((*verb, group.clone(), resource.clone()));
                }
            }
        }
        granted
    })
}

/// The permissions that a request needs; none for unrestricted resources.
fn rights(method: &Method, path: &str, is_apply: bool) -> Vec<Right> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next() {
        Some("api") => String::new(),
        Some("apis") => parts.next().unwrap_or_default().to_owned(),
        _ => return Vec::new(),
    };
    let _version = parts.next();
    let mut rest: Vec<&str> = parts.collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    let Some(resource) = rest.first() else { return Vec::new() };
    let resource = match rest.get(2) {
        Some(sub) => format!("{resource}/{sub}"),
        None => (*resource).to_owned(),
    };
    let verbs: &[&'static str] = match *method {
        Method::GET if rest.len() > 1 => &["get"],
        Method::GET => &["list"],
        Method::POST => &["create"],
        Method::PUT => &["update"],
        // An apply may create, and needs that permission as well.
        Method::PATCH if is_apply && rest.len() == 2 => &["patch", "create"],
        Method::PATCH => &["patch"],
        Method::DELETE => &["delete"],
        _ => &[],
    };
    verbs.iter().map(|verb| (*verb, group.clone(), resource.clone())).collect()
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

fn missing() -> (StatusCode, Value) {
    failure(StatusCode::NOT_FOUND, "NotFound", "not found")
}

fn failure(code: StatusCode, reason: &str, message: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code.as_u16()});
    (code, status)
}

/// A merge patch. Lists are replaced as a whole.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    fields.remove(key);
                    continue;
                }
                merge(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, patch @ Value::Object(_)) => {
            *object = json!({});
            merge(object, patch);
        }
        (object, patch) => *object = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    //! Tests of the guarantees above, with the client that the controllers use.

    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
    use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

    use super::*;

    const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/a";

    fn code<T: std::fmt::Debug>(outcome: Result<T, kube::Error>) -> u16 {
        match outcome {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn an_object_of_another_uid_is_not_deleted() {
        let server = Server::default();
        server.put(CLAIM, json!({"metadata": {"name": "a", "uid": "second"}}));
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(server.client(), "shop");
        let meaning = |uid: &str| DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        assert_eq!(code(claims.delete("a", &meaning("first")).await.map(|_| ())), 409);
        assert_eq!(server.at(CLAIM)["metadata"]["uid"], "second");
        assert_eq!(code(claims.delete("a", &meaning("second")).await.map(|_| ())), 200);
        assert_eq!(server.at(CLAIM), Value::Null);
    }

    #[tokio::test]
    async fn what_was_changed_meanwhile_is_not_written_over() {
        let server = Server::default();
        let path = "/api/v1/namespaces/shop/configmaps/c";
        server.put(path, json!({"metadata": {"name": "c"}, "data": {"a": "1"}}));
        let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
        let read = maps.get("c").await.expect("there");
        server.before(&format!("PATCH {path}"), |server| {
            server.change("/api/v1/namespaces/shop/configmaps/c", &json!({"data": {"a": "2"}}));
        });
        let patch = json!({"metadata": {"resourceVersion": read.metadata.resource_version}, "data": {"a": "3"}});
        let outcome = maps.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await;
        assert_eq!(code(outcome), 409);
        assert_eq!(server.at(path)["data"]["a"], "2");
    }

    #[tokio::test]
    async fn what_the_chart_does_not_allow_is_refused() {
        let server = Server::default();
        let pods: Api<Pod> = Api::namespaced(server.client(), "shop");
        assert_eq!(code(pods.delete("a", &DeleteParams::default()).await.map(|_| ())), 403);
        assert_eq!(code(pods.get("a").await), 404);
    }

    #[tokio::test]
    async fn an_object_is_created_once_and_a_patch_creates_nothing() {
        let server = Server::default();
        let maps: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "c"}})).expect("a ConfigMap");
        let patch = json!({"data": {"a": "1"}});
        let merged = maps.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await;
        assert_eq!(code(merged), 404);
        assert_eq!(code(maps.create(&PostParams::default(), &map).await), 200);
        assert_eq!(code(maps.create(&PostParams::default(), &map).await), 409);
    }
}
