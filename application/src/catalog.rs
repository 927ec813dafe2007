//! Which provider has which model, at which price, and what stands in for what.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aihub_domain::{price::Price, request::event::RequestKind};
use chrono::{DateTime, Utc};

use crate::{
    error::GatewayError,
    principal::Principal,
    request::{AUTO, AnswerRequest, pictures::Pictures},
    upstream::{
        Timing, Upstream,
        guard::{Turn, Unavailable},
    },
};

pub struct Catalog {
    /// In the order in which `auto` tries them.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Groups of models that may answer for each other.
    pub equivalents: Vec<Vec<String>>,
    /// Other names for models, and the names that they have here.
    pub aliases: BTreeMap<String, String>,
}

/// A model as one provider offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The provider's own name for it.
    pub upstream_name: String,
    pub serves: Serves,
    /// Input that fits into it; of an embedding, each text by itself.
    pub context_tokens: u64,
    pub max_output_tokens: u32,
    /// It may produce output that is paid for and not shown while it is made, such as reasoning: then all that it may produce
    /// is held from the beginning.
    pub hidden_output: bool,
    pub pictures: Pictures,
    /// How long its first visible piece may take, where that is another time than its provider's.
    pub first_piece: Option<Duration>,
    /// Dated; at most one is valid at a time.
    pub prices: Vec<Price>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Chat and completion.
    Text,
    Embedding,
}

impl Serves {
    fn of(kind: RequestKind) -> Self {
        if kind == RequestKind::Embedding { Self::Embedding } else { Self::Text }
    }
}

/// The models of one provider by the names that clients use.
#[derive(Debug, Clone, Default)]
pub struct Models {
    pub listed: BTreeMap<String, Model>,
    /// Terms for every model that is not listed; `None` refuses those.
    pub unlisted: Option<Model>,
    pub default_text: Option<String>,
    pub default_embedding: Option<String>,
}

/// One way to serve a request.
#[derive(Clone)]
pub struct Candidate {
    pub upstream: Arc<Upstream>,
    /// The model's name as clients know it.
    pub model_name: String,
    pub model: Model,
    pub price: Price,
}

impl Candidate {
    pub fn timing(&self) -> Timing {
        let timing = self.upstream.timing;
        Timing { first_piece: self.model.first_piece.unwrap_or(timing.first_piece), ..timing }
    }

    /// Leave for a call of about `tokens` tokens, or why there is none now. Never waits.
    pub fn turn(&self, principal: &Principal, tokens: u64) -> Result<Turn, Unavailable> {
        self.upstream.turn(principal, self.model_label(), tokens)
    }

    /// Whether there would be a turn within so long.
    pub fn is_available_within(&self, wait: Duration) -> bool {
        self.upstream.is_available_within(self.model_label(), wait)
    }

    /// The model in metrics, and to what guards it. Names of models that are not listed are the clients' words: there may be any number.
    pub fn model_label(&self) -> &str {
        if self.upstream.models.listed.contains_key(&self.model_name) { &self.model_name } else { "(unlisted)" }
    }
}

/// What the names of bad days begin with, which simulated providers know. Each is an answer of their default model's.
pub(crate) const SIMULATED_CASE: &str = "sim:case/";

impl Upstream {
    fn model(&self, name: &str, serves: Serves) -> Option<Model> {
        if self.simulated && name.starts_with(SIMULATED_CASE) {
            let model = self.models.get(self.models.default(serves)?, serves)?;
            return Some(Model { upstream_name: name.to_owned(), ..model });
        }
        self.models.get(name, serves)
    }
}

impl Models {
    fn get(&self, name: &str, serves: Serves) -> Option<Model> {
        if let Some(model) = self.listed.get(name) {
            return (model.serves == serves).then(|| model.clone());
        }
        let unlisted = self.unlisted.clone().filter(|model| model.serves == serves)?;
        Some(Model { upstream_name: name.to_owned(), ..unlisted })
    }

    fn default(&self, serves: Serves) -> Option<&String> {
        match serves {
            Serves::Text => self.default_text.as_ref(),
            Serves::Embedding => self.default_embedding.as_ref(),
        }
    }
}

impl Catalog {
    /// Puts a model's own name in the place of another that the client has for it, which is returned. A name that a provider
    /// has itself is meant as it is.
    pub fn resolve(&self, request: &mut AnswerRequest) -> Option<String> {
        let asked = request.model.as_ref()?;
        let target = self.aliases.get(asked)?;
        let serves = Serves::of(request.kind);
        let may_be_asked = |upstream: &&Arc<Upstream>| request.provider == AUTO || upstream.name == request.provider;
        let is_own = |upstream: &Arc<Upstream>| upstream.model(asked, serves).is_some();
        if self.upstreams.iter().filter(may_be_asked).any(is_own) {
            return None;
        }
        request.model.replace(target.clone())
    }

