//! What has to fit together across keys. Types alone are checked when the layers are merged.

use aihub_application::request::AUTO;
use aihub_domain::video::price::MAX_SECONDS;
use aihub_infrastructure::{
    audit::note::{KeyError, SigningKey},
    kafka::cluster::PASSED_ON,
};
use reqwest::Url;

use super::{
    Config,
    error::Fault,
    models::{ModelKind, ModelSettings, UnlistedSettings},
    prices::PriceSettings,
    providers::ProviderSettings,
    sections::KafkaSettings,
    videos::VideoProviderSettings,
};
use crate::{auth::secret::Secret, doors::origins::Origins};

/// A node is heard of five times in it: a shorter one takes a busy node for dead, a longer one keeps credits held.
const NODE_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// The form of a signing key, to try a name with.
const ANY_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What the log takes in one statement is far above what becomes of a frame of so many bytes.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// Everything that is wrong.
pub fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = zeros(config);
    if let Err(error) = config.auth.checked_secret() {
        faults.push(Fault::new("auth:", format!("{error} (JWT_SECRET)")));
    }
    config.content.faults(&mut faults);
    for origin in config.server.allowed_origins.iter().filter(|origin| !Origins::is_origin(origin)) {
        let reason = format!("{origin:?} is no origin as browsers say it: https://app.example, without a path");
        faults.push(Fault::new("server.allowed_origins", reason));
    }
    if !NODE_TIMEOUT_MS.contains(&config.gateway.node_timeout_ms) {
        faults.push(Fault::new("gateway.node_timeout_ms", "must be 1000 to 600000"));
    }
    let signing_key = config.audit.signing_key.as_ref().map(Secret::expose);
    if let Err(error) = SigningKey::from_base64(&config.audit.origin, signing_key.unwrap_or(ANY_KEY)) {
        let key = if matches!(error, KeyError::Name) { "audit.origin:" } else { "audit.signing_key:" };
        faults.push(Fault::new(key, error.to_string()));
    }
    if !is_role_prefix(&config.database.role_prefix) {
        let reason = "must be a letter and up to 39 more letters, digits and `_`, all lower case";
        faults.push(Fault::new("database.role_prefix", reason));
    }
    config.server.check_memory(config.gateway.max_answer_bytes, &mut faults);
    check_kafka(&config.kafka, &mut faults);
    if config.server.max_frame_bytes > MAX_FRAME_BYTES {
        faults.push(Fault::new("server.max_frame_bytes", format!("must be at most {MAX_FRAME_BYTES}")));
    }
    config.media.faults(&mut faults);
    config.check_workflows(&mut faults);
    for (name, provider) in &config.providers {
        check_provider(name, provider, &mut faults);
    }
    config.webhooks.faults(&mut faults);
    for (name, provider) in &config.video_providers {
        check_video_provider(name, provider, &mut faults);
    }
    for (name, provider, _) in config.video_providers_to_start() {
        if provider.timeouts.first_byte_ms == 0 || provider.timeouts.first_byte_ms >= config.videos.recover_after_ms {
            let reason =
                "must be at least 1, and below `videos.recover_after_ms`: whoever submitted must have given up";
            faults.push(Fault::new(format!("video_providers.{name}.timeouts.first_byte_ms"), reason));
        }
    }
    for (index, group) in config.routing.equivalents.iter().enumerate() {
        for model in group {
            let known =
                |provider: &ProviderSettings| provider.unlisted.is_some() || provider.models.contains_key(model);
            if !config.providers.values().any(known) {
                let reason = format!("names {model}, which no provider has");
                faults.push(Fault::new(format!("routing.equivalents.{index}"), reason));
            }
        }
    }
    faults
}

/// What PostgreSQL takes without quotes, with room for the rest of a role's name.
fn is_role_prefix(prefix: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase();
    prefix.as_bytes().first().is_some_and(is_letter)
        && prefix.len() <= 40
        && prefix.bytes().all(|byte| is_letter(&byte) || byte.is_ascii_digit() || byte == b'_')
}

