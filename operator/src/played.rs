//! An API server played in memory, as far as the controllers go: get, list by label, create, apply,
//! merge, delete, status. It counts every write, which is how K1 is shown.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The API server. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By path, without the query.
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    version: u64,
}

impl Server {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "shop")
    }

    /// Puts an object there, as if somebody else had.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().objects.insert(path.to_owned(), object);
    }

    /// An object.
    pub(crate) fn at(&self, path: &str) -> Value {
        self.0.lock().objects.get(path).cloned().unwrap_or_default()
    }

    /// Changes an object, as if somebody else had.
    pub(crate) fn change(&self, path: &str, patch: &Value) {
        let mut state = self.0.lock();
        merge(state.objects.entry(path.to_owned()).or_insert_with(|| json!({})), patch);
    }

    /// Every write since this was asked last, Events apart.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().writes)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let bytes =
            body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut state = self.0.lock();
        if parts.method != Method::GET && !path.contains("/events") {
            state.writes.push(format!("{} {path}", parts.method));
        }
        let (status, body) = match parts.method {
            Method::GET => state.get(&path, &query),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                state.write(&path, &body)
            }
            Method::PATCH | Method::PUT => {
                let path = path.strip_suffix("/status").unwrap_or(&path);
                state.write(path, &body)
            }
            Method::DELETE => match state.objects.remove(&path) {
                Some(object) => (StatusCode::OK, object),
                None => missing(),
            },
            _ => missing(),
        };
        let mut response = Response::new(Body::from(body.to_string().into_bytes()));
        *response.status_mut() = status;
        response
    }
}

impl State {
    fn get(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let is_list = path.rsplit('/').nth(2) == Some("namespaces");
        if !is_list {
            return missing();
        }
        let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let wanted = wanted.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let matches = |object: &&Value| {
            wanted.as_ref().is_none_or(|wanted| {
                let (key, value) = wanted.split_once('=').unwrap_or_default();
                object["metadata"]["labels"][key] == value
            })
        };
        let prefix = format!("{path}/");
        let below = self.objects.iter().filter(|(at, _)| at.starts_with(&prefix));
        let items: Vec<&Value> = below.map(|(_, object)| object).filter(matches).collect();
        (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn write(&mut self, path: &str, body: &Value) -> (StatusCode, Value) {
        let meant = body["metadata"]["uid"].as_str();
        let there = self.objects.get(path).and_then(|object| object["metadata"]["uid"].as_str());
        if meant.is_some() && there.is_some() && meant != there {
            return failure(StatusCode::CONFLICT, "Conflict", "the uid is another one");
        }
        let new = json!({"metadata": {"uid": format!("uid-of-{path}")}});
        let object = self.objects.entry(path.to_owned()).or_insert(new);
        merge(object, body);
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        (StatusCode::OK, object.clone())
    }
}

fn missing() -> (StatusCode, Value) {
    failure(StatusCode::NOT_FOUND, "NotFound", "not found")
}

fn failure(code: StatusCode, reason: &str, message: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code.as_u16()});
    (code, status)
}

/// A merge patch. Lists are exchanged as a whole.
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
        (object, patch) => *object = patch.clone(),
    }
}
