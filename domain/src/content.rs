//! Prompts and answers stand beside the log, sealed. Events only name them.

use std::fmt;

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::request::event::RequestKind;

/// The name of one text, as an event carries it: whose it is, under which key, and a hash that nobody can compute who has
/// not that key. Some 200 bytes, however long the text.
///
/// A text is kept in pieces, so that what a subject sends again is not kept again. One that has a single piece goes by
/// that piece's hash, one that has several by the hash of the list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentRef {
    /// An account.
    pub subject: String,
    pub kind: ContentKind,
    /// The first day of the month whose key it is, in UTC.
    pub month: NaiveDate,
    pub keep: Keep,
    /// Of what is kept for one piece: SHA-256 over its sealed bytes, which are the same for the same text under the same
    /// key. Of a list: SHA-256 over the list.
    pub hash: ContentHash,
    pub pieces: u32,
    /// Of the text itself.
    pub bytes: u64,
}

/// Which key seals it. Each account has one for each kind and month, so that what is too old can be erased alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentKey {
    /// An account.
    pub subject: String,
    pub kind: ContentKind,
    /// The first day of the month in which it was sealed, in UTC.
    pub month: NaiveDate,
}

/// What content belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    Chat,
    Completion,
    Embedding,
    /// A video job's prompt, and where its client is told of its end.
    Video,
    /// What a workflow was asked, and what its steps were told and have made.
    Workflow,
}

/// What becomes of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// It can be read while its key exists.
    #[default]
    Sealed,
    /// It is gone when its request has ended. While its key exists, whoever has the text can prove that it was this one.
    Hash,
}

/// Hexadecimal in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentRef {
    /// The key that it is sealed with.
    pub fn key(&self) -> ContentKey {
        ContentKey { subject: self.subject.clone(), kind: self.kind, month: self.month }
    }
}

impl ContentKind {
    pub const ALL: [Self; 5] = [Self::Chat, Self::Completion, Self::Embedding, Self::Video, Self::Workflow];

    /// As events, tables and the configuration spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Video => "video",
            Self::Workflow => "workflow",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether it is read again after it was sealed: a video's prompt when its turn comes, a workflow's at each step.
    pub fn is_needed(self) -> bool {
        matches!(self, Self::Video | Self::Workflow)
    }
}

impl From<RequestKind> for ContentKind {
    fn from(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Chat => Self::Chat,
            RequestKind::Completion => Self::Completion,
            RequestKind::Embedding => Self::Embedding,
        }
    }
}

impl ContentHash {
    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for ContentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Something that acme has said.
    pub fn reference(kind: ContentKind) -> ContentRef {
        ContentRef {
            subject: "acme".into(),
            kind,
            month: NaiveDate::default(),
            keep: Keep::Sealed,
            hash: ContentHash([0xab; 32]),
            pieces: 1,
            bytes: 7,
        }
    }

    #[test]
    fn a_reference_is_a_flat_object_that_reads_back() {
        let reference = reference(ContentKind::Chat);
        let json = serde_json::to_string(&reference).unwrap();
        let hash = "ab".repeat(32);
        let flat = r#"{"subject":"acme","kind":"chat","month":"1970-01-01","keep":"sealed","hash":"#;
        assert_eq!(json, format!(r#"{flat}"{hash}","pieces":1,"bytes":7}}"#));
        assert_eq!(serde_json::from_str::<ContentRef>(&json).unwrap(), reference);
        assert_eq!(ContentHash::parse("ab"), None);
        assert_eq!(ContentHash::parse(&"ä".repeat(32)), None);
    }

    #[test]
    fn every_kind_reads_back_as_it_is_spelt() {
        for kind in ContentKind::ALL {
            assert_eq!(ContentKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
