//! What a provider offers.

use std::{collections::BTreeMap, num::NonZeroU32};

use aihub_application::{
    catalog::{Model, Models, Serves},
    request::pictures::Pictures,
};
use serde::{Deserialize, Serialize};

use super::{duration_ms, prices::PriceSettings};

/// One model, as in `[providers.openai.models."gpt-6-luna"]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The provider's own name for it. Left out, it is the one that clients use.
    pub upstream_name: Option<String>,
    #[serde(default)]
    pub serves: ModelKind,
    /// Input that fits into it; of an embedding, each text by itself.
    pub context_tokens: u64,
    /// The most that it produces in one answer. An embedding has none.
    #[serde(default)]
    pub max_output_tokens: u32,
    /// Some of its output may be paid for and not shown while it is made, such as reasoning: then all that it may produce is
    /// held from the beginning. Left out, it is what is safe for its provider's `kind`.
    pub hidden_output: Option<bool>,
    #[serde(default)]
    pub pictures: PictureSettings,
    /// How long its first visible piece may take before another provider is asked, where that is another time than its
    /// provider's: of a model that thinks unseen, or is loaded first.
    pub first_piece_ms: Option<u64>,
    /// Taken when the client names no model. One of each kind at most.
    #[serde(default)]
    pub default: bool,
    /// At most one is valid at a time. Without one that is valid the model is not offered.
    pub prices: Vec<PriceSettings>,
}

/// Terms for every model that is not listed, as in `[providers.local.unlisted]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlistedSettings {
    #[serde(default)]
    pub serves: ModelKind,
    pub context_tokens: u64,
    #[serde(default)]
    pub max_output_tokens: u32,
    /// As of a listed model, as the next.
    pub hidden_output: Option<bool>,
    #[serde(default)]
    pub pictures: PictureSettings,
    /// As of a listed model.
    pub first_piece_ms: Option<u64>,
    pub prices: Vec<PriceSettings>,
}

/// How a model counts pictures, for the hold. With neither, they are taken for patches of 16 pixels, the finest there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PictureSettings {
    /// A picture is cut into squares with so many pixels a side, and counts as a token for each. Left out, and with a most,
    /// each picture counts as that.
    pub patch_px: Option<NonZeroU32>,
    /// No picture counts as more tokens. Only with it are pictures taken by address.
    pub tokens_max: Option<NonZeroU32>,
}

impl From<PictureSettings> for Pictures {
    fn from(PictureSettings { patch_px, tokens_max }: PictureSettings) -> Self {
        Self { patch_px, tokens_max: tokens_max.map(NonZeroU32::get) }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Chat and completion.
    #[default]
    Text,
    Embedding,
}

impl From<ModelKind> for Serves {
    fn from(kind: ModelKind) -> Self {
        match kind {
            ModelKind::Text => Self::Text,
            ModelKind::Embedding => Self::Embedding,
        }
    }
}

impl ModelSettings {
    fn model(&self, provider: &str, name: &str, hidden_output: bool) -> Model {
        Model {
            upstream_name: self.upstream_name.clone().unwrap_or_else(|| name.to_owned()),
            serves: self.serves.into(),
            context_tokens: self.context_tokens,
            max_output_tokens: self.max_output_tokens,
            hidden_output: self.hidden_output.unwrap_or(hidden_output),
            pictures: self.pictures.into(),
            first_piece: self.first_piece_ms.map(duration_ms),
            prices: self.prices.iter().map(|price| price.price(provider, name)).collect(),
        }
    }
}

impl UnlistedSettings {
    /// Its prices are those of `provider/*`.
    pub const NAME: &str = "*";

    fn model(&self, provider: &str, hidden_output: bool) -> Model {
        Model {
            upstream_name: Self::NAME.to_owned(),
            serves: self.serves.into(),
            context_tokens: self.context_tokens,
            max_output_tokens: self.max_output_tokens,
            hidden_output: self.hidden_output.unwrap_or(hidden_output),
            pictures: self.pictures.into(),
            first_piece: self.first_piece_ms.map(duration_ms),
            prices: self.prices.iter().map(|price| price.price(provider, Self::NAME)).collect(),
        }
    }
}

/// The models of `provider` as the application has them; `hidden_output` holds for those that do not say themselves.
pub fn models(
    provider: &str,
    listed: &BTreeMap<String, ModelSettings>,
    unlisted: Option<&UnlistedSettings>,
    hidden_output: bool,
) -> Models {
    let default = |kind: ModelKind| {
        listed.iter().find(|(_, model)| model.default && model.serves == kind).map(|(name, _)| name.clone())
    };
    Models {
        listed: listed.iter().map(|(name, model)| (name.clone(), model.model(provider, name, hidden_output))).collect(),
        unlisted: unlisted.map(|unlisted| unlisted.model(provider, hidden_output)),
        default_text: default(ModelKind::Text),
        default_embedding: default(ModelKind::Embedding),
    }
}
