//! The contract of whoever reads answers: the tables of bad days, `simulated_providers/cases`, each read whole and cut at every
//! byte.

use std::fmt::Write as _;

use aihub_application::ports::provider::{Delta, ProviderError, ToolCallDelta};
use bytes::Bytes;

use super::{
    super::{answer::Decode, anthropic::event::MessageDecoder, openai::chunk::ChatDecoder},
    replay::decode,
};
use crate::simulated_providers::{
    SimulatedProvider,
    cases::{self, Case},
};

/// What an answer says, in the tables' form.
pub(super) fn says(deltas: &[Result<Delta, ProviderError>]) -> String {
    let (mut text, mut thought, mut usage, mut end) = (String::new(), 0, None, String::new());
    let mut calls: Vec<ToolCallDelta> = vec![];
    let mut flaws = String::new();
    for delta in deltas {
        match delta {
            Ok(Delta::Text(more)) => text.push_str(more),
            Ok(Delta::Thinking { bytes }) => thought += bytes,
            Ok(Delta::ToolCall(piece)) => match calls.iter_mut().find(|call| call.index == piece.index) {
                Some(call) => {
                    call.arguments.push_str(&piece.arguments);
                    call.broken.clone_from(&piece.broken);
                }
                None => calls.push(piece.clone()),
            },
            Ok(Delta::Usage(told)) => usage = Some(*told),
            Ok(Delta::Flaw(flaw)) => writeln!(flaws, "flaw {flaw}").unwrap(),
            Ok(Delta::Model(_)) => {}
            Ok(Delta::Finish { reason, said }) => {
                let said = said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
                writeln!(end, "finish {reason:?}{said}").unwrap();
            }
            Err(error) => writeln!(end, "error {:?}", error.kind).unwrap(),
        }
    }
    let mut says = String::new();
    if thought > 0 {
        writeln!(says, "thinking {thought}").unwrap();
    }
    if !text.is_empty() {
        writeln!(says, "text {text}").unwrap();
    }
    for call in calls {
        let id = call.id.unwrap_or_default();
        let id = if id.starts_with("call_0") { "ours" } else { &id };
        let broken = call.broken.map(|broken| format!(" ({broken})")).unwrap_or_default();
        writeln!(says, "call {id} {} {}{broken}", call.name.unwrap_or_default(), call.arguments).unwrap();
    }
    if let Some(usage) = usage {
        let [input, cached, written] = [usage.input, usage.cached_input, usage.cache_write];
        let [hour, output, reasoning] = [usage.cache_write_1h, usage.output, usage.reasoning];
        writeln!(says, "usage {input} {cached} {written} {hour} {output} {reasoning}").unwrap();
    }
    says + &flaws + &end
}

async fn assert_reads<D: Decode>(case: &Case, decoder: impl Fn() -> D) {
    let body = Bytes::from_static(Box::leak(case.body.clone().into_boxed_str()).as_bytes());
    let whole = says(&decode(decoder(), vec![body.clone()]).await);
    assert_eq!(whole, case.says, "{}", case.name);
    for at in 1..body.len() {
        let cut = decode(decoder(), vec![body.slice(..at), body.slice(at..)]).await;
        assert_eq!(says(&cut), case.says, "{} cut at {at}", case.name);
    }
    let bytes = (0..body.len()).map(|at| body.slice(at..=at)).collect();
    assert_eq!(says(&decode(decoder(), bytes).await), case.says, "{} byte by byte", case.name);
    let windows = Bytes::from(case.body.replace('\n', "\r\n"));
    assert_eq!(says(&decode(decoder(), vec![windows]).await), case.says, "{} with CRLF", case.name);
}

#[tokio::test]
async fn every_bad_day_of_a_server_of_openais_dialect_means_what_its_table_says() {
    let cases = cases::of(SimulatedProvider::OpenAi);
    assert!(cases.len() > 35, "{}", cases.len());
    for case in cases {
        assert_reads(case, ChatDecoder::default).await;
    }
}

#[tokio::test]
async fn every_bad_day_of_a_server_of_anthropics_dialect_means_what_its_table_says() {
    let cases = cases::of(SimulatedProvider::Claude);
    assert!(cases.len() > 15, "{}", cases.len());
    for case in cases {
        assert_reads(case, MessageDecoder::default).await;
    }
}
