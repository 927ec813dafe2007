//! `POST /v1/chat/completions`, streamed and whole.

use std::time::Duration;

use super::{
    super::{
        SimulatedProvider, Simulator,
        answer::{Finish, ToolCall},
        knobs::{Failure, FailureKind},
        respond::{Accepted, Dialect, Failing, Reply, respond, to_json},
        served::{Operation, ledger::Arrival},
        stream::Script,
    },
    authenticate,
    error::OpenAiError,
    find_model, headers,
    request::{ChatRequest, parse},
    wire::{self, Choice, Completion, Function, Usage},
};
use aihub_application::ports::clock::{Clock as _, SystemClock};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};

pub(in super::super) async fn complete(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::OpenAi, Operation::Chat, &headers);
    let accepted = accept(&headers, body, &mut arrival);
    let is_stream = arrival.stream;
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok(accepted) => respond(&simulator, accepted, serving, is_stream).await,
        Err(error) => {
            serving.fail_with_status(error.status().as_u16());
            error.into_response_of(serving.call())
        }
    }
}

fn accept(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    arrival: &mut Arrival,
) -> Result<Accepted<Chat>, OpenAiError> {
    authenticate(headers)?;
    let request: ChatRequest = parse(body)?;
    arrival.stream = request.stream.unwrap_or_default();
    let (model, knobs) = find_model(request.model.as_deref())?;
    arrival.model = Some(model);
    let dialect = Chat { includes_usage: request.includes_usage() };
    Ok(Accepted { model, knobs, question: request.into_question(model)?, dialect })
}

pub(super) struct Chat {
    includes_usage: bool,
}

impl Failing for Chat {
    fn failure(failure: &Failure, call: u64) -> Response {
        OpenAiError::ordered(failure).into_response_of(call)
    }
}

impl Dialect for Chat {
    fn headers(call: u64, processing: Duration) -> HeaderMap {
        headers(call, processing)
    }

    fn body(&self, reply: &Reply) -> String {
        let Reply { call, model, answer, .. } = reply;
        let calls = answer.calls.iter().enumerate();
        let message = wire::Message {
            role: "assistant",
            content: answer.calls.is_empty().then_some(answer.text.as_str()),
            reasoning_content: &answer.thinking,
            tool_calls: calls.map(|(index, one)| tool_call(*call, None, index, &one.name, &one.arguments)).collect(),
            refusal: None,
            annotations: [],
        };
        to_json(&Completion {
            id: completion_id(*call),
            object: "chat.completion",
            created: SystemClock.now().timestamp(),
            model,
            choices: [Choice { index: 0, message, logprobs: None, finish_reason: finish_reason(&answer.finish) }],
            usage: Usage::reported(reply.usage, reply.input_tokens, answer).pop(),
            service_tier: "default",
            system_fingerprint: "fp_simulated",
        })
    }

    fn script(&self, reply: Reply) -> Script {
        let Reply { call, model, answer, .. } = reply;
        let usages = Usage::reported(reply.usage, reply.input_tokens, &answer);
        let common = format!(
            "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":\"{model}\",\
             \"service_tier\":\"default\",\"system_fingerprint\":\"fp_simulated\",\"choices\":[",
            completion_id(call),
            SystemClock.now().timestamp(),
        );
        let null_usage = if self.includes_usage { ",\"usage\":null" } else { "" };
        let after_delta = if self.includes_usage { AFTER_DELTA_WITH_USAGE } else { AFTER_DELTA };
        let after_call = if self.includes_usage { AFTER_CALL_WITH_USAGE } else { AFTER_CALL };
        let delta = |delta: &str| format!("{common}{{\"index\":0,\"delta\":{delta}");

        let mut script = Script { failure: failure_event().into(), ..Script::default() };
        let content = if answer.calls.is_empty() { "\"\"" } else { "null" };
        script.event(delta(&format!("{{\"role\":\"assistant\",\"content\":{content},\"refusal\":null{after_delta}")));
        script.tokens(delta("{\"reasoning_content\":"), answer.thinking, after_delta);
        script.tokens(delta("{\"content\":"), answer.text, after_delta);
        for (index, ToolCall { name, arguments }) in answer.calls.into_iter().enumerate() {
            let opening = to_json(&[tool_call(call, Some(index), index, &name, "")]);
            script.event(delta(&format!("{{\"tool_calls\":{opening}{after_delta}")));
            let before = delta(&format!("{{\"tool_calls\":[{{\"index\":{index},\"function\":{{\"arguments\":"));
            script.tokens(before, arguments, after_call);
        }
        let finish = finish_reason(&answer.finish);
        script.event(format!(
            "{common}{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"{finish}\"}}]{null_usage}}}\n\n"
        ));
        if self.includes_usage {
            for usage in usages {
                script.event(format!("{common}],\"usage\":{}}}\n\n", to_json(&usage)));
            }
        }
        script.event(DONE.to_owned());
        script
    }
}

const DONE: &str = "data: [DONE]\n\n";
const AFTER_DELTA: &str = "},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const AFTER_DELTA_WITH_USAGE: &str = "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
const AFTER_CALL: &str = "}}]},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const AFTER_CALL_WITH_USAGE: &str = "}}]},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";

/// An error inside the stream, with the `[DONE]` that was seen to follow it.
fn failure_event() -> String {
    let error = OpenAiError::ordered(&Failure::of(FailureKind::ServerError)).envelope();
    format!("data: {error}\n\n{DONE}")
}

fn completion_id(call: u64) -> String {
    format!("chatcmpl-sim{call:026x}")
}

fn tool_call<'a>(
    call: u64,
    index: Option<usize>,
    number: usize,
    name: &'a str,
    arguments: &'a str,
) -> wire::ToolCall<'a> {
    let id = format!("call_sim{call:019x}{number:02x}");
    wire::ToolCall { index, id, kind: "function", function: Function { name, arguments } }
}

fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}
