//! A stream of server-sent events that goes on when the daemon was restarted.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Client;
use super::error::ClientError;
use super::http::{Ask, Body};
use super::patience::Patience;
use super::target::Target;
use crate::sse::{Decoder, Event};
use crate::types::Problem;

/// What the daemon calls an event that is a problem.
const PROBLEM: &str = "problem";

/// How a stream is asked for again.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    first: Target,
    /// How to ask for what is behind the last event.
    later: Option<Target>,
}

impl Resume {
    /// From its beginning, for events that are whole states.
    pub(crate) fn again(target: Target) -> Self {
        Self { first: target, later: None }
    }

    /// Behind the last event that came, with another target then.
    pub(crate) fn behind(first: Target, later: Target) -> Self {
        Self { first, later: Some(later) }
    }

    fn ask(&self, cursor: Option<&str>) -> Result<Ask, ClientError> {
        match (&self.later, cursor) {
            (Some(later), Some(cursor)) => Ask::get(later.clone()).events(Some(cursor)),
            _ => Ask::get(self.first.clone()).events(None),
        }
    }
}

/// When a stream is over.
pub(crate) enum Ending<T> {
    /// With an event of which this is true; an end before it is an interruption.
    With(fn(&T) -> bool),
    /// When the daemon ends it in order.
    AtEnd,
}

/// Events of the daemon, each a value. The owner takes one after the other; what is not taken is
/// not read. Connects with the first one.
pub struct Events<T> {
    client: Client,
    resume: Resume,
    ending: Ending<T>,
    cursor: Option<String>,
    patience: Patience,
    source: Option<Source>,
    was_there: bool,
    over: bool,
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> Events<T> {
    pub(crate) fn new(client: Client, resume: Resume, ending: Ending<T>) -> Self {
        Self {
            client,
            resume,
            ending,
            cursor: None,
            patience: Patience::default(),
            source: None,
            was_there: false,
            over: false,
        }
    }

    /// The next value; nothing when the stream is over. A call may be cancelled: no event is lost
    /// by that.
    ///
    /// # Errors
    /// If the daemon reports a problem, sends nonsense, or stays away for too long. Nothing comes
    /// after an error.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        while !self.over {
            let error = match self.step().await {
                Ok(Step::Value(value)) => return Some(Ok(value)),
                Ok(Step::End) => {
                    self.over = true;
                    return None;
                }
                Err(error) => error,
            };
            self.source = None;
            let again = match &error {
                ClientError::Connect(_) => self.was_there && error.is_restart(),
                error => error.is_restart(),
            };
            self.was_there |= again;
            if !again || !self.patience.wait().await {
                self.over = true;
                return Some(Err(error));
            }
        }
        None
    }

    async fn step(&mut self) -> Result<Step<T>, ClientError> {
        let source = match &mut self.source {
            Some(source) => source,
            missing => {
                let ask = self.resume.ask(self.cursor.as_deref())?;
                let source = Source::open(ask, &self.client).await?;
                self.was_there = true;
                self.patience.connected();
                missing.insert(source)
            }
        };
        let Some(event) = source.next().await? else {
            return match self.ending {
                Ending::AtEnd => Ok(Step::End),
                Ending::With(_) => Err(source.ask.interrupted(None)),
            };
        };
        let value = source.value(&event)?;
        self.patience.progress();
        self.cursor = event.id.or(self.cursor.take());
        if let Ending::With(is_last) = self.ending {
            self.over = is_last(&value);
        }
        Ok(Step::Value(value))
    }
}

enum Step<T> {
    Value(T),
    End,
}

/// The events of one connection.
struct Source {
    ask: Ask,
    body: Body,
    decoder: Decoder,
    /// What the decoder has not had yet.
    piece: Bytes,
}

impl Source {
    async fn open(ask: Ask, client: &Client) -> Result<Self, ClientError> {
        let answer = ask.clone().open(&*client.connector).await?;
        if !answer.is_of_type("text/event-stream") {
            return Err(ask.protocol("it is no stream of events"));
        }
        let decoder = Decoder::default();
        Ok(Self { ask, body: answer.body(), decoder, piece: Bytes::new() })
    }

    async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let mut rest = &self.piece[..];
            let event = self.decoder.next(&mut rest);
            let event = event.map_err(|error| self.ask.protocol(error.to_string()))?;
            let taken = self.piece.len() - rest.len();
            self.piece = self.piece.slice(taken..);
            if event.is_some() {
                return Ok(event);
            }
            match self.body.next().await? {
                Some(piece) => self.piece = piece,
                None => return Ok(None),
            }
        }
    }

    fn value<T: DeserializeOwned>(&self, event: &Event) -> Result<T, ClientError> {
        let nonsense = |error: serde_json::Error| self.ask.protocol(error.to_string());
        if event.name == PROBLEM {
            let problem: Problem = serde_json::from_str(&event.data).map_err(nonsense)?;
            return Err(problem.into());
        }
        serde_json::from_str(&event.data).map_err(nonsense)
    }
}