/// Limits that would let nothing through, and times that would never pass.
fn zeros(config: &Config) -> Vec<Fault> {
    let server = &config.server;
    let sizes = [
        ("server.max_frame_bytes", server.max_frame_bytes),
        ("server.max_connections", server.max_connections),
        ("server.max_sockets", server.max_sockets),
        ("server.max_requests_per_socket", server.max_requests_per_socket),
        ("limits.node.running_requests", config.limits.node.running_requests),
        ("database.max_connections", config.database.max_connections as usize),
        ("limits.per_user.concurrent_requests", config.limits.per_user.concurrent_requests as usize),
        ("limits.per_account.concurrent_requests", config.limits.per_account.concurrent_requests as usize),
        ("gateway.max_answer_bytes", config.gateway.max_answer_bytes),
        ("gateway.output_hold_tokens", config.gateway.output_hold_tokens as usize),
        ("gateway.hidden_output_hold_tokens", config.gateway.hidden_output_hold_tokens as usize),
        ("limits.per_user.sockets", config.limits.per_user.sockets),
        ("limits.per_user.concurrent_calls", config.limits.per_user.concurrent_calls),
        ("limits.per_account.sockets", config.limits.per_account.sockets),
        ("limits.per_account.concurrent_calls", config.limits.per_account.concurrent_calls),
    ];
    let times = [
        ("server.ping_interval_ms", server.ping_interval_ms),
        ("server.standstill_ms", server.standstill_ms),
        ("server.head_timeout_ms", server.head_timeout_ms),
        ("gateway.request_timeout_ms", config.gateway.request_timeout_ms),
        ("audit.checkpoint_interval_ms", config.audit.checkpoint_interval_ms),
        ("audit.refusals_interval_ms", config.audit.refusals_interval_ms),
        ("videos.max_queued", config.videos.max_queued),
        ("videos.max_queued_per_account", config.videos.max_queued_per_account),
        ("videos.max_wait_ms", config.videos.max_wait_ms),
        ("videos.deadline_ms", config.videos.deadline_ms),
        ("videos.poll_ms", config.videos.poll_ms),
    ];
    let zero = sizes.iter().filter(|(_, size)| *size == 0).map(|(key, _)| *key);
    let zero = zero.chain(times.iter().filter(|(_, time)| *time == 0).map(|(key, _)| *key));
    zero.map(|key| Fault::new(key, "must be at least 1")).collect()
}

fn check_kafka(kafka: &KafkaSettings, faults: &mut Vec<Fault>) {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let mut check = |key: &str, is_good: bool, reason: &str| {
        if !is_good {
            faults.push(Fault::new(format!("kafka.{key}"), reason));
        }
    };
    let prefix = &kafka.topic_prefix;
    check(
        "topic_prefix",
        (1..=200).contains(&prefix.len()) && is_name(prefix),
        "must be letters, digits, `.`, `_`, `-`",
    );
    let is_broker = |broker: &str| {
        let (host, port) = broker.trim().rsplit_once(':').unwrap_or((broker.trim(), "9092"));
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    };
    check(
        "brokers",
        kafka.brokers.as_deref().is_none_or(|brokers| brokers.trim().is_empty() || brokers.split(',').all(is_broker)),
        "must be `host:port`, separated by commas, and no URL",
    );
    check("partitions", kafka.partitions >= 1, "must be at least 1");
    check("replication", kafka.replication == -1 || kafka.replication >= 1, "must be at least 1, or -1");
    check("max_message_bytes", (10_000..=100_000_000).contains(&kafka.max_message_bytes), "must be 10000 to 100000000");
    check("delivery_timeout_ms", (1_000..=25_000).contains(&kafka.delivery_timeout_ms), "must be 1000 to 25000");
    for name in kafka.properties.keys().filter(|name| !PASSED_ON.iter().any(|prefix| name.starts_with(prefix))) {
        check(&format!("properties.{name}"), false, "is not passed on: only security.*, sasl.* and ssl.* are");
    }
}

