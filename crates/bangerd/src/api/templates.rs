//! Templates: shown and removed. They are made when a sandbox needs one.

use axum::Json as Answer;
use axum::extract::{Path, State};
use banger_api::types::{Problem, PruneTemplatesRequest, PrunedTemplates, Template};

use super::App;
use super::error::{Failure, Json};
use crate::registry::{Kind, by_beginning};
use crate::shared::Shared;
use crate::templates::{NotRemoved, Seen};

/// All templates, oldest first
#[utoipa::path(get, path = "/v1/templates", responses((status = 200, body = Vec<Template>), (status = "default", body = Problem)))]
pub(super) async fn list(State(registry): App) -> Result<Answer<Vec<Template>>, Failure> {
    let shared = registry.shared();
    let all = shared.templates.list().await?;
    Ok(Answer(oldest_first(shared, all)))
}

/// Remove a template that is not in use
///
/// Answers with it as it was. The next sandbox of its shape has it made anew.
#[utoipa::path(delete, path = "/v1/templates/{template}", params(("template" = String, Path, description = "Its id, or the beginning of its id")), responses((status = 200, body = Template), (status = "default", body = Problem)))]
pub(super) async fn delete(
    State(registry): App,
    Path(template): Path<String>,
) -> Result<Answer<Template>, Failure> {
    let shared = registry.shared();
    let all = shared.templates.list().await?;
    let ids = all.iter().map(|seen| (seen.id.as_str(), &seen.id));
    let id = by_beginning(Kind::Template, ids, &template)?;
    let removed = shared.templates.remove(id).await?;
    // Those that were made from it are of no use any more.
    shared.spares.look_again();
    Ok(Answer(shown(shared, removed)))
}

/// Remove all templates that are not in use
#[utoipa::path(post, path = "/v1/templates/prune", request_body = PruneTemplatesRequest, responses((status = 200, body = PrunedTemplates), (status = "default", body = Problem)))]
pub(super) async fn prune(
    State(registry): App,
    Json(PruneTemplatesRequest { dry_run }): Json<PruneTemplatesRequest>,
) -> Result<Answer<PrunedTemplates>, Failure> {
    let shared = registry.shared();
    let templates = &shared.templates;
    let mut pruned = Vec::new();
    for seen in templates.list().await?.into_iter().filter(|seen| !seen.in_use) {
        if dry_run {
            pruned.push(seen);
            continue;
        }
        match templates.remove(&seen.id).await {
            Ok(removed) => pruned.push(removed),
            // One that is used or gone by now is not meant any more.
            Err(NotRemoved::InUse(_) | NotRemoved::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    shared.spares.look_again();
    let space = pruned.iter().map(|seen| seen.size.get()).sum();
    Ok(Answer(PrunedTemplates { templates: oldest_first(shared, pruned), space }))
}

fn oldest_first(shared: &Shared, seen: Vec<Seen>) -> Vec<Template> {
    let mut all: Vec<_> = seen.into_iter().map(|seen| shown(shared, seen)).collect();
    all.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
    all
}

fn shown(shared: &Shared, seen: Seen) -> Template {
    let spares = shared.spares.ready(&seen.id);
    let Seen { id, about, size, hits, last_used, in_use } = seen;
    let shape = about.shape;
    Template {
        id,
        image: about.image,
        kernel: about.kernel,
        cpus: shape.cpus,
        memory: shape.memory,
        disk: shape.disk,
        size: size.get(),
        made: about.made,
        last_used: (hits > 0).then_some(last_used),
        hits,
        in_use,
        spares,
    }
}
