//! About the daemon itself.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use banger_api::types::Version;

use super::App;

/// What this daemon is
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version)))]
pub(super) async fn version(State(registry): App) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        since: registry.shared().metrics.since(),
    })
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = String)))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], super::openapi())
}

/// What is counted, for Prometheus.
pub(super) async fn metrics(State(registry): App) -> impl IntoResponse {
    let views = registry.list();
    let shared = registry.shared();
    let text = shared.metrics.render(views.iter().map(AsRef::as_ref), shared.spares.count());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text.unwrap_or_default())
}
