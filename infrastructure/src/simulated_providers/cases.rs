//! Bad days: answers as public bug reports describe them, by name. `model: "sim:case/A10"` is answered with the case of that
//! name, whatever is asked, so that a client's developer can see what ours looks like then. The tables, `cases/*.toml`, say as
//! well what each of them means: they are the contract of whoever reads them.

#[cfg(test)]
pub(crate) mod cut;

use std::{convert::Infallible, sync::LazyLock};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::Deserialize;

use super::{
    SimulatedProvider,
    served::{Outcome, ledger::Serving},
    stream::Torn,
};

/// What the names of cases begin with, where a model is named.
pub const PREFIX: &str = "sim:case/";

static CASES: LazyLock<[Vec<Case>; 4]> = LazyLock::new(|| {
    [
        include_str!("cases/openai.toml"),
        include_str!("cases/anthropic.toml"),
        include_str!("cases/embeddings.toml"),
        include_str!("cases/videos.toml"),
    ]
    .map(read)
});

/// One answer.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[serde(default = "ok")]
    pub status: u16,
    /// The content type that it claims to have; empty where it claims none.
    #[serde(default = "events")]
    pub label: String,
    pub body: String,
    /// What becomes of the connection behind the body.
    #[serde(default)]
    pub end: End,
    /// Of a video: the dialect, and what was asked; see `cases/videos.toml`.
    #[serde(default)]
    pub video: Option<String>,
    /// What it means, see `cases/openai.toml`.
    pub says: String,
    /// What it costs with the prices of the simulated providers' default models, where that is worth saying.
    #[serde(default)]
    pub credits: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    #[default]
    Close,
    Reset,
    Hang,
}

#[derive(Deserialize)]
struct Table {
    case: Vec<Case>,
}

/// The tables are part of this program: a test reads them.
fn read(table: &str) -> Vec<Case> {
    toml::from_str(table).map(|table: Table| table.case).unwrap_or_default()
}

fn ok() -> u16 {
    200
}

fn events() -> String {
    "text/event-stream".to_owned()
}

/// The cases of a chat in this provider's dialect.
pub fn of(provider: SimulatedProvider) -> &'static [Case] {
    match provider {
        SimulatedProvider::OpenAi => &CASES[0],
        SimulatedProvider::Claude => &CASES[1],
        SimulatedProvider::Gemini => &[],
    }
}

/// The cases of embeddings, which only `OpenAI`'s dialect has.
pub fn of_embeddings() -> &'static [Case] {
    &CASES[2]
}

/// The cases of videos in all dialects.
pub fn of_videos() -> &'static [Case] {
    &CASES[3]
}

/// The one of these cases that a model's name means; of `A1`, the first of those that are called `A1-…`.
pub(super) fn named<'a>(cases: &'a [Case], model: &str) -> Option<&'a Case> {
    let name = model.strip_prefix(PREFIX)?;
    let begins_so = |case: &&Case| case.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    cases.iter().find(|case| case.name == name).or_else(|| cases.iter().find(begins_so))
}

impl Case {
    /// Whether a provider of this dialect answers so whoever asks it for this of a video: `create`, `status` or `content`.
    pub(super) fn is_of_video(&self, dialect: &str, asked: &str) -> bool {
        self.video.as_deref().and_then(|video| video.split_once(' ')) == Some((dialect, asked))
    }

    pub(super) fn respond(&'static self, serving: &Serving) -> Response {
        let (response, outcome) = self.response();
        serving.end(outcome);
        response
    }

    /// And what becomes of the call.
    pub(super) fn response(&'static self) -> (Response, Outcome) {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        // A piece a line, as it would come.
        let lines =
            self.body.split_inclusive('\n').map(|line| Ok::<_, Infallible>(Bytes::from_static(line.as_bytes())));
        let lines = stream::iter(lines).map(|line| line.map_err(|never| match never {}));
        let (body, outcome) = match self.end {
            End::Close => (Body::from_stream(lines.map(|line: Result<Bytes, Torn>| line)), Outcome::Completed),
            End::Reset => {
                let torn = stream::once(async {
                    // Else it is gone before what it said was written.
                    tokio::task::yield_now().await;
                    Err(Torn)
                });
                (Body::from_stream(lines.chain(torn)), Outcome::Torn)
            }
            End::Hang => (Body::from_stream(lines.chain(stream::pending::<Result<Bytes, Torn>>())), Outcome::Hung),
        };
        let mut response = (status, body).into_response();
        response.headers_mut().remove(CONTENT_TYPE);
        if let Ok(label) = HeaderValue::from_str(&self.label)
            && !self.label.is_empty()
        {
            response.headers_mut().insert(CONTENT_TYPE, label);
        }
        (response, outcome)
    }
}
