//! The JSON of a rule.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    super::{
        super::SimulatedProvider,
        CapKnob, Failure, FailureKind, Knobs, ThinkingKnob, Trouble, UsageReport, WorkKnobs,
        video::{Content, Idempotency, PromptTelling, VideoKnobs, WebhookSending},
    },
    KnobError, Rule,
};

/// [`Rule`] as it is written: flat, and the troubles side by side.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RuleJson {
    provider: Option<SimulatedProvider>,
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<ThinkingKnob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cap: Option<CapKnob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_before: Option<FailureJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hang: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_after_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tear_after_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hang_after_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_late: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hang_late: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tear_created: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    short_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency: Option<Idempotency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_bytes_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<WebhookSending>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<PromptTelling>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureJson {
    kind: Option<FailureKind>,
    status: Option<u16>,
    retry_after_ms: Option<u64>,
}

impl TryFrom<RuleJson> for Rule {
    type Error = KnobError;

    fn try_from(json: RuleJson) -> Result<Self, KnobError> {
        let when = |is_set: Option<bool>, trouble| is_set.and_then(|is_set| is_set.then_some(trouble));
        let mut troubles = vec![
            json.fail_before.map(Failure::try_from).transpose()?.map(Trouble::FailBefore),
            when(json.hang, Trouble::HangBefore),
            when(json.fail_late, Trouble::FailLate),
            when(json.hang_late, Trouble::HangLate),
            when(json.tear_created, Trouble::TearCreated),
            json.fail_after_tokens.map(Trouble::FailAfter),
            json.tear_after_tokens.map(Trouble::TearAfter),
            json.hang_after_tokens.map(Trouble::HangAfter),
        ];
        troubles.retain(Option::is_some);
        if troubles.len() > 1 {
            return Err(KnobError::SeveralTroubles);
        }
        let knobs = Knobs {
            ttft: json.ttft_ms.map(Duration::from_millis),
            tokens_per_second: json.tokens_per_second,
            output_tokens: json.output_tokens,
            work: WorkKnobs { hidden_tokens: json.hidden_tokens, thinking: json.thinking, cap: json.cap },
            trouble: troubles.pop().flatten(),
            usage: json.usage,
            case: None,
            video: VideoKnobs {
                time: json.video_time_ms.map(Duration::from_millis),
                short_s: json.short_s,
                idempotency: json.idempotency,
                content: json.content,
                content_bytes_per_second: json.content_bytes_per_second,
                webhook: json.webhook,
                prompt: json.prompt,
            },
        };
        Ok(Self { provider: json.provider, model: json.model, times: json.times, knobs })
    }
}

impl TryFrom<FailureJson> for Failure {
    type Error = KnobError;

    fn try_from(FailureJson { kind, status, retry_after_ms }: FailureJson) -> Result<Self, KnobError> {
        let by_status = || status.and_then(Failure::with_status).map(|failure| failure.kind);
        let kind = kind.or_else(by_status).ok_or(KnobError::UnknownFailure)?;
        Ok(Self { kind, status, retry_after_ms })
    }
}

impl From<Rule> for RuleJson {
    fn from(Rule { provider, model, times, knobs }: Rule) -> Self {
        let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let mut json = Self {
            provider,
            model,
            times,
            ttft_ms: knobs.ttft.map(ms),
            tokens_per_second: knobs.tokens_per_second,
            output_tokens: knobs.output_tokens,
            hidden_tokens: knobs.work.hidden_tokens,
            thinking: knobs.work.thinking,
            cap: knobs.work.cap,
            usage: knobs.usage,
            video_time_ms: knobs.video.time.map(ms),
            short_s: knobs.video.short_s,
            idempotency: knobs.video.idempotency,
            content: knobs.video.content,
            content_bytes_per_second: knobs.video.content_bytes_per_second,
            webhook: knobs.video.webhook,
            prompt: knobs.video.prompt,
            ..Self::default()
        };
        match knobs.trouble {
            Some(Trouble::FailBefore(Failure { kind, status, retry_after_ms })) => {
                json.fail_before = Some(FailureJson { kind: Some(kind), status, retry_after_ms });
            }
            Some(Trouble::HangBefore) => json.hang = Some(true),
            Some(Trouble::FailLate) => json.fail_late = Some(true),
            Some(Trouble::HangLate) => json.hang_late = Some(true),
            Some(Trouble::TearCreated) => json.tear_created = Some(true),
            Some(Trouble::FailAfter(tokens)) => json.fail_after_tokens = Some(tokens),
            Some(Trouble::TearAfter(tokens)) => json.tear_after_tokens = Some(tokens),
            Some(Trouble::HangAfter(tokens)) => json.hang_after_tokens = Some(tokens),
            None => {}
        }
        json
    }
}
