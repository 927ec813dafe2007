//! Which source has the last word: the defaults, then the file, then `AIHUB__SECTION__KEY`, then the customary names,
//! then flags. A table is merged key by key, anything else is replaced as a whole.
//!
//! Each source is a layer of its own, each variable too, so that an error can say where its key was said.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{Config, error::ConfigError};

const DEFAULTS: &str = include_str!("defaults.toml");
/// Read where it is there.
const DEFAULT_FILE: &str = "aihub.toml";
const PREFIX: &str = "AIHUB__";

/// Names that people and platforms know. `AIHUB_*` with one underscore cannot be checked: Kubernetes sets such
/// variables for a service that is called `aihub`.
const CUSTOMARY: [(&str, &str); 11] = [
    ("AIHUB_ENV", "environment"),
    ("DATABASE_URL", "database.url"),
    ("KAFKA_BROKERS", "kafka.brokers"),
    ("OPENAI_API_KEY", "providers.openai.api_key"),
    ("OPENAI_BASE_URL", "providers.openai.base_url"),
    ("ANTHROPIC_API_KEY", "providers.claude.api_key"),
    ("ANTHROPIC_BASE_URL", "providers.claude.base_url"),
    ("GEMINI_API_KEY", "video_providers.veo.api_key"),
    ("XAI_API_KEY", "video_providers.xai.api_key"),
    ("JWT_SECRET", "auth.hs256_secret"),
    ("JWT_JWKS_URL", "auth.jwks_url"),
];
const LOG_FILTER: (&str, &str) = ("RUST_LOG", "log.filter");

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// As `--config` names it. Without it `./aihub.toml` is read if there is one.
    pub file: Option<PathBuf>,
    /// The environment, as [`process_variables`] gives it.
    pub variables: Vec<(String, String)>,
    pub flags: Vec<Flag>,
}

/// A flag that sets a key: `--listen` sets `server.listen`.
#[derive(Debug, Clone)]
pub struct Flag {
    pub name: &'static str,
    pub key: &'static str,
    pub value: String,
}

/// This process's environment. What is not UTF-8 is no setting of ours.
pub fn process_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// All layers as one, with the types checked.
pub fn merge(sources: &Sources) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Layer { origin: "the defaults".to_owned(), dict: toml_dict(DEFAULTS)? });
    let (path, required) = match &sources.file {
        Some(path) => (path.as_path(), true),
        None => (Path::new(DEFAULT_FILE), false),
    };
    match fs::read_to_string(path) {
        Ok(text) => {
            let dict = toml_dict(&text).map_err(|error| ConfigError::not_toml(path, &text, &error))?;
            figment = figment.merge(Layer { origin: path.display().to_string(), dict });
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !required => {}
        Err(error) => return Err(ConfigError::Unreadable { path: path.to_owned(), error }),
    }
    for (name, value) in &sources.variables {
        if let Some(key) = name.strip_prefix(PREFIX) {
            let keys: Vec<String> = key.split("__").map(str::to_lowercase).collect();
            figment = figment.merge(Layer::of(name, keys.iter().map(String::as_str), plain_or_list(value)));
        }
    }
    for (name, key) in CUSTOMARY.into_iter().chain([LOG_FILTER]) {
        // An empty one is how a compose file says that it is not set.
        if let Some((_, value)) = sources.variables.iter().find(|(other, value)| other == name && !value.is_empty()) {
            figment = figment.merge(Layer::of(name, key.split('.'), value.as_str().into()));
        }
    }
    for Flag { name, key, value } in &sources.flags {
        figment = figment.merge(Layer::of(name, key.split('.'), value.as_str().into()));
    }
    // Lossily: in the environment a number is a text of digits.
    figment.extract_lossy().map_err(|error| ConfigError::from_figment(&error))
}

/// What one source says.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Layer {
    fn of<'a>(origin: &str, path: impl DoubleEndedIterator<Item = &'a str>, value: Value) -> Self {
        let nested = path.rev().fold(value, |value, key| Value::from(Dict::from([(key.to_owned(), value)])));
        Self { origin: origin.to_owned(), dict: nested.into_dict().unwrap_or_default() }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

fn toml_dict(text: &str) -> Result<Dict, toml::de::Error> {
    let table: toml::Table = toml::from_str(text)?;
    Ok(table.into_iter().map(|(key, value)| (key, plain(value))).collect())
}

/// A date without quotes is the text that it was written as.
fn plain(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(boolean) => boolean.into(),
        toml::Value::Array(list) => list.into_iter().map(plain).collect::<Vec<_>>().into(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, plain(value))).collect::<Dict>().into(),
    }
}

/// A variable's value as it stands, so that a secret of digits stays a text; or the list or table that it spells.
fn plain_or_list(value: &str) -> Value {
    let spelled = value.starts_with(['[', '{']).then(|| toml_dict(&format!("value = {value}")).ok()).flatten();
    spelled.and_then(|mut dict| dict.remove("value")).unwrap_or_else(|| value.into())
}
