//! What goes wrong, as HTTP tells it.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use banger_api::types::{Problem, ProblemCode};
use banger_link::Refusal;
use banger_store::{Refused, WriteFailed};
use serde::de::DeserializeOwned;

use crate::driver::AskError;
use crate::exec::BadCommand;
use crate::link::LinkFailed;
use crate::registry::{CreateError, ForkError, Kind, ResolveError};
use crate::snapshots;
use crate::store::NotStored;
use crate::templates::NotRemoved;
use crate::volumes::VolumeError;

/// A problem on its way to a client.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Problem);

impl Failure {
    /// With what failed before why.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.0.detail = format!("{what}: {}", self.0.detail);
        self
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

/// A JSON body whose faults are problems like any other.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A query whose faults are problems like any other.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let axum::Json(value) = axum::Json::from_request(request, state).await?;
        Ok(Self(value))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let axum::extract::Query(value) =
            axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ProblemCode::TooLarge,
            _ => ProblemCode::Invalid,
        };
        Problem::new(code, rejection.body_text()).into()
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Problem::new(ProblemCode::Invalid, rejection.body_text()).into()
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let detail = error.to_string();
        match error {
            ResolveError::NotFound { kind, .. } => Problem::new(ProblemCode::NotFound, detail)
                .hint(match kind {
                    Kind::Sandbox => "`banger vm list` shows those that are there",
                    Kind::Template => "`banger template list` shows those that are there",
                }),
            ResolveError::Ambiguous { kind, .. } => Problem::new(ProblemCode::Ambiguous, detail)
                .hint(match kind {
                    Kind::Sandbox => "give more of the id, or the name",
                    Kind::Template => "give more of the id",
                }),
        }
        .into()
    }
}

impl From<NotRemoved> for Failure {
    fn from(error: NotRemoved) -> Self {
        let detail = error.to_string();
        match error {
            NotRemoved::InUse(_) => Problem::new(ProblemCode::InUse, detail)
                .hint("stop the sandbox; `banger vm show` tells of each what it was made from"),
            NotRemoved::Missing(_) => Problem::new(ProblemCode::NotFound, detail),
            NotRemoved::Host(_) => Problem::new(ProblemCode::Failed, detail),
        }
        .into()
    }
}

impl From<snapshots::NotRemoved> for Failure {
    fn from(error: snapshots::NotRemoved) -> Self {
        let detail = error.to_string();
        match error {
            snapshots::NotRemoved::InUse(_, sandbox) => Problem::new(ProblemCode::InUse, detail)
                .hint(format!(
                    "`banger vm start {sandbox}` has it come up, `banger vm delete {sandbox}` deletes it"
                )),
            snapshots::NotRemoved::BeingTaken(_) => Problem::new(ProblemCode::InUse, detail),
            snapshots::NotRemoved::Missing(_) => Problem::new(ProblemCode::NotFound, detail)
                .hint("`banger snapshot list` shows those that are there"),
            snapshots::NotRemoved::Host(_) => Problem::new(ProblemCode::Failed, detail),
        }
        .into()
    }
}

impl From<ForkError> for Failure {
    fn from(error: ForkError) -> Self {
        let code = match error {
            ForkError::Ask(error) => return error.into(),
            ForkError::Count(_) => ProblemCode::Invalid,
            ForkError::Gone => ProblemCode::NotFound,
            ForkError::Host(_) => ProblemCode::Failed,
        };
        Problem::new(code, error.to_string()).into()
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        let detail = chain(&error);
        match error {
            VolumeError::Missing(_) => Problem::new(ProblemCode::NotFound, detail)
                .hint("`banger volume list` shows those that are there"),
            VolumeError::Taken(_) => Problem::new(ProblemCode::NameTaken, detail),
            VolumeError::InUse(_, sandbox) => Problem::new(ProblemCode::InUse, detail)
                .hint(format!("`banger vm stop {sandbox}` ends that")),
            VolumeError::BeingChanged(_) => Problem::new(ProblemCode::Busy, detail),
            VolumeError::Shrinks(..) => Problem::new(ProblemCode::Invalid, detail),
            VolumeError::Create(_) | VolumeError::Grow(_) | VolumeError::Host(_) => {
                Problem::new(ProblemCode::Failed, detail)
            }
        }
        .into()
    }
}

impl From<NotStored> for Failure {
    fn from(error: NotStored) -> Self {
        let code = match &error.0 {
            WriteFailed::Refused(Refused::NameTaken { .. }) => ProblemCode::NameTaken,
            WriteFailed::Refused(Refused::TooManySandboxes { .. }) => ProblemCode::TooMany,
            WriteFailed::Busy => ProblemCode::Busy,
            WriteFailed::Closed => ProblemCode::ShuttingDown,
            _ => ProblemCode::Failed,
        };
        Problem::new(code, chain(&error)).into()
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::NotStored(error) => error.into(),
            CreateError::Impossible(_) => {
                Problem::new(ProblemCode::Invalid, error.to_string()).into()
            }
            CreateError::NoSnapshot(_) => Problem::new(ProblemCode::NotFound, error.to_string())
                .hint("`banger snapshot list` shows those that are there")
                .into(),
            CreateError::DamagedSnapshot(ref name, _) => {
                let hint = format!("`banger snapshot delete {name}` deletes it");
                Problem::new(ProblemCode::Failed, error.to_string()).hint(hint).into()
            }
            CreateError::Host(_) => Problem::new(ProblemCode::Failed, chain(&error)).into(),
        }
    }
}

impl From<banger_host::HostError> for Failure {
    fn from(error: banger_host::HostError) -> Self {
        Problem::new(ProblemCode::Failed, chain(&error)).into()
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let code = match error {
            AskError::Denied(_) | AskError::NotCancellable => ProblemCode::Denied,
            AskError::Busy => ProblemCode::Busy,
            AskError::Gone => ProblemCode::NotFound,
            AskError::NotStored(error) => return error.into(),
            AskError::IdTaken => ProblemCode::Invalid,
            AskError::TagTaken(ref name) => {
                return Problem::new(ProblemCode::NameTaken, error.to_string())
                    .hint(format!("choose another tag, or give none; `banger snapshot delete {name}` deletes it"))
                    .into();
            }
        };
        Problem::new(code, error.to_string()).into()
    }
}

impl From<BadCommand> for Failure {
    fn from(error: BadCommand) -> Self {
        Problem::new(ProblemCode::Invalid, error.to_string()).into()
    }
}

impl From<LinkFailed> for Failure {
    fn from(error: LinkFailed) -> Self {
        let detail = error.to_string();
        let code = match error {
            LinkFailed::Refused(Refusal::NotFound(_)) => ProblemCode::CommandNotFound,
            LinkFailed::Refused(Refusal::CannotInvoke(..)) => ProblemCode::CommandNotExecutable,
            LinkFailed::Refused(Refusal::UnknownProcess) => ProblemCode::NotFound,
            LinkFailed::Refused(_) => ProblemCode::Refused,
            LinkFailed::Busy(_) => ProblemCode::Busy,
            LinkFailed::NoId(_) => ProblemCode::Failed,
            _ => ProblemCode::Unreachable,
        };
        Problem::new(code, detail).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Problem::new(ProblemCode::Failed, format!("{error:#}")).into()
    }
}

/// An error with all its causes, as one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
