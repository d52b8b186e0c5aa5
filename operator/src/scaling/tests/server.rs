//! A fake API server: one Deployment, lists of autoscalers, Events, a Queue's status. It counts
//! requests.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::{Mutex, RwLock};
use ropewalk_operator_api::Queue;
use serde_json::{Value, json};

type OnWrite = Box<dyn Fn(u32) + Send>;

#[derive(Default)]
struct State {
    replicas: Option<u32>,
    version: u64,
    autoscalers: Vec<Value>,
    scaled_objects: Option<Vec<Value>>,
    events: Vec<(String, String)>,
    status: Option<Value>,
    log: Vec<String>,
    counts: Vec<u32>,
    managers: Vec<String>,
    race: Option<u32>,
    on_write: Option<OnWrite>,
    on_read: Option<Box<dyn Fn() + Send>>,
    /// Another client reverts every written count to this one.
    overwrite: Option<u32>,
}

/// The fake API server.
#[derive(Default)]
pub(super) struct Server(Mutex<State>);

impl Server {
    pub(super) fn new(replicas: u32) -> Arc<Self> {
        let server = Self::default();
        server.0.lock().replicas = Some(replicas);
        Arc::new(server)
    }

    pub(super) fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let path = parts.uri.path().to_owned();
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let (status, answer) = server.answer(&parts.method, (&path, &query), &body);
                let response = Response::builder().status(status);
                let response = response.header("content-type", "application/json");
                Ok::<_, tower::BoxError>(
                    response.body(Body::from(answer.to_string().into_bytes()))?,
                )
            }
        });
        Client::new(service, "shop")
    }

    fn answer(
        &self,
        method: &Method,
        (path, query): (&str, &str),
        body: &Value,
    ) -> (StatusCode, Value) {
        let mut state = self.0.lock();
        state.log.push(format!("{method} {path}"));
        let deployment = "/apis/apps/v1/namespaces/shop/deployments/order-worker/scale";
        match (method, path) {
            (&Method::GET, "/apis/apps/v1") => (StatusCode::OK, resources()),
            (&Method::GET, path) if path == deployment => {
                if let Some(on_read) = &state.on_read {
                    on_read();
                }
                state.scale()
            }
            (&Method::GET, path) if Some(path) == deployment.strip_suffix("/scale") => {
                (StatusCode::OK, deployment_metadata())
            }
            (&Method::PUT, path) if path == deployment => {
                let answer = state.put(body, query);
                let on_write = state.on_write.take();
                drop(state);
                if let (StatusCode::OK, Some(on_write)) = (answer.0, &on_write) {
                    on_write(count(body));
                }
                self.0.lock().on_write = on_write;
                answer
            }
            (&Method::GET, "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers") => {
                (StatusCode::OK, list(&state.autoscalers))
            }
            (&Method::GET, "/apis/keda.sh/v1alpha1/namespaces/shop/scaledobjects") => {
                match &state.scaled_objects {
                    Some(objects) => (StatusCode::OK, list(objects)),
                    None => missing("the server could not find the requested resource"),
                }
            }
            (
                &Method::PATCH,
                "/apis/ropewalk.dev/v1alpha1/namespaces/shop/queues/orders/status",
            ) => {
                // No field of ours is nullable, and the real API server reports that.
                if body["status"].to_string().contains("null") {
                    let invalid = json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "message": "must be of type string", "code": 422});
                    return (StatusCode::UNPROCESSABLE_ENTITY, invalid);
                }
                state.status = Some(body["status"].clone());
                (
                    StatusCode::OK,
                    json!({
                        "apiVersion": "ropewalk.dev/v1alpha1", "kind": "Queue",
                        "metadata": {"name": "orders", "namespace": "shop", "uid": "u1"}, "spec": {},
                    }),
                )
            }
            (_, path) if path.starts_with("/apis/events.k8s.io/v1/") => {
                let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
                state.events.push((text("reason"), text("note")));
                let mut event = body.clone();
                event["metadata"]["name"] = json!("event");
                (StatusCode::CREATED, event)
            }
            _ => missing(path),
        }
    }

    /// Adds a HorizontalPodAutoscaler with the name of the object that it scales.
    pub(super) fn add_autoscaler(&self, kind: &str, name: &str) {
        self.0.lock().autoscalers.push(json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": name}},
        }));
    }

    pub(super) fn clear_autoscalers(&self) {
        self.0.lock().autoscalers.clear();
    }

    pub(super) fn install_keda(&self, target: &str) {
        self.0.lock().scaled_objects = Some(vec![json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
            "metadata": {"name": "by-keda", "namespace": "shop"},
            "spec": {"scaleTargetRef": {"name": target}},
        })]);
    }

    pub(super) fn remove_target(&self) {
        self.0.lock().replicas = None;
    }

    pub(super) fn put_target(&self, replicas: u32) {
        self.0.lock().replicas = Some(replicas);
    }

    /// Another client writes this count right after the next live read.
    pub(super) fn race_once(&self, replicas: u32) {
        self.0.lock().race = Some(replicas);
    }

    pub(super) fn on_read(&self, act: impl Fn() + Send + 'static) {
        self.0.lock().on_read = Some(Box::new(act));
    }

    /// Another client reverts every written count to this one.
    pub(super) fn overwrite_with(&self, replicas: u32) {
        self.0.lock().overwrite = Some(replicas);
    }

    pub(super) fn overwrite_no_more(&self) {
        self.0.lock().overwrite = None;
    }

    pub(super) fn on_write(&self, act: impl Fn(u32) + Send + 'static) {
        self.0.lock().on_write = Some(Box::new(act));
    }

    /// Makes the written status visible in the Queue that the autoscaler reads.
    pub(super) fn copy_status(&self, queues: &RwLock<Vec<Arc<Queue>>>) {
        let Some(status) = self.0.lock().status.clone() else { return };
        let status = serde_json::from_value(status).expect("a status of the schema");
        let mut queues = queues.write();
        if let Some(queue) = queues.first_mut() {
            Arc::make_mut(queue).status = Some(status);
        }
    }

    pub(super) fn replicas(&self) -> u32 {
        self.0.lock().replicas.expect("there is a target")
    }

    pub(super) fn counts(&self) -> Vec<u32> {
        self.0.lock().counts.clone()
    }

    pub(super) fn writes(&self) -> usize {
        self.0.lock().counts.len()
    }

    /// Requests that change something.
    pub(super) fn changes(&self) -> usize {
        self.0.lock().log.iter().filter(|line| !line.starts_with("GET")).count()
    }

    pub(super) fn requests(&self) -> usize {
        self.0.lock().log.len()
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }

    pub(super) fn managers(&self) -> Vec<String> {
        self.0.lock().managers.clone()
    }

    pub(super) fn events(&self) -> Vec<(String, String)> {
        self.0.lock().events.clone()
    }

    pub(super) fn status(&self) -> Option<Value> {
        self.0.lock().status.clone()
    }
}

