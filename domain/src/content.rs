//! Prompts and answers as events carry them: sealed.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// Ciphertext of one text under a subject's key of one month: AES-256-GCM, whose 96-bit nonce is part of the text's front
/// and whose 128-bit tag is its end. What it says is readable only while that key exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedContent {
    /// The subject whose key opens it: an account.
    pub subject: String,
    /// The first day of the month whose key it is.
    pub month: NaiveDate,
    /// `base64(nonce || ciphertext || tag)`, standard alphabet with padding.
    pub sealed: String,
}
