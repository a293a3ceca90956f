//! Operations: shown and called off.

use axum::Json;
use axum::extract::{Path, State};
use banger_api::types::{Operation, Problem, ProblemCode};
use banger_model::OperationId;

use super::App;
use super::error::Failure;
use super::sandboxes::operation;

/// All operations that are remembered, oldest first
#[utoipa::path(get, path = "/v1/operations", responses((status = 200, body = Vec<Operation>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Json<Vec<Operation>> {
    let all = registry.shared().operations.list();
    Json(all.iter().map(|operation| operation.as_ref().clone()).collect())
}

/// One operation
#[utoipa::path(get, path = "/v1/operations/{operation}", params(("operation" = String, Path)), responses((status = 200, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(registry): App,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Failure> {
    Ok(Json(operation(&registry, &parse(&id)?)?))
}

/// Call an operation off
///
/// Only one that starts a sandbox or fetches an image, and is not over, can be.
#[utoipa::path(post, path = "/v1/operations/{operation}/cancel", params(("operation" = String, Path)), responses((status = 200, body = Operation), (status = "default", body = Problem)))]
pub(super) async fn cancel(
    State(registry): App,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Failure> {
    let id = parse(&id)?;
    let Some(sandbox) = operation(&registry, &id)?.sandbox else {
        if !registry.shared().images.cancel(&id) {
            return Err(Problem::new(ProblemCode::Denied, "the operation is over").into());
        }
        return Ok(Json(operation(&registry, &id)?));
    };
    let gone = || Problem::new(ProblemCode::Denied, "the operation is over: its sandbox is gone");
    registry.get(&sandbox).ok_or_else(gone)?.cancel(id.clone()).await?;
    Ok(Json(operation(&registry, &id)?))
}

/// The id of an operation in a path.
pub(super) fn parse(text: &str) -> Result<OperationId, Failure> {
    text.parse().map_err(|_| {
        Problem::new(ProblemCode::NotFound, format!("there is no operation {text:?}")).into()
    })
}
