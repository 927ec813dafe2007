//! Which of the candidates may and can serve a request.

use aihub_domain::request::event::RequestKind;

use crate::{
    catalog::Candidate,
    error::{FaultyField, GatewayError},
    ports::provider::Untaken,
    principal::{Operation, Principal},
    request::AnswerRequest,
};

/// The candidates that the principal may use, whose context the prompt may fit into, that take all of it, and where all of it
/// has a price with a bound. An explicit provider that the principal may not use is refused; everything else is passed over, as long as somebody
/// is left.
pub(super) fn eligible(
    all: Vec<Candidate>,
    principal: &Principal,
    request: &AnswerRequest,
) -> Result<Vec<Candidate>, GatewayError> {
    let operation = match request.kind {
        RequestKind::Chat | RequestKind::Completion => Operation::Chat,
        RequestKind::Embedding => Operation::Embedding,
    };
    let least_tokens = request.input_tokens_at_least();
    let mut eligible = Vec::with_capacity(all.len());
    let mut refusal = None;
    let mut largest_context = None;
    let mut untaken = None;
    for candidate in all {
        let (provider, context_tokens) = (&candidate.upstream.name, candidate.model.context_tokens);
        match principal.capabilities.require(operation, provider, &candidate.model_name) {
            Err(missing) if *provider == request.provider => return Err(missing.into()),
            Err(missing) => refusal = refusal.or(Some(missing)),
            Ok(()) if context_tokens < least_tokens => largest_context = largest_context.max(Some(context_tokens)),
            Ok(()) => match untaken_part(request, &candidate) {
                Some(fault) => untaken = untaken.or(Some(fault)),
                None => eligible.push(candidate),
            },
        }
    }
    match (largest_context, untaken, refusal) {
        _ if !eligible.is_empty() => Ok(eligible),
        (Some(largest), ..) => Err(too_long(request, least_tokens, largest)),
        (None, Some(fault), _) => Err(GatewayError::Validation(fault.into())),
        (None, None, Some(missing)) => Err(missing.into()),
        (None, None, None) => Ok(eligible),
    }
}

/// What of a request this candidate is not asked with.
fn untaken_part(request: &AnswerRequest, candidate: &Candidate) -> Option<FaultyField> {
    let refused = || candidate.upstream.provider.cannot_take(&request.prompt);
    unbounded_picture(request, candidate)
        .or_else(|| refused().map(|Untaken { field, reason }| FaultyField::new(field, reason)))
}

/// The first picture that may count for any number of tokens at this candidate.
fn unbounded_picture(request: &AnswerRequest, candidate: &Candidate) -> Option<FaultyField> {
    let mut pictures = request.prompt.pictures();
    let (message, part, _) =
        pictures.find(|(_, _, picture)| candidate.model.pictures.tokens(picture.extent).is_none())?;
    let reason = format!(
        "is a picture by address, and what one can cost at {} has no bound: send it as a data URI",
        candidate.model_name
    );
    Some(FaultyField::new(format!("messages[{message}].content[{part}].image_url"), reason))
}

fn too_long(request: &AnswerRequest, least_tokens: u64, largest_context: u64) -> GatewayError {
    let what = if request.kind == RequestKind::Embedding { "has a text of" } else { "has" };
    let reason = format!(
        "{what} at least {least_tokens} tokens, and the largest context available for it takes {largest_context}"
    );
    GatewayError::faulty(request.text_field, reason)
}

#[cfg(test)]
mod tests;