fn check_provider(name: &str, provider: &ProviderSettings, faults: &mut Vec<Fault>) {
    let at = |key: &str| format!("providers.{name}.{key}");
    if name == AUTO {
        faults.push(Fault::new(format!("providers.{name}"), "has a name that stands for the choice among all of them"));
    }
    if let Some(reason) = provider.base_url.as_deref().and_then(url_fault) {
        faults.push(Fault::new(at("base_url"), reason));
    }
    if provider.weight == 0 {
        faults.push(Fault::new(at("weight"), "must be at least 1"));
    }
    if provider.limits.max_concurrency == 0 {
        faults.push(Fault::new(at("limits.max_concurrency"), "must be at least 1"));
    }
    if !(1..=100).contains(&provider.breaker.failure_percent) {
        faults.push(Fault::new(at("breaker.failure_percent"), "must be 1 to 100"));
    }
    for (model, _) in provider.models.iter().filter(|(_, model)| model.first_piece_ms == Some(0)) {
        faults.push(Fault::new(at(&format!("models.{model}.first_piece_ms")), "must be at least 1"));
    }
    // It forgets a sixth of itself at a time.
    if provider.breaker.window_ms < 1_000 {
        faults.push(Fault::new(at("breaker.window_ms"), "must be at least 1000"));
    }
    if provider.breaker.consecutive_failures == 0 {
        faults.push(Fault::new(at("breaker.consecutive_failures"), "must be at least 1"));
    }
    let times = [
        ("timeouts.connect_ms", provider.timeouts.connect_ms),
        ("timeouts.first_byte_ms", provider.timeouts.first_byte_ms),
        ("timeouts.first_piece_ms", provider.timeouts.first_piece_ms),
        ("timeouts.idle_ms", provider.timeouts.idle_ms),
        ("timeouts.answer_ms", provider.timeouts.answer_ms),
    ];
    faults.extend(times.iter().filter(|(_, ms)| *ms == 0).map(|(key, _)| Fault::new(at(key), "must be at least 1")));
    if provider.enabled && provider.models.is_empty() && provider.unlisted.is_none() {
        faults.push(Fault::new(at("models"), "is empty: list some, or give the terms of `unlisted` ones"));
    }
    for kind in [ModelKind::Text, ModelKind::Embedding] {
        let defaults = provider.models.iter().filter(|(_, model)| model.default && model.serves == kind);
        let names: Vec<_> = defaults.map(|(name, _)| name.as_str()).collect();
        if names.len() > 1 {
            let reason = format!("has more than one default for {kind:?}: {}", names.join(", "));
            faults.push(Fault::new(at("models"), reason.to_lowercase()));
        }
    }
    for (model, settings) in &provider.models {
        let ModelSettings { serves, context_tokens, max_output_tokens, prices, .. } = settings;
        let terms = Terms { serves: *serves, context_tokens: *context_tokens, max_output_tokens: *max_output_tokens };
        terms.check(&at(&format!("models.{model}")), (name, model), prices, faults);
    }
    if let Some(UnlistedSettings { serves, context_tokens, max_output_tokens, prices, .. }) = &provider.unlisted {
        let terms = Terms { serves: *serves, context_tokens: *context_tokens, max_output_tokens: *max_output_tokens };
        terms.check(&at("unlisted"), (name, UnlistedSettings::NAME), prices, faults);
    }
}

