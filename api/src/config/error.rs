//! Why a configuration is refused. Never repeats a value: it may be a secret that stands in the wrong place.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use figment::error::{Actual, Kind};
use thiserror::Error;

use super::production::Missing;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is not TOML: line {line}: {reason}", path.display())]
    NotToml { path: PathBuf, line: usize, reason: String },
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
    /// Tells the line without its text, which may be a secret.
    pub(super) fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        let reason = error.message().lines().next().unwrap_or_default().to_owned();
        Self::NotToml { path: path.to_owned(), line, reason }
    }

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
