//! Why a configuration is refused. Never repeats a value: it may be a secret that stands in the wrong place.

use std::{fmt, io, path::PathBuf};

use figment::error::{Actual, Kind};
use thiserror::Error;

use super::production::Missing;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is not TOML: line {}: {}", path.display(), line_of(error), error.message())]
    File { path: PathBuf, error: toml::de::Error },
    #[error("the built-in defaults are not TOML: {0}")]
    Defaults(#[from] toml::de::Error),
    #[error("{key} ({origin}): {reason}")]
    Key { key: String, origin: String, reason: String },
    #[error("{}", lines("the configuration does not fit together:", .0))]
    Faults(Vec<Fault>),
    #[error("{}", lines("a production node does not start like this:", .0))]
    Production(Vec<Missing>),
}

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub key: String,
    pub reason: String,
}

impl Fault {
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.reason)
    }
}

impl ConfigError {
    /// Names the key by its path and by the source that said it.
    pub(super) fn from_figment(error: &figment::Error) -> Self {
        let mut path = error.path.clone();
        let reason = match &error.kind {
            Kind::UnknownField(_, known) => format!("there is no such key; there {}", list(known)),
            Kind::UnknownVariant(_, known) => format!("not one of the values that it may have; there {}", list(known)),
            Kind::MissingField(field) => {
                path.push(field.to_string());
                "is missing".to_owned()
            }
            Kind::InvalidType(actual, expected) => format!("{} where {expected} is needed", found(actual)),
            Kind::InvalidValue(_, expected) => format!("not a value that it may have: {expected} is needed"),
            Kind::InvalidLength(length, expected) => format!("{length} entries where {expected} is needed"),
            Kind::Message(message) => message.clone(),
            other => other.to_string(),
        };
        let origin = error.metadata.as_ref().map_or("the configuration", |metadata| &metadata.name).to_owned();
        Self::Key { key: path.join("."), origin, reason }
    }
}

fn found(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Str(_) | Actual::Char(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something",
    }
}

fn list(known: &[&str]) -> String {
    if let [only] = known { format!("is {only}") } else { format!("are {}", known.join(", ")) }
}

fn lines(first: &str, all: &[impl fmt::Display]) -> String {
    all.iter().fold(first.to_owned(), |text, one| format!("{text}\n  - {one}"))
}

/// The line is told without its text, which may be a secret.
fn line_of(error: &toml::de::Error) -> String {
    error.span().map_or_else(|| "unknown".to_owned(), |span| format!("at byte {}", span.start))
}
