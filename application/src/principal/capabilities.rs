//! Roles name capabilities; what no role names is denied.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What one role grants. What is left out is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own, named as in the configuration")]
pub struct Role {
    pub chat: bool,
    pub embedding: bool,
    pub video: bool,
    /// The models that chat, embedding and video may use.
    pub models: Vec<Pattern>,
    /// The providers that chat, embedding and video may use.
    pub providers: Vec<Pattern>,
    /// Usage and credit reports.
    pub reports: Reports,
    /// Replay, verify, prove and export the event log.
    pub audit: bool,
    /// Grant credits, change prices, operate the node.
    pub administration: bool,
}

/// Whose usage and credit reports may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reports {
    #[default]
    None,
    /// Those of the principal's account.
    Own,
    All,
}

/// A name in which each `*` stands for any characters or none. Case matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        let Some((prefix, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(prefix) else { return false };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first place that a part fits is as good as any later one: what follows it can only have more room.
        for part in middle.split('*') {
            let Some(found) = name.find(part) else { return false };
            name = &name[found + part.len()..];
        }
        name.ends_with(suffix)
    }
}

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Chat,
    Embedding,
    Video,
}

impl Operation {
    fn granted_by(self, role: &Role) -> bool {
        match self {
            Self::Chat => role.chat,
            Self::Embedding => role.embedding,
            Self::Video => role.video,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Chat => "chat",
            Self::Embedding => "embedding",
            Self::Video => "video",
        })
    }
}

/// A refusal, with what was missing. The text is for the caller, who gave every name in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{holder} may not {refused}; a role with {needed} is needed")]
pub struct MissingCapability {
    holder: String,
    refused: String,
    needed: String,
    with: Option<Box<RefusedModel>>,
}

/// What an operation was refused with, where it is not refused as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedModel {
    pub model: String,
    /// Where the model would be allowed, and it is this one that is not.
    pub provider: Option<String>,
}

impl MissingCapability {
    /// What a role would have to grant.
    pub fn needed(&self) -> &str {
        &self.needed
    }

    pub fn with(&self) -> Option<&RefusedModel> {
        self.with.as_deref()
    }
}

/// What the roles of one principal grant together.
///
/// Something is allowed if one of the roles allows all of it. The roles' fields are not merged: one that grants
/// chat with small models and one that grants embedding with all models do not add up to chat with all models.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    roles: Vec<(String, Option<Arc<Role>>)>,
}

impl Capabilities {
    /// The names of the roles and what each grants; `None` is a role that is not configured, which grants nothing.
    pub fn new(roles: Vec<(String, Option<Arc<Role>>)>) -> Self {
        Self { roles }
    }

    /// Refuses unless one role grants the operation with this model at this provider.
    pub fn require(&self, operation: Operation, provider: &str, model: &str) -> Result<(), MissingCapability> {
        let mut granting = self.granted().filter(|role| operation.granted_by(role)).peekable();
        if granting.peek().is_none() {
            return Err(self.lacks(operation));
        }
        let mut granting = granting.filter(|role| role.models.iter().any(|one| one.matches(model))).peekable();
        if granting.peek().is_none() {
            let missing = self.missing(
                format!("use model `{model}` for {operation}"),
                format!("`{operation} = true` and `models` matching it"),
            );
            let with = RefusedModel { model: model.to_owned(), provider: None };
            return Err(MissingCapability { with: Some(Box::new(with)), ..missing });
        }
        if granting.any(|role| role.providers.iter().any(|one| one.matches(provider))) {
            return Ok(());
        }
        let missing = self.missing(
            format!("use provider `{provider}` for {operation} with model `{model}`"),
            format!("`{operation} = true`, `models` matching the model and `providers` matching the provider"),
        );
        let with = RefusedModel { model: model.to_owned(), provider: Some(provider.to_owned()) };
        Err(MissingCapability { with: Some(Box::new(with)), ..missing })
    }

    /// The refusal of an operation as such.
    pub fn lacks(&self, operation: Operation) -> MissingCapability {
        self.missing(format!("use {operation}"), format!("`{operation} = true`"))
    }

    /// Refuses unless one role grants reports of this scope or a wider one.
    pub fn require_reports(&self, scope: Reports) -> Result<(), MissingCapability> {
        if self.granted().map(|role| role.reports).max().unwrap_or_default() >= scope {
            return Ok(());
        }
        Err(match scope {
            Reports::All => self.missing("read reports of all accounts", "`reports = \"all\"`"),
            Reports::None | Reports::Own => self.missing("read reports", "`reports = \"own\"` or `reports = \"all\"`"),
        })
    }

    /// Refuses unless one role grants replay, verification and export of the event log.
    pub fn require_audit(&self) -> Result<(), MissingCapability> {
        if self.granted().any(|role| role.audit) {
            return Ok(());
        }
        Err(self.missing("audit the event log", "`audit = true`"))
    }

    /// Refuses unless one role grants administration.
    pub fn require_administration(&self) -> Result<(), MissingCapability> {
        if self.granted().any(|role| role.administration) {
            return Ok(());
        }
        Err(self.missing("administer", "`administration = true`"))
    }

    /// Whether the roles grant nothing at all.
    pub fn are_none(&self) -> bool {
        self.granted().all(|role| *role == Role::default())
    }

    fn granted(&self) -> impl Iterator<Item = &Role> {
        self.roles.iter().filter_map(|(_, role)| role.as_deref())
    }

    fn missing(&self, refused: impl Into<String>, needed: impl Into<String>) -> MissingCapability {
        let names = self.roles.iter().map(|(name, role)| match role {
            Some(_) => format!("`{name}`"),
            None => format!("`{name}` (not configured here)"),
        });
        let names = names.collect::<Vec<_>>().join(", ");
        let holder = match self.roles.len() {
            0 => "a token without roles".to_owned(),
            1 => format!("role {names}"),
            _ => format!("roles {names}"),
        };
        MissingCapability { holder, refused: refused.into(), needed: needed.into(), with: None }
    }
}
