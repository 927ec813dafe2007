//! Who asks, for which account, and what their roles allow.

mod capabilities;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

pub use capabilities::{Capabilities, MissingCapability, Operation, Pattern, Reports, Role};

/// The longest name of a user or an account, in bytes.
pub const MAX_IDENTIFIER_BYTES: usize = 256;

/// The rule of [`is_identifier`], in words that fit into an error message.
pub const IDENTIFIER_RULE: &str =
    "must be 1 to 256 letters, digits or -._~@|:/+= of ASCII, start with a letter or a digit and not contain `..`";

/// Someone whose token was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's `sub`; holds [`is_identifier`].
    pub user: String,
    /// Who pays, and whose jobs and reports these are. The token's `account`, or else its `sub`; holds
    /// [`is_identifier`].
    pub account: String,
    /// As the token names them; some may be unknown here.
    pub roles: Vec<String>,
    /// From this moment on the token is not accepted: its `exp`, and the leeway for the issuer's clock. A socket that
    /// outlives it has to be closed.
    pub expires_at: DateTime<Utc>,
    /// What the roles grant here.
    pub capabilities: Capabilities,
}

impl Principal {
    /// Refuses unless the roles allow the usage and credit reports of `account`: `own` reports are those of the
    /// principal's account.
    pub fn require_reports_on(&self, account: &str) -> Result<(), MissingCapability> {
        self.capabilities.require_reports(if account == self.account { Reports::Own } else { Reports::All })
    }
}

/// Whether `text` can name a user or an account.
///
/// Such names become ids of streams, keys of Kafka records and labels in reports, so there are no spaces, no
/// control characters, no quotes, no wildcards and no look-alikes from other scripts in them. What identity
/// providers use as `sub` fits: UUIDs, `auth0|5f7c`, `ann@example.com`, `system:serviceaccount:shop:web`,
/// `spiffe://example.com/web`.
pub fn is_identifier(text: &str) -> bool {
    text.len() <= MAX_IDENTIFIER_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "-._~@|:/+=".contains(char))
        && !text.contains("..")
}
