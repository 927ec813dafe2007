//! What a provider offers.

use std::collections::BTreeMap;

use aihub_application::catalog::{Model, Models, Serves};
use serde::{Deserialize, Serialize};

use super::prices::PriceSettings;

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
    pub prices: Vec<PriceSettings>,
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
    fn model(&self, provider: &str, name: &str) -> Model {
        Model {
            upstream_name: self.upstream_name.clone().unwrap_or_else(|| name.to_owned()),
            serves: self.serves.into(),
            context_tokens: self.context_tokens,
            max_output_tokens: self.max_output_tokens,
            prices: self.prices.iter().map(|price| price.price(provider, name)).collect(),
        }
    }
}

impl UnlistedSettings {
    /// Its prices are those of `provider/*`.
    pub const NAME: &str = "*";

    fn model(&self, provider: &str) -> Model {
        Model {
            upstream_name: Self::NAME.to_owned(),
            serves: self.serves.into(),
            context_tokens: self.context_tokens,
            max_output_tokens: self.max_output_tokens,
            prices: self.prices.iter().map(|price| price.price(provider, Self::NAME)).collect(),
        }
    }
}

/// The models of `provider` as the application has them.
pub fn models(provider: &str, listed: &BTreeMap<String, ModelSettings>, unlisted: Option<&UnlistedSettings>) -> Models {
    let default = |kind: ModelKind| {
        listed.iter().find(|(_, model)| model.default && model.serves == kind).map(|(name, _)| name.clone())
    };
    Models {
        listed: listed.iter().map(|(name, model)| (name.clone(), model.model(provider, name))).collect(),
        unlisted: unlisted.map(|unlisted| unlisted.model(provider)),
        default_text: default(ModelKind::Text),
        default_embedding: default(ModelKind::Embedding),
    }
}