    /// Whom to ask for `model`, best first. An explicit provider comes first; the others follow in the order of
    /// `auto`, each with the model itself or else the first equivalent that it has. Without `fallback` an explicit
    /// provider is the only one; of those of `auto` only the first that can be called is to be asked.
    pub fn candidates(
        &self,
        kind: RequestKind,
        provider: &str,
        model: Option<&str>,
        fallback: bool,
        now: DateTime<Utc>,
    ) -> Result<Vec<Candidate>, GatewayError> {
        let serves = Serves::of(kind);
        let not_found = |model: &str| GatewayError::ModelNotFound {
            model: model.to_owned(),
            provider: provider.to_owned(),
            makes: self.makes_otherwise(provider, model, serves),
            known: self.known_models(provider, serves),
        };
        let explicit = self.upstreams.iter().find(|upstream| upstream.name == provider);
        if provider != AUTO && explicit.is_none() {
            let mut names: Vec<&str> = self.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
            names.sort_unstable();
            return Err(GatewayError::faulty("provider", format!("is none of {AUTO}, {}", names.join(", "))));
        }
        let mut order: Vec<&Arc<Upstream>> = explicit.into_iter().collect();
        order.extend(self.auto_order().into_iter().filter(|upstream| upstream.name != provider));
        let model = match model {
            Some(model) => model.to_owned(),
            None => order
                .iter()
                .take(if explicit.is_some() { 1 } else { order.len() })
                .find_map(|upstream| upstream.models.default(serves).cloned())
                .ok_or_else(|| not_found("(default)"))?,
        };

        let mut candidates = Vec::new();
        for upstream in order {
            let is_explicit = upstream.name == provider;
            let stand_ins = self.equivalents_of(&model).filter(|_| !is_explicit);
            let found = std::iter::once(model.as_str())
                .chain(stand_ins)
                .find_map(|name| Some((name, upstream.model(name, serves)?)));
            let Some((name, found)) = found else {
                if is_explicit {
                    return Err(not_found(&model));
                }
                continue;
            };
            // A model without a price that is valid today cannot be charged, so it is not offered.
            let Some(price) = found.prices.iter().find(|price| price.is_valid_at(now)).cloned() else {
                tracing::warn!(provider.name = %upstream.name, model.name = name, "no price is valid today");
                if is_explicit {
                    return Err(not_found(&model));
                }
                continue;
            };
            candidates.push(Candidate { upstream: upstream.clone(), model_name: name.to_owned(), model: found, price });
        }
        if candidates.is_empty() {
            return Err(not_found(&model));
        }
        if !fallback && explicit.is_some() {
            candidates.truncate(1);
        }
        Ok(candidates)
    }

    fn equivalents_of<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a str> {
        self.equivalents
            .iter()
            .filter(move |group| group.iter().any(|name| name == model))
            .flatten()
            .map(String::as_str)
            .filter(move |name| *name != model)
    }

    /// By priority; among equals, shuffled by weight. The key `u^(1/w)` sorts a weighted sample without replacement
    /// (Efraimidis and Spirakis, 2006).
    fn auto_order(&self) -> Vec<&Arc<Upstream>> {
        let mut order: Vec<_> = self
            .upstreams
            .iter()
            .map(|upstream| (upstream, rand::random::<f64>().powf(1.0 / f64::from(upstream.weight.max(1)))))
            .collect();
        order.sort_by(|(a, key_a), (b, key_b)| a.priority.cmp(&b.priority).then(key_b.total_cmp(key_a)));
        order.into_iter().map(|(upstream, _)| upstream).collect()
    }

    /// What a model of this name is for, where no such model is for this.
    fn makes_otherwise(&self, provider: &str, model: &str, serves: Serves) -> Option<&'static str> {
        let may_be_asked = |upstream: &&Arc<Upstream>| provider == AUTO || upstream.name == provider;
        let listed = |upstream: &Arc<Upstream>| upstream.models.listed.get(model).map(|model| model.serves);
        let found = self.upstreams.iter().filter(may_be_asked).find_map(listed)?;
        (found != serves).then_some(match found {
            Serves::Text => "texts",
            Serves::Embedding => "embeddings",
        })
    }

    fn known_models(&self, provider: &str, serves: Serves) -> Vec<String> {
        let mut known: Vec<String> = self
            .upstreams
            .iter()
            .filter(|upstream| provider == AUTO || upstream.name == provider)
            .flat_map(|upstream| &upstream.models.listed)
            .filter(|(_, model)| model.serves == serves)
            .map(|(name, _)| name.clone())
            .collect();
        known.sort();
        known.dedup();
        known
    }
}