impl State {
    fn scale(&mut self) -> (StatusCode, Value) {
        let Some(replicas) = self.replicas else { return missing("deployments \"order-worker\"") };
        let mut scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": "order-worker", "namespace": "shop", "resourceVersion": self.version.to_string()},
            "spec": {}, "status": {"replicas": replicas},
        });
        // A zero is omitted, as in the real API server.
        if replicas > 0 {
            scale["spec"]["replicas"] = json!(replicas);
        }
        if let Some(quicker) = self.race.take() {
            self.replicas = Some(quicker);
            self.version += 1;
        }
        (StatusCode::OK, scale)
    }

    fn put(&mut self, body: &Value, query: &str) -> (StatusCode, Value) {
        if body["metadata"]["resourceVersion"] != json!(self.version.to_string()) {
            let conflict = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "message": "changed", "code": 409});
            return (StatusCode::CONFLICT, conflict);
        }
        let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
        self.managers.push(manager.unwrap_or_default().replace("%2F", "/"));
        self.version += 1;
        self.replicas = Some(count(body));
        self.counts.push(count(body));
        let answer = self.scale();
        if let Some(overwrite) = self.overwrite {
            self.version += 1;
            self.replicas = Some(overwrite);
        }
        answer
    }
}

fn deployment_metadata() -> Value {
    let wrote = |manager: &str, time: &str| {
        json!({"manager": manager, "operation": "Apply", "apiVersion": "apps/v1", "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    };
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "order-worker", "namespace": "shop", "managedFields": [
            wrote("kubectl", "2026-01-01T00:00:00Z"),
            wrote("argocd-controller", "2026-01-02T00:00:00Z"),
            wrote("ropewalk-operator/autoscaler", "2026-01-03T00:00:00Z"),
        ]},
    })
}

fn count(scale: &Value) -> u32 {
    u32::try_from(scale["spec"]["replicas"].as_u64().unwrap_or(0)).expect("a small number")
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

fn missing(what: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "status": "Failure", "reason": "NotFound", "message": format!("{what} not found"), "code": 404,
    });
    (StatusCode::NOT_FOUND, status)
}

fn resources() -> Value {
    let verbs = json!(["get", "list", "update"]);
    let resource = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
    json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [
        resource("deployments", "Deployment"),
        {"name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
            "group": "autoscaling", "version": "v1", "verbs": verbs},
        resource("daemonsets", "DaemonSet"),
    ]})
}
