//! What can be turned: pace, length, and what goes wrong. Knobs come in layers (defaults, rules, the model's name), and
//! each layer only sets what it names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::video::VideoKnobs;
use super::cases::Case;

pub mod rules;
pub(super) mod suffix;
pub mod video;

/// The longest answer that a knob can order, in tokens: the models' own limit.
pub const MAX_OUTPUT_TOKENS: u32 = 128_000;
/// The longest wait that a knob can order: an hour.
pub const MAX_WAIT: Duration = Duration::from_hours(1);

const DEFAULT_TTFT: Duration = Duration::from_millis(150);
const DEFAULT_TOKENS_PER_SECOND: f64 = 60.0;
/// Slower than a token in a quarter of an hour is what `hang` is for.
pub(super) const MIN_TOKENS_PER_SECOND: f64 = 0.001;

/// One layer of knobs; `None` leaves a knob as the layers below have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Knobs {
    /// From the arrival of the call to the status and the first token.
    pub ttft: Option<Duration>,
    /// 0 sends as fast as the socket takes it.
    pub tokens_per_second: Option<f64>,
    /// The answer's length, still below the caller's own limit. Applies to texts, not to tool calls.
    pub output_tokens: Option<u32>,
    pub work: WorkKnobs,
    pub trouble: Option<Trouble>,
    pub usage: Option<UsageReport>,
    pub video: VideoKnobs,
    /// The answer as it is, instead of any that would be made.
    pub case: Option<&'static Case>,
}

/// How a model works, beside what it writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkKnobs {
    /// Tokens of reasoning that nobody is shown: they come before the answer, out of the same limit, and are counted.
    pub hidden_tokens: Option<u32>,
    /// Thinking that is shown, before the answer, also where it was not asked for.
    pub thinking: Option<ThinkingKnob>,
    /// Whether the caller's limit of tokens counts.
    pub cap: Option<CapKnob>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingKnob {
    /// Where it was asked for.
    Asked,
    Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapKnob {
    Kept,
    /// The answer is as long as the knobs say, whatever the caller's limit.
    Ignored,
}

/// What goes wrong. Counts are in output tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// An HTTP error in the provider's own form, at once.
    FailBefore(Failure),
    /// Neither a status nor a byte ever comes.
    HangBefore,
    /// An error event inside the HTTP 200 stream; without streaming, an HTTP 500.
    FailAfter(u32),
    /// The connection is closed in the middle of the body.
    TearAfter(u32),
    /// The stream stays open and silent; without streaming, the status never comes.
    HangAfter(u32),
    /// Of videos: its status is `failed` once its time is over.
    FailLate,
    /// Of videos: its status stays `in_progress`.
    HangLate,
    /// Of videos: the connection is closed once the video is created, before the status. A repeat is answered.
    TearCreated,
}

/// An error of the provider's, answered instead of serving the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// The HTTP status; what the provider sends for this kind where `None`.
    pub status: Option<u16>,
    /// For the `retry-after` headers. `Some(0)` sends none, `None` one second with a rate limit and else none.
    pub retry_after_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    BadRequest,
    ContextLength,
    Unauthorized,
    NotFound,
    RateLimit,
    InsufficientQuota,
    ServerError,
    /// 503 `server_is_overloaded` from OpenAI, 529 `overloaded_error` from Anthropic.
    Overloaded,
}

/// How the provider reports its own count. The served ledger always has the true one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageReport {
    #[default]
    Normal,
    /// Nowhere in the answer.
    Missing,
    /// Every count is an explicit zero.
    Zero,
    /// A stream reports the same final count twice.
    Repeated,
    /// A stream reports too few input tokens first and the right count later.
    Corrected,
}

/// All knobs of one call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub ttft: Duration,
    /// Between two tokens; `None` sends without waiting.
    pub token_interval: Option<Duration>,
    pub output_tokens: Option<u32>,
    pub work: WorkKnobs,
    pub trouble: Option<Trouble>,
    pub usage: UsageReport,
    pub video: VideoKnobs,
    pub case: Option<&'static Case>,
}

impl Knobs {
    /// These knobs, and where they say nothing those of `below`.
    #[must_use]
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            ttft: self.ttft.or(below.ttft),
            tokens_per_second: self.tokens_per_second.or(below.tokens_per_second),
            output_tokens: self.output_tokens.or(below.output_tokens),
            work: self.work.over(below.work),
            trouble: self.trouble.or(below.trouble),
            usage: self.usage.or(below.usage),
            video: self.video.over(below.video),
            case: self.case.or(below.case),
        }
    }

    pub(super) fn settle(self) -> Settings {
        let rate = self.tokens_per_second.unwrap_or(DEFAULT_TOKENS_PER_SECOND);
        Settings {
            ttft: self.ttft.unwrap_or(DEFAULT_TTFT),
            token_interval: (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate)),
            output_tokens: self.output_tokens,
            work: self.work,
            trouble: self.trouble,
            usage: self.usage.unwrap_or_default(),
            video: self.video,
            case: self.case,
        }
    }

    /// Whether all values are within their limits; the message names the knob.
    pub(super) fn check(&self) -> Result<(), String> {
        let too_long = |wait: Option<Duration>| wait.is_some_and(|wait| wait > MAX_WAIT);
        for (name, wait) in [("ttft", self.ttft), ("vtime", self.video.time)] {
            if too_long(wait) {
                return Err(format!("{name} is over {} s", MAX_WAIT.as_secs()));
            }
        }
        self.video.check()?;
        if let Some(Trouble::FailBefore(failure)) = &self.trouble {
            if too_long(failure.retry_after_ms.map(Duration::from_millis)) {
                return Err(format!("retry_after is over {} s", MAX_WAIT.as_secs()));
            }
            if failure.status.is_some_and(|status| !(400..600).contains(&status)) {
                return Err("a failure's status is from 400 to 599".to_owned());
            }
        }
        let counts = [self.output_tokens, self.work.hidden_tokens];
        if counts.into_iter().flatten().any(|tokens| tokens > MAX_OUTPUT_TOKENS) {
            return Err(format!("an answer has at most {MAX_OUTPUT_TOKENS} tokens"));
        }
        match self.tokens_per_second {
            Some(rate) if rate != 0.0 && !(rate >= MIN_TOKENS_PER_SECOND && rate.is_finite()) => {
                Err(format!("the rate is 0 or at least {MIN_TOKENS_PER_SECOND} tokens a second"))
            }
            _ => Ok(()),
        }
    }
}

impl WorkKnobs {
    fn over(self, below: Self) -> Self {
        Self {
            hidden_tokens: self.hidden_tokens.or(below.hidden_tokens),
            thinking: self.thinking.or(below.thinking),
            cap: self.cap.or(below.cap),
        }
    }
}

impl Failure {
    pub fn of(kind: FailureKind) -> Self {
        Self { kind, status: None, retry_after_ms: None }
    }

    /// The kind that this status usually means, with exactly this status.
    pub fn with_status(status: u16) -> Option<Self> {
        let kind = match status {
            400 => FailureKind::BadRequest,
            401 => FailureKind::Unauthorized,
            404 => FailureKind::NotFound,
            429 => FailureKind::RateLimit,
            500 => FailureKind::ServerError,
            503 | 529 => FailureKind::Overloaded,
            _ => return None,
        };
        Some(Self { kind, status: Some(status), retry_after_ms: None })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        let default_ms = if self.kind == FailureKind::RateLimit { 1_000 } else { 0 };
        match self.retry_after_ms.unwrap_or(default_ms) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }
}
