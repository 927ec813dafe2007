//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use super::{
    super::{
        SimulatedProvider, Simulator,
        respond::{Accepted, before, respond, whole},
        served::{Operation, ledger::Arrival},
    },
    Version, authenticate,
    error::AnthropicError,
    find_model,
    reply::Messages,
    request::parse,
};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};

pub(in super::super) async fn create(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::Claude, Operation::Messages, &headers);
    let accepted = accept(&headers, body, &mut arrival);
    let is_stream = arrival.stream;
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok(accepted) => respond(&simulator, accepted, serving, is_stream).await,
        Err(error) => {
            serving.fail_with_status(error.status());
            error.into_response_of(serving.call())
        }
    }
}

/// Counting is free: the ledger has the call, and no tokens.
pub(in super::super) async fn count_tokens(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::Claude, Operation::CountTokens, &headers);
    let accepted = accept(&headers, body, &mut arrival);
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok(Accepted { model, knobs, question, .. }) => {
            let settings = simulator.settings(model, knobs);
            if let Some(failed) = before::<Messages>(&settings, &serving).await {
                return failed;
            }
            whole::<Messages>(&settings, serving, (0, 0), format!("{{\"input_tokens\":{}}}", question.input_tokens))
                .await
        }
        Err(error) => {
            serving.fail_with_status(error.status());
            error.into_response_of(serving.call())
        }
    }
}

fn accept(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    arrival: &mut Arrival,
) -> Result<Accepted<Messages>, AnthropicError> {
    authenticate(headers)?;
    let version = Version::of(headers)?;
    let request = parse(body)?;
    arrival.stream = request.stream.unwrap_or_default();
    let (model, knobs) = find_model(request.model.as_deref())?;
    arrival.model = Some(model);
    let question = match arrival.operation {
        Operation::CountTokens => request.to_counted(model, version)?,
        _ => request.into_question(model, version)?,
    };
    Ok(Accepted { model, knobs, question, dialect: Messages })
}
