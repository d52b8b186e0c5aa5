//! The cluster over the admin API: what a broker sees of it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;

use super::Admin;
use super::refusal::AdminError;
use crate::handle::Context;

pub mod report;

use report::ClusterReport;

/// `GET /v1/cluster`.
pub(super) async fn report(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<ClusterReport>, AdminError> {
    let context = admin.open()?.context;
    Ok(Json(seen(&context)))
}

fn seen(context: &Context) -> ClusterReport {
    ClusterReport { cluster_id: context.cluster_id.to_string(), ..Default::default() }
}
