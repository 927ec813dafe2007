//! The rules of `/admin/knobs`: which knobs apply to which calls, and how many times.

use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    super::{SimulatedProvider, models},
    Knobs,
};

mod json;

/// The most rules that stand at a time: one for each model, each provider and any of them.
pub const MAX_RULES: usize = 32;

/// Knobs and the calls that they apply to, on any of the provider's endpoints; of videos, to the call that creates one and
/// then to that video. A call that is refused for its own faults (its key, its model's name, its fields) is not counted,
/// the repeat of an idempotency key is. The JSON of `PUT /admin/knobs`, all fields optional:
///
/// ```json
/// {"provider": "openai", "model": "gpt-6-luna", "times": 2,
///  "ttft_ms": 500, "tokens_per_second": 20, "output_tokens": 100, "usage": "missing",
///  "hidden_tokens": 50, "thinking": "shown", "cap": "ignored",
///  "fail_before": {"kind": "rate_limit", "status": 429, "retry_after_ms": 2000}}
/// ```
///
/// `provider` is `openai`, `claude` or `gemini`. Instead of `fail_before` one of `"hang": true`, `"fail_after_tokens": n`,
/// `"tear_after_tokens": n` and `"hang_after_tokens": n`, or of videos `"fail_late": true`, `"hang_late": true` and
/// `"tear_created": true`. A failure needs its `kind` or its `status`. The kinds are those of
/// [`FailureKind`](super::FailureKind), the usages those of [`UsageReport`](super::UsageReport), all in snake case.
///
/// Of videos also, with the values of [`VideoKnobs`](super::video::VideoKnobs) in snake case:
///
/// ```json
/// {"video_time_ms": 5000, "short_s": 2, "idempotency": "off", "content": "garbage",
///  "content_bytes_per_second": 65536, "webhook": "twice", "prompt": "hidden"}
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "json::RuleJson", into = "json::RuleJson")]
pub struct Rule {
    /// `None`: any.
    pub provider: Option<SimulatedProvider>,
    /// The model's name without knobs; `None`: any.
    pub model: Option<String>,
    /// For the next so many calls; `None`: until it is replaced or cleared.
    pub times: Option<u32>,
    pub knobs: Knobs,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum KnobError {
    #[error("the simulator has no model '{0}'")]
    UnknownModel(String),
    #[error(
        "one of fail_before, hang, fail_after_tokens, tear_after_tokens, hang_after_tokens, fail_late, hang_late and \
         tear_created at a time"
    )]
    SeveralTroubles,
    #[error("fail_before needs a kind, or a status out of 400, 401, 404, 429, 500, 503 and 529")]
    UnknownFailure,
    #[error("{0}")]
    OutOfRange(String),
    #[error("at most {MAX_RULES} rules at a time")]
    TooManyRules,
}

/// The standing rules. Where several apply, a model's goes before a provider's, and a provider's before any's.
#[derive(Default)]
pub(in super::super) struct Rules {
    /// Sorted by precedence, the most specific first.
    standing: RwLock<Vec<Standing>>,
}

struct Standing {
    rule: Rule,
    left: Option<AtomicU32>,
}

impl Rules {
    pub fn put(&self, rule: Rule) -> Result<(), KnobError> {
        if let Some(model) = &rule.model
            && !models::MODELS.iter().any(|known| known.name == model)
        {
            return Err(KnobError::UnknownModel(model.clone()));
        }
        rule.knobs.check().map_err(KnobError::OutOfRange)?;
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing
            .retain(|old| (old.rule.provider, &old.rule.model) != (rule.provider, &rule.model) && !old.is_used_up());
        if standing.len() >= MAX_RULES {
            return Err(KnobError::TooManyRules);
        }
        standing.push(Standing { left: rule.times.map(AtomicU32::new), rule });
        standing.sort_by_key(|one| (one.rule.model.is_none(), one.rule.provider.is_none()));
        Ok(())
    }

    pub fn clear(&self) {
        self.standing.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The standing rules, `times` being what is left of it.
    pub fn list(&self) -> Vec<Rule> {
        let standing = self.standing.read().unwrap_or_else(PoisonError::into_inner);
        let unused = standing.iter().filter(|one| !one.is_used_up());
        unused
            .map(|one| Rule { times: one.left.as_ref().map(|left| left.load(Ordering::Relaxed)), ..one.rule.clone() })
            .collect()
    }

    /// What applies to one call, which is counted against each rule that applies.
    pub fn for_call(&self, provider: SimulatedProvider, model: &str) -> Knobs {
        let standing = self.standing.read().unwrap_or_else(PoisonError::into_inner);
        standing
            .iter()
            .filter(|one| one.rule.provider.is_none_or(|of| of == provider))
            .filter(|one| one.rule.model.as_ref().is_none_or(|of| of == model))
            .filter(|one| one.take())
            .fold(Knobs::default(), |above, one| above.over(one.rule.knobs.clone()))
    }
}

impl Standing {
    fn take(&self) -> bool {
        let Some(left) = &self.left else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn is_used_up(&self) -> bool {
        self.left.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0)
    }
}
