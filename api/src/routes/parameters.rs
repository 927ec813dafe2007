//! What stands in a URL, in its path and behind the `?`. A fault is told by the parameter's name, as one of a body is by its
//! field's.

use aihub_application::fields::words::in_words;
use axum::extract::{self, FromRequestParts};
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The parameters behind the `?`.
pub struct Query<T>(pub T);

/// Those in the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match extract::Query::try_from_uri(&parts.uri) {
            Ok(extract::Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(fault(&rejection.body_text(), "Failed to deserialize query string: ", "(query)")),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(fault(&rejection.body_text(), "Invalid URL: ", "(path)")),
        }
    }
}

/// `said` begins with these words, names the parameter in one way or another, and says what is wrong with it.
fn fault(said: &str, begins: &str, whole: &str) -> Problem {
    let said = said.strip_prefix(begins).unwrap_or(said);
    // ``Cannot parse `position` with value `x` to a `u64` ``.
    if let Some((field, _)) = said.strip_prefix("Cannot parse `").and_then(|rest| rest.split_once('`')) {
        return Problem::faulty(field, "must be a whole number from 0 on");
    }
    if let Some((field, _)) = said.strip_prefix("Invalid UTF-8 in `").and_then(|rest| rest.split_once('`')) {
        return Problem::faulty(field, "must be UTF-8, each other byte as % and two hexadecimal digits");
    }
    let of = |words: &str| said.split_once(words).and_then(|(_, rest)| rest.split_once('`'));
    if let Some((field, rest)) = of("unknown field `") {
        let known = rest.trim_start_matches(", expected ");
        return Problem::faulty(field, format!("is not a parameter of this path: those are {known}"));
    }
    if let Some((field, _)) = of("missing field `") {
        return Problem::faulty(field, "is missing");
    }
    if let Some((field, _)) = of("duplicate field `") {
        return Problem::faulty(field, "is there more than once");
    }
    match said.split_once(": ") {
        Some((field, fault)) if !field.contains(' ') => Problem::faulty(field, in_words(fault)),
        _ => Problem::faulty(whole, in_words(said)),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only shown")]
    struct Page {
        #[serde(default)]
        limit: u32,
        #[serde(default)]
        all: bool,
    }

    async fn said(query: &str) -> String {
        let (mut parts, ()) = Request::get(format!("http://x/?{query}")).body(()).unwrap().into_parts();
        match Query::<Page>::from_request_parts(&mut parts, &()).await {
            Ok(Query(page)) => format!("{page:?}"),
            Err(problem) => problem.message,
        }
    }

    #[tokio::test]
    async fn a_fault_names_its_parameter_and_what_it_may_be() {
        assert_eq!(said("limit=7&all=true").await, "Page { limit: 7, all: true }");
        assert_eq!(said("limit=many").await, "limit: must be a whole number from 0 on");
        assert_eq!(said("limit=-1").await, "limit: must be a whole number from 0 on");
        assert_eq!(said("limit=99999999999").await, "limit: is too large a number");
        assert_eq!(said("all=perhaps").await, "all: must be true or false");
        assert_eq!(said("page=2").await, "page: is not a parameter of this path: those are `limit` or `all`");
        assert_eq!(said("limit=1&limit=2").await, "limit: is there more than once");
    }
}
