//! What is drawn, the same for the same seed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aihub_application::{
    catalog::{Model, Models, Serves},
    gateway::GatewaySettings,
    ports::provider::FailureKind,
    principal::{Capabilities, Pattern, Principal, Role},
    request::{AnswerRequest, pictures::Pictures},
    upstream::Streaming,
};
use aihub_domain::{
    money::MicrocreditsPerUsd,
    price::{LongContext, PicoUsdPerToken, Price, Rates},
    request::event::RequestKind,
};
use chrono::DateTime;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::provider::{Act, Break, Told, Work};

const ASKS: u32 = 60;
const PROVIDERS: usize = 3;

#[derive(Clone)]
pub struct World {
    pub settings: GatewaySettings,
    pub upstreams: Vec<Spec>,
    /// With what they were granted.
    pub accounts: Vec<(String, i64)>,
    pub asks: Vec<Ask>,
    /// After how many calls to providers the other node dies.
    pub life: usize,
    pub keeps_caps: bool,
}

/// A provider. Each has one model for texts, and one for vectors.
#[derive(Clone)]
pub struct Spec {
    pub name: String,
    pub streaming: Streaming,
    pub models: Models,
}

#[derive(Clone)]
pub struct Ask {
    /// Names it to the providers.
    pub key: String,
    pub account: String,
    pub request: AnswerRequest,
    pub after: Duration,
    pub leave: Leave,
    /// At the node that lives.
    pub is_here: bool,
    /// What providers do with it, call by call.
    pub acts: Vec<Act>,
}

#[derive(Debug, Clone, Copy)]
pub enum Leave {
    Stay,
    Cancel(Duration),
    Go(Duration),
}

pub fn principal(account: &str) -> Arc<Principal> {
    let all = || vec![Pattern("*".to_owned())];
    let role = Role { chat: true, embedding: true, models: all(), providers: all(), ..Role::default() };
    Arc::new(Principal {
        user: "ann".to_owned(),
        account: account.to_owned(),
        roles: vec![],
        expires_at: DateTime::UNIX_EPOCH,
        capabilities: Capabilities::new(vec![("role".to_owned(), Some(role.into()))]),
    })
}

impl World {
    pub fn draw(seed: u64, keeps_caps: bool) -> Self {
        let name = format!("{}{seed}", if keeps_caps { "kept" } else { "ignored" });
        let mut rng = StdRng::seed_from_u64(seed * 2 + u64::from(keeps_caps));
        let rng = &mut rng;
        let settings = GatewaySettings {
            node: String::new(),
            rate: MicrocreditsPerUsd([1, 1_000_000, 1_000_000_000, u32::MAX][rng.random_range(0..4)]),
            request_timeout: Duration::from_millis(rng.random_range(1_000..2_500)),
            output_hold_tokens: rng.random_range(1..400),
            hidden_output_hold_tokens: rng.random_range(16..3_000),
            charge_abandoned: rng.random_bool(0.7),
            hedge_after: None,
            drain_after_leaving: Duration::from_millis(rng.random_range(0..50)),
            max_answer_bytes: 1 << 20,
            resumable_for: Duration::ZERO,
            welcome_credits: None,
            top_up: None,
        };
        // What a token costs in this world, about: from hardly anything to a cent.
        let level = 10_u64.pow(rng.random_range(2..10));
        let upstreams: Vec<_> = (0..PROVIDERS).map(|nth| spec(rng, nth, level)).collect();
        // From less than a request may cost to more than all of them do.
        let usual = 2_000 * u128::from(level) * u128::from(settings.rate.0) / 1_000_000_000_000;
        let accounts: Vec<_> = [3, 6, 10, 15, 200]
            .into_iter()
            .enumerate()
            .map(|(nth, times)| {
                let granted = usual * times * rng.random_range(50..200) / 100;
                (format!("{name}-{nth}"), i64::try_from(granted).unwrap().clamp(1, 1_000_000_000_000_000_000))
            })
            .collect();
        let asks = (0..ASKS)
            .map(|nth| {
                let key = format!("{name}-ask-{nth}");
                let account = accounts[rng.random_range(0..accounts.len())].0.clone();
                let leave = match rng.random_range(0..10) {
                    0 | 1 => Leave::Cancel(Duration::from_millis(rng.random_range(0..200))),
                    2 => Leave::Go(Duration::from_millis(rng.random_range(0..200))),
                    _ => Leave::Stay,
                };
                Ask {
                    request: request(rng, &key),
                    key,
                    account,
                    after: Duration::from_millis(rng.random_range(0..400)),
                    leave,
                    is_here: rng.random_bool(0.6),
                    acts: (0..PROVIDERS * 3).map(|_| act(rng, keeps_caps)).collect(),
                }
            })
            .collect();
        let life = rng.random_range(5..25);
        Self { settings, upstreams, accounts, asks, life, keeps_caps }
    }
}