fn check_video_provider(name: &str, provider: &VideoProviderSettings, faults: &mut Vec<Fault>) {
    let at = |key: &str| format!("video_providers.{name}.{key}");
    let mut fault = |key: &str, reason: &str| faults.push(Fault::new(at(key), reason));
    if name == AUTO {
        fault("", "has a name that stands for the choice among all of them");
    }
    if let Some(reason) = provider.base_url.as_deref().and_then(url_fault) {
        fault("base_url", reason);
    }
    if provider.limits.max_concurrency == 0 {
        fault("limits.max_concurrency", "must be at least 1");
    }
    if !(1..=100).contains(&provider.breaker.failure_percent) {
        fault("breaker.failure_percent", "must be 1 to 100");
    }
    for (model, settings) in &provider.models {
        let mut fault = |key: &str, reason: &str| fault(&format!("models.{model}.{key}"), reason);
        let mut made = settings.durations.values().flatten();
        let is_made = made.clone().next().is_some();
        if !is_made || !made.all(|seconds| (1..=MAX_SECONDS).contains(seconds)) {
            let reason = format!("must be the lengths that it makes of each resolution, 1 to {MAX_SECONDS} seconds");
            fault("durations", &reason);
        }
        if settings.aspect_ratios.is_empty() {
            fault("aspect_ratios", "must say what it makes");
        }
        let priced = |resolution| settings.prices.iter().any(|price| price.usd_per_second.contains_key(resolution));
        if !settings.durations.iter().all(|(resolution, seconds)| seconds.is_empty() || priced(resolution)) {
            fault("prices", "has none for some resolution of `durations`; what is free has the price 0");
        }
    }
}

/// What a listed model and the unlisted ones have in common.
struct Terms {
    serves: ModelKind,
    context_tokens: u64,
    max_output_tokens: u32,
}

impl Terms {
    fn check(&self, at: &str, (provider, model): (&str, &str), prices: &[PriceSettings], faults: &mut Vec<Fault>) {
        let is_text = self.serves == ModelKind::Text;
        if self.context_tokens == 0 {
            faults.push(Fault::new(format!("{at}.context_tokens"), "must be at least 1"));
        }
        if is_text && self.max_output_tokens == 0 {
            faults
                .push(Fault::new(format!("{at}.max_output_tokens"), "is missing: what the model can produce at most"));
        }
        if prices.is_empty() {
            let reason = "is empty: a model without a price is not offered. One that is free has the price 0";
            faults.push(Fault::new(format!("{at}.prices"), reason));
        }
        for (index, price) in prices.iter().enumerate() {
            let at = format!("{at}.prices.{index}");
            if price.id(provider, model).is_none_or(|id| id.is_empty()) {
                faults.push(Fault::new(&at, "needs an `id`, or a `valid_from` to be named after: charges name it"));
            }
            if is_text && price.output_usd_per_mtok.is_none() {
                faults.push(Fault::new(format!("{at}.output_usd_per_mtok"), "is missing; 0 is what is free"));
            }
            if let Some(long) = &price.long_context {
                let at = format!("{at}.long_context");
                if long.above_input_tokens == 0 {
                    faults.push(Fault::new(format!("{at}.above_input_tokens"), "must be at least 1"));
                }
                if is_text && long.output_usd_per_mtok.is_none() {
                    faults.push(Fault::new(format!("{at}.output_usd_per_mtok"), "is missing; 0 is what is free"));
                }
            }
            if price.valid_from.zip(price.valid_until).is_some_and(|(from, until)| until <= from) {
                faults.push(Fault::new(format!("{at}.valid_until"), "must be after `valid_from`"));
            }
            for (earlier, other) in prices[..index].iter().enumerate() {
                if price.id(provider, model) == other.id(provider, model) {
                    faults.push(Fault::new(format!("{at}.id"), format!("is also that of prices.{earlier}")));
                }
                if price.overlaps(other) {
                    faults.push(Fault::new(&at, format!("is valid on some of the days of prices.{earlier}")));
                }
            }
        }
    }
}

/// A URL shows in logs and in `aihub config`, so nothing secret may stand in it.
pub(super) fn url_fault(text: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(text) else { return Some("is not a URL") };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Some("must be an http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Some("must end with its path: credentials belong into `api_key` or `headers`");
    }
    None
}
