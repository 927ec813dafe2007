use std::{num::NonZeroU32, sync::Arc, time::Duration};

use aihub_domain::price::{Price, Rates};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::*;
use crate::{
    catalog::{Model, Models, Serves},
    ports::provider::{DeltaStream, EmbedCall, Embeddings, GenerateCall, Provider, ProviderError},
    principal::{Capabilities, Pattern, Role},
    request::pictures::Pictures,
    upstream::{BreakerPolicy, Streaming, Timing, Upstream, UpstreamSettings, guard::UpstreamLimits},
};

/// Whom to ask is decided without asking anybody.
struct NeverAsked;

impl Provider for NeverAsked {
    fn generate(&self, _: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>> {
        unreachable!()
    }

    fn embed(&self, _: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>> {
        unreachable!()
    }
}

fn candidate(provider: &str, context_tokens: u64) -> Candidate {
    let settings = UpstreamSettings {
        name: provider.to_owned(),
        simulated: false,
        priority: 1,
        weight: 1,
        streaming: Streaming::Counted,
        timing: Timing {
            first_byte: Duration::MAX,
            first_piece: Duration::MAX,
            silence: Duration::MAX,
            whole: Duration::MAX,
        },
        models: Models::default(),
        limits: UpstreamLimits { max_concurrency: 1, requests_per_minute: None::<NonZeroU32>, tokens_per_minute: None },
        breaker: BreakerPolicy::default(),
    };
    let price = Price {
        id: "free".to_owned(),
        rates: Rates::default(),
        long_context: None,
        valid_from: DateTime::UNIX_EPOCH,
        valid_until: None,
        source: "test".to_owned(),
    };
    let model = Model {
        upstream_name: "m".to_owned(),
        serves: Serves::Text,
        context_tokens,
        max_output_tokens: 1,
        hidden_output: false,
        pictures: Pictures::default(),
        first_piece: None,
        prices: vec![price.clone()],
    };
    Candidate { upstream: Upstream::new(settings, Arc::new(NeverAsked)), model_name: "m".to_owned(), model, price }
}

fn principal(providers: &[&str]) -> Principal {
    let patterns = |names: &[&str]| names.iter().map(|name| Pattern((*name).to_owned())).collect();
    let role = Role {
        chat: true,
        embedding: true,
        models: patterns(&["*"]),
        providers: patterns(providers),
        ..Role::default()
    };
    Principal {
        user: "ann".to_owned(),
        account: "ann".to_owned(),
        roles: vec![],
        expires_at: DateTime::<Utc>::MAX_UTC,
        capabilities: Capabilities::new(vec![("role".to_owned(), Some(role.into()))]),
    }
}

fn request(kind: RequestKind, fields: &Value) -> AnswerRequest {
    AnswerRequest::from_fields(kind, fields.as_object().unwrap().clone()).unwrap()
}

/// The providers that are left for a prompt of at least 100 tokens.
fn left(provider: &str, may_use: &[&str], candidates: &[(&str, u64)]) -> Result<Vec<String>, GatewayError> {
    let request =
        request(RequestKind::Chat, &json!({ "provider": provider, "prompt": "word ".repeat(200), "fallback": true }));
    let all = candidates.iter().map(|(provider, context)| candidate(provider, *context)).collect();
    let left = eligible(all, &principal(may_use), &request)?;
    Ok(left.iter().map(|candidate| candidate.upstream.name.clone()).collect())
}

fn faults(refused: GatewayError) -> Vec<(String, String)> {
    let GatewayError::Validation(faults) = refused else { panic!("{refused}") };
    faults.told().iter().map(|fault| (fault.field.clone(), fault.reason.clone())).collect()
}

#[test]
fn a_context_that_is_too_small_is_passed_over_also_where_the_provider_was_asked_for() {
    let candidates = [("small", 99), ("exact", 100), ("large", 101)];
    assert_eq!(left("auto", &["*"], &candidates).unwrap(), ["exact", "large"]);
    assert_eq!(left("small", &["*"], &candidates).unwrap(), ["exact", "large"]);
}

#[test]
fn a_prompt_that_fits_nowhere_is_a_fault_of_its_field_with_the_largest_context_that_the_client_may_use() {
    let refused = left("auto", &["small", "smaller"], &[("smaller", 98), ("small", 99), ("forbidden", 500)]);
    let reason = "has at least 100 tokens, and the largest context available for it takes 99";
    assert_eq!(faults(refused.unwrap_err()), [("prompt".to_owned(), reason.to_owned())]);
}

#[test]
fn the_texts_of_an_embedding_may_together_exceed_the_context_but_none_of_them_may_alone() {
    let embed = |inputs: &[String]| {
        let request = request(RequestKind::Embedding, &json!({ "input": inputs }));
        eligible(vec![candidate("openai", 100)], &principal(&["*"]), &request)
    };
    let text = "word ".repeat(200);
    embed(&[text.clone(), text.clone(), text.clone()]).unwrap();
    let reason = "has a text of at least 101 tokens, and the largest context available for it takes 100";
    let refused = embed(&["short".to_owned(), "word ".repeat(202)]).err().unwrap();
    assert_eq!(faults(refused), [("input".to_owned(), reason.to_owned())]);
}

#[test]
fn a_provider_that_was_asked_for_and_may_not_be_used_is_refused_and_another_is_passed_over() {
    let candidates = [("small", 1), ("forbidden", 500), ("large", 500)];
    assert_eq!(left("small", &["small", "large"], &candidates).unwrap(), ["large"]);
    let refused = left("forbidden", &["small", "large"], &[("forbidden", 500), ("large", 500)]).unwrap_err();
    assert!(!matches!(refused, GatewayError::Validation(_)), "{refused}");
    let refused = left("auto", &["other"], &candidates).unwrap_err();
    assert!(!matches!(refused, GatewayError::Validation(_)), "{refused}");
}

#[test]
fn a_picture_by_address_goes_to_who_has_a_bound_for_it_and_is_refused_by_its_place_where_nobody_has() {
    let parts = json!([{ "type": "text", "text": "see" }, { "type": "image_url", "image_url": { "url": "https://a.example/b" } }]);
    let request = request(RequestKind::Chat, &json!({ "messages": [{ "role": "user", "content": parts }] }));
    let mut bounded = candidate("bounded", 500);
    bounded.model.pictures.tokens_max = Some(4_784);
    let left = eligible(vec![candidate("unbounded", 500), bounded], &principal(&["*"]), &request).unwrap();
    assert_eq!(left.iter().map(|candidate| candidate.upstream.name.as_str()).collect::<Vec<_>>(), ["bounded"]);
    let refused = eligible(vec![candidate("unbounded", 500)], &principal(&["*"]), &request).err().unwrap();
    assert_eq!(faults(refused)[0].0, "messages[0].content[1].image_url");
}
