//! Recorded answers and bad days, mutated: whatever comes, reading it ends, and what counts as an answer has all of its text.
//! `AIHUB_FUZZ_INPUTS=10000000` is the long run.

use std::{collections::HashSet, panic, thread};

use aihub_application::ports::provider::{Delta, ProviderError};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::{
    super::{
        answer::{Decode, stream_deltas},
        anthropic::event::MessageDecoder,
        openai::chunk::ChatDecoder,
    },
    replay::recorded,
};
use crate::simulated_providers::{SimulatedProvider, cases};

/// Of all dialects together.
const INPUTS: u64 = 1_000_000;
/// Longer recordings are mutated by their beginnings.
const MAX_BYTES: usize = 1_200;

/// Pieces that mean something somewhere.
const TOKENS: [&str; 24] = [
    "\n",
    "\n\n",
    "\r",
    "data: ",
    "data:",
    "event: error\n",
    "[DONE]",
    "null",
    "\"\"",
    "{}",
    "[]",
    "0",
    "-1",
    "1e99",
    "NaN",
    "\\ud83d",
    "\\ude00",
    "\"finish_reason\":\"stop\"",
    "\"error\":{\"message\":\"x\"}",
    "}",
    "{",
    "\"",
    ":",
    ",",
];

fn mutated(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 if at < bytes.len() => {
                let end = (at + rng.random_range(1..40)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let from = rng.random_range(0..=at);
                let piece = bytes[from..at].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].to_vec());
            }
            _ => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                bytes.splice(at..at, token.bytes());
            }
        }
    }
    bytes
}

fn read(decoder: impl Decode, pieces: Vec<Bytes>) -> Vec<Result<Delta, ProviderError>> {
    let deltas = stream_deltas(stream::iter(pieces.into_iter().map(Ok)), decoder).collect::<Vec<_>>();
    deltas.now_or_never().expect("nothing is waited for")
}

/// The text of an answer, slowly and simply: of a body that is JSON, or of every event whose data is, be it line by line, at the
/// place where OpenAI's dialect has it.
fn texts(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let json = |text: &str| serde_json::from_str::<Value>(text.trim()).ok();
    let mut events: Vec<Value> = json(&text).into_iter().collect();
    for event in text.trim_start_matches('\u{feff}').split("\n\n") {
        if event.contains("[DONE]") {
            break;
        }
        let lines: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        if let Some(event) = json(&lines.join("\n")) {
            events.push(event);
        } else {
            let object = |line: &str| json(line).filter(Value::is_object);
            let each: Option<Vec<_>> = lines.into_iter().map(object).collect();
            events.extend(each.unwrap_or_default());
        }
    }
    // Which of several choices is ours, a mutation may have made another question.
    if text.split("\"index\"").skip(1).any(|after| !after.starts_with(":0,")) {
        return String::new();
    }
    let of_first = |event: &Value| {
        let choice = &event["choices"][0];
        let text = if choice["index"] == 0 { choice["delta"]["content"].as_str() } else { None };
        text.unwrap_or_default().to_owned()
    };
    // What comes after the reason to end is nobody's promise.
    let is_end =
        |event: &&Value| event["choices"][0]["finish_reason"].as_str().is_some_and(|word| !word.trim().is_empty());
    let end = events.iter().position(|event| is_end(&event)).map_or(events.len(), |at| at + 1);
    events[..end].iter().map(of_first).collect()
}

fn is_within(part: &str, whole: &str) -> bool {
    let mut whole = whole.chars();
    part.chars().all(|character| whole.any(|other| other == character))
}

fn assert_holds<D: Decode>(decoder: fn() -> D, bytes: &[u8], cut: usize, compares: bool) {
    let whole = Bytes::copy_from_slice(bytes);
    let deltas = read(decoder(), vec![whole.clone()]);
    let ends: Vec<_> = deltas.iter().filter(|delta| matches!(delta, Ok(Delta::Finish { .. }) | Err(_))).collect();
    assert_eq!(ends.len(), 1, "one end: {deltas:?}");
    let text = |deltas: &[Result<Delta, ProviderError>]| {
        let texts = deltas.iter().filter_map(|delta| match delta {
            Ok(Delta::Text(text)) => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<String>()
    };
    let cut_in_two = read(decoder(), vec![whole.slice(..cut), whole.slice(cut..)]);
    assert_eq!(text(&cut_in_two), text(&deltas), "however it is cut");
    let Some(Ok(Delta::Finish { reason, .. })) = deltas.last() else { return };
    let has_said = deltas.iter().any(|delta| {
        matches!(delta, Ok(Delta::Text(_) | Delta::ToolCall(_) | Delta::Thinking { .. } | Delta::Usage(_)))
    });
    let is_filtered = *reason == aihub_application::ports::provider::FinishReason::ContentFilter;
    assert!(has_said || is_filtered, "an answer without anything in it: {deltas:?}");
    if compares {
        let simple = texts(bytes);
        assert!(is_within(&simple, &text(&deltas)), "{simple:?} is not all in {deltas:?}");
    }
}

fn fuzz<D: Decode>(decoder: fn() -> D, seeds: &[Vec<u8>], inputs: u64, seed: u64, compares: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    for nth in 0..inputs {
        let bytes = mutated(&mut rng, seeds);
        let cut = rng.random_range(0..=bytes.len());
        let held = panic::catch_unwind(|| assert_holds(decoder, &bytes, cut, compares));
        assert!(held.is_ok(), "cut at {cut}: input {nth} of seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

fn seeds(provider: SimulatedProvider, recordings: &[&str]) -> Vec<Vec<u8>> {
    let recorded = recordings.iter().map(|path| recorded(path).remove(0).1.body);
    let all = cases::of(provider).iter().map(|case| case.body.clone()).chain(recorded);
    let short = |body: String| body.as_bytes()[..body.len().min(MAX_BYTES)].to_vec();
    all.map(short).collect::<HashSet<_>>().into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[test]
fn whatever_comes_reading_it_ends_and_no_text_of_an_answer_is_lost() {
    let inputs = std::env::var("AIHUB_FUZZ_INPUTS").ok().and_then(|inputs| inputs.parse().ok()).unwrap_or(INPUTS);
    let openai = seeds(
        SimulatedProvider::OpenAi,
        &["openai/chat-stream-include-usage.json", "openai/chat-basic.json", "openai/chat-stream-parallel-tools.json"],
    );
    let anthropic = seeds(
        SimulatedProvider::Claude,
        &["anthropic/messages-stream-text.json", "anthropic/messages-stream-tools.json"],
    );
    thread::scope(|scope| {
        for half in 0..2 {
            let (openai, anthropic) = (&openai, &anthropic);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let _within = runtime.enter();
                fuzz(ChatDecoder::default, openai, inputs / 4, half, true);
                fuzz(MessageDecoder::default, anthropic, inputs / 4, half, false);
            });
        }
    });
}
