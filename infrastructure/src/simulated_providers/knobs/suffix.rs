//! Knobs in a model's name, `gpt-6-luna+ttft=500ms+fail=after:3`. The grammar stands in `simulated_providers`.

use std::{str::FromStr, time::Duration};

use serde::de::{DeserializeOwned, IntoDeserializer, value};

use super::{
    CapKnob, Failure, FailureKind, Knobs, ThinkingKnob, Trouble, UsageReport,
    video::{Content, Idempotency, PromptTelling, WebhookSending},
};

const GRAMMAR: &str = "known are ttft=500ms, rate=20, tokens=60, hidden=60, thinking=shown, cap=ignored, usage=missing, fail=before[:429], fail=after:5, \
                       tear=after:5, hang=before, hang=after:5 and, with fail=before, retry_after=2s; of videos fail=late, \
                       hang=late, tear=created, vtime=5s, short=2s, idempotency=off, content=garbage, bandwidth=65536, \
                       webhook=twice and prompt=hidden";

/// Splits a name into the model's own and the knobs. The error is a sentence for the caller.
pub(in super::super) fn parse(name: &str) -> Result<(&str, Knobs), String> {
    let mut parts = name.split('+');
    let model = parts.next().unwrap_or_default();
    let mut knobs = Knobs::default();
    let mut retry_after = None;
    for part in parts {
        let wrong = || format!("The knob '{part}' of the simulated model '{model}' is not understood: {GRAMMAR}.");
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        match key {
            "ttft" => once(&mut knobs.ttft, duration(value)),
            "rate" => once(&mut knobs.tokens_per_second, number(value)),
            "tokens" => once(&mut knobs.output_tokens, number(value)),
            "hidden" => once(&mut knobs.work.hidden_tokens, number(value)),
            "thinking" => once(&mut knobs.work.thinking, named::<ThinkingKnob>(value)),
            "cap" => once(&mut knobs.work.cap, named::<CapKnob>(value)),
            "usage" => once(&mut knobs.usage, named::<UsageReport>(value)),
            "fail" if value == "late" => once(&mut knobs.trouble, Some(Trouble::FailLate)),
            "fail" => once(&mut knobs.trouble, fail(value)),
            "tear" if value == "created" => once(&mut knobs.trouble, Some(Trouble::TearCreated)),
            "tear" => once(&mut knobs.trouble, after(value).map(Trouble::TearAfter)),
            "hang" if value == "before" => once(&mut knobs.trouble, Some(Trouble::HangBefore)),
            "hang" if value == "late" => once(&mut knobs.trouble, Some(Trouble::HangLate)),
            "hang" => once(&mut knobs.trouble, after(value).map(Trouble::HangAfter)),
            "retry_after" => once(&mut retry_after, duration(value)),
            "vtime" => once(&mut knobs.video.time, duration(value)),
            "short" => once(&mut knobs.video.short_s, value.strip_suffix('s').and_then(number)),
            "idempotency" => once(&mut knobs.video.idempotency, named::<Idempotency>(value)),
            "content" => once(&mut knobs.video.content, named::<Content>(value)),
            "bandwidth" => once(&mut knobs.video.content_bytes_per_second, number(value)),
            "webhook" => once(&mut knobs.video.webhook, named::<WebhookSending>(value)),
            "prompt" => once(&mut knobs.video.prompt, named::<PromptTelling>(value)),
            _ => None,
        }
        .ok_or_else(wrong)?;
    }
    if let Some(retry_after) = retry_after {
        let Some(Trouble::FailBefore(failure)) = &mut knobs.trouble else {
            return Err(format!("'retry_after' of the simulated model '{model}' goes with fail=before only."));
        };
        failure.retry_after_ms = Some(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX));
    }
    knobs.check().map_err(|why| format!("A knob of the simulated model '{model}' is out of range: {why}."))?;
    Ok((model, knobs))
}

/// Sets what was not yet set; `None` for a second time or an unreadable value.
fn once<T>(knob: &mut Option<T>, value: Option<T>) -> Option<()> {
    if knob.is_some() {
        return None;
    }
    *knob = Some(value?);
    Some(())
}

/// Digits and, for rates, a dot: `from_str` alone would also take `+5`, `inf` and `NaN`.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| text.parse().ok())?
}

fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(count) => number(count).map(Duration::from_millis),
        None => text.strip_suffix('s').and_then(number).map(Duration::from_secs),
    }
}

fn after(text: &str) -> Option<u32> {
    text.strip_prefix("after:").and_then(number)
}

fn fail(text: &str) -> Option<Trouble> {
    match text.strip_prefix("before") {
        None => after(text).map(Trouble::FailAfter),
        Some("") => Some(Trouble::FailBefore(Failure::of(FailureKind::ServerError))),
        Some(failure) => {
            let name = failure.strip_prefix(':')?;
            let by_status = number(name).and_then(Failure::with_status);
            by_status.or_else(|| named(name).map(Failure::of)).map(Trouble::FailBefore)
        }
    }
}

/// A value under the name that it has in the JSON of a rule.
fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    T::deserialize(IntoDeserializer::<value::Error>::into_deserializer(name)).ok()
}