fn rates(rng: &mut StdRng, level: u64) -> Rates {
    let mut rate = || PicoUsdPerToken(if rng.random_bool(0.1) { 0 } else { rng.random_range(level / 10..level * 2) });
    Rates { input: rate(), cached_input: rate(), cache_write: rate(), cache_write_1h: rate(), output: rate() }
}

fn price(rng: &mut StdRng, id: String, level: u64) -> Price {
    let long_context = rng
        .random_bool(0.3)
        .then(|| LongContext { above_input_tokens: rng.random_range(10..1_500), rates: rates(rng, level) });
    let (valid_from, source) = (DateTime::UNIX_EPOCH, "drawn".to_owned());
    Price { id, rates: rates(rng, level), long_context, valid_from, valid_until: None, source }
}

fn spec(rng: &mut StdRng, nth: usize, level: u64) -> Spec {
    let name = format!("p{nth}");
    let mut model = |kind: &str, serves| Model {
        upstream_name: format!("{kind}{nth}"),
        serves,
        context_tokens: rng.random_range(2_000..20_000),
        max_output_tokens: rng.random_range(1..4_000),
        hidden_output: rng.random_bool(0.4),
        pictures: Pictures::default(),
        first_piece: None,
        prices: vec![price(rng, format!("{name}/{kind}{nth}@1970-01-01"), level)],
    };
    let listed = BTreeMap::from([
        (format!("m{nth}"), model("m", Serves::Text)),
        (format!("e{nth}"), model("e", Serves::Embedding)),
    ]);
    let models = Models {
        listed,
        unlisted: None,
        default_text: Some(format!("m{nth}")),
        default_embedding: Some(format!("e{nth}")),
    };
    let streaming =
        [Streaming::Counted, Streaming::Counted, Streaming::Uncounted, Streaming::Never][rng.random_range(0..4)];
    Spec { name, streaming, models }
}

fn request(rng: &mut StdRng, key: &str) -> AnswerRequest {
    let text = "word ".repeat(rng.random_range(1..300));
    let provider = ["auto", "p0", "p1", "p2"][rng.random_range(0..4)];
    let mut fields = json!({ "provider": provider, "user": key, "fallback": rng.random_bool(0.7) });
    let mut set = |name: &str, value: Value| fields[name] = value;
    if rng.random_bool(0.1) {
        set("input", json!([text, "and more"]));
        return AnswerRequest::from_fields(RequestKind::Embedding, fields.as_object().unwrap().clone()).unwrap();
    }
    let ttl = ["5m", "1h"][rng.random_range(0..2)];
    let control = rng.random_bool(0.4).then(|| json!({ "type": "ephemeral", "ttl": ttl }));
    let part = json!({ "type": "text", "text": text, "cache_control": control });
    set("messages", json!([{ "role": "user", "content": [part] }]));
    set("stream", json!(rng.random_bool(0.6)));
    if rng.random_bool(0.3) {
        set("maxTokens", json!(rng.random_range(1..2_000)));
    }
    AnswerRequest::from_fields(RequestKind::Chat, fields.as_object().unwrap().clone()).unwrap()
}

fn act(rng: &mut StdRng, keeps_caps: bool) -> Act {
    match rng.random_range(0..20) {
        0 => Act::Unreachable,
        1 => Act::Refuse(FailureKind::QuotaExceeded),
        2 => Act::Refuse(FailureKind::InvalidRequest),
        3 => Act::Hang,
        _ => Act::Work(Work {
            input_percent: rng.random_range(1..=100),
            caches: [0; 3].map(|_| rng.random_range(0..=50)),
            output_percent: rng.random_range(0..if keeps_caps { 130 } else { 300 }),
            hidden_percent: rng.random_range(0..=100),
            thinking_percent: [0, rng.random_range(0..=100), 100][rng.random_range(0..3)],
            words_a_piece: rng.random_range(1..6),
            is_dense: rng.random_bool(0.4),
            told: [Told::AtTheEnd, Told::AtTheEnd, Told::Twice, Told::Before, Told::Never][rng.random_range(0..5)],
            breaks: rng.random_bool(0.35).then(|| {
                let how = [Break::Fails, Break::Hangs, Break::Ends][rng.random_range(0..3)];
                (rng.random_range(0..=100), how)
            }),
            keeps_cap: keeps_caps,
            pause: Duration::from_micros([0, 0, 200, 3_000][rng.random_range(0..4)]),
        }),
    }
}
