//! By what a client means an answer.

use uuid::Uuid;

use crate::error::GatewayError;

/// What a client called a request, and the connection on which it did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Called {
    pub id: String,
    pub connection: Uuid,
}

/// The answer that a client wants to go on with, or to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// By our name for its request.
    Request(String),
    /// By what the client called it; without a connection it is the only one of that name, or none.
    Called { id: String, connection: Option<Uuid> },
}

/// The one that a name means that is said without its connection.
pub fn only<'a>(requests: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, GatewayError> {
    let mut requests: Vec<&str> = requests.collect();
    requests.sort_unstable();
    requests.dedup();
    match requests[..] {
        [] => Ok(None),
        [request_id] => Ok(Some(request_id)),
        _ => Err(GatewayError::AmbiguousName { request_ids: requests.into_iter().map(str::to_owned).collect() }),
    }
}
