//! Where a request carries its token.

use axum::extract::Query;
use http::{
    Uri,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
    request::Parts,
};

use aihub_application::principal::Principal;

use super::{Authenticator, error::AuthError};

/// The one subprotocol that an upgrade is answered with. The other one that a browser offers, `bearer.<jwt>`, is its
/// token and must never be sent back.
pub const WEBSOCKET_PROTOCOL: &str = "aihub.v1";

/// Who sent the request.
pub async fn principal_from_parts(parts: &Parts, authenticator: &Authenticator) -> Result<Principal, AuthError> {
    authenticator.authenticate(&token(parts)?).await
}

/// The request's one token: from `Authorization: Bearer <jwt>`, or, as a browser cannot set that on a WebSocket, from
/// `Sec-WebSocket-Protocol: aihub.v1, bearer.<jwt>` or `?token=<jwt>`.
///
/// Two of them are refused even if they are alike: what stands in front of the hub may have looked at the other one.
fn token(parts: &Parts) -> Result<String, AuthError> {
    let mut found = in_authorization(parts)?;
    found.extend(in_subprotocols(parts));
    found.extend(in_query(&parts.uri));
    match found.len() {
        0 => Err(AuthError::Missing),
        1 => Ok(found.remove(0)),
        _ => Err(AuthError::Ambiguous),
    }
}

fn in_authorization(parts: &Parts) -> Result<Vec<String>, AuthError> {
    let values = parts.headers.get_all(AUTHORIZATION).into_iter();
    let tokens = values.map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' ').to_owned())
    });
    tokens.collect::<Option<_>>().ok_or(AuthError::NotBearer)
}

fn in_subprotocols(parts: &Parts) -> Vec<String> {
    let values = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let offered = values.flat_map(|value| value.split(',')).map(str::trim);
    offered.filter_map(|one| one.strip_prefix("bearer.")).map(str::to_owned).collect()
}

fn in_query(uri: &Uri) -> impl Iterator<Item = String> {
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(all)| all).unwrap_or_default();
    parameters.into_iter().filter(|(name, _)| name == "token").map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn token_of(uri: &str, headers: &[(&str, &str)]) -> Result<String, AuthError> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        token(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_token_is_found_in_each_of_the_three_places() {
        for (uri, headers) in [
            ("/mcp", &[("authorization", "Bearer a.b.c")][..]),
            ("/mcp", &[("authorization", "bearer  a.b.c ")]),
            ("/mcp?x=1", &[("sec-websocket-protocol", "aihub.v1, bearer.a.b.c")]),
            ("/mcp", &[("sec-websocket-protocol", "aihub.v1"), ("sec-websocket-protocol", "bearer.a.b.c")]),
            ("/mcp?token=a.b.c", &[("sec-websocket-protocol", "aihub.v1")]),
            ("/mcp?x=1&token=a%2Eb.c&tokens=2", &[]),
        ] {
            assert_eq!(token_of(uri, headers).as_deref(), Ok("a.b.c"), "{uri} {headers:?}");
        }
    }

    #[test]
    fn a_request_without_a_token_is_asked_for_one() {
        assert_eq!(token_of("/mcp", &[]), Err(AuthError::Missing));
        assert_eq!(token_of("/mcp?Token=a.b.c", &[("sec-websocket-protocol", "aihub.v1")]), Err(AuthError::Missing));
        assert_eq!(token_of("/mcp", &[("cookie", "token=a.b.c")]), Err(AuthError::Missing));
    }

    #[test]
    fn an_authorization_that_is_no_bearer_is_refused_even_beside_a_token() {
        for value in ["Basic YTpi", "Bearer", "Bearera.b.c", "a.b.c", ""] {
            assert_eq!(token_of("/mcp?token=a.b.c", &[("authorization", value)]), Err(AuthError::NotBearer), "{value}");
        }
    }

    #[test]
    fn two_tokens_are_ambiguous_even_if_they_are_alike() {
        let (header, protocol) =
            (("authorization", "Bearer a.b.c"), ("sec-websocket-protocol", "aihub.v1, bearer.a.b.c"));
        for (uri, headers) in [
            ("/mcp?token=a.b.c", &[header][..]),
            ("/mcp?token=a.b.c", &[protocol]),
            ("/mcp", &[header, protocol]),
            ("/mcp", &[header, header]),
            ("/mcp", &[protocol, protocol]),
            ("/mcp", &[("sec-websocket-protocol", "bearer.a.b.c, bearer.d.e.f")]),
            ("/mcp?token=a.b.c&token=", &[]),
        ] {
            assert_eq!(token_of(uri, headers), Err(AuthError::Ambiguous), "{uri} {headers:?}");
        }
    }
}
