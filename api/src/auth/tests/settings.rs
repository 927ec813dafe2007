//! Settings, minting, and the two together.

use http::Request;

use super::*;
use crate::auth::{
    error::AuthSettingsError,
    extract::principal_from_parts,
    mint::{MintError, NewToken, mint},
};

fn refused(settings: &AuthSettings) -> AuthSettingsError {
    Authenticator::new(settings, Roles::new(RoleSettings::new()), TestClock::new(), TaskTracker::new()).err().unwrap()
}

fn new_token<'a>(sub: &'a str, roles: &'a [String]) -> NewToken<'a> {
    NewToken { sub, account: Some("shop"), roles, ttl: TimeDelta::hours(1), now: TestClock::new().now() }
}

#[test]
fn a_secret_that_can_be_guessed_from_one_token_is_not_accepted() {
    for secret in ["", "secret", &SECRET[..31]] {
        let settings = AuthSettings { hs256_secret: Some(Secret::new(secret)), ..AuthSettings::default() };
        assert_eq!(refused(&settings), AuthSettingsError::ShortSecret { bytes: secret.len(), min: 32 });
        let minted = mint(&settings, &new_token("ann", &[]));
        assert!(matches!(minted, Err(MintError::Settings(AuthSettingsError::ShortSecret { .. }))));
    }
}

#[test]
fn a_node_that_could_check_no_token_does_not_start() {
    assert_eq!(refused(&AuthSettings::default()), AuthSettingsError::NoKeys);
}

#[test]
fn a_leeway_that_is_no_correction_of_clocks_is_not_accepted() {
    let settings = AuthSettings { leeway_s: u64::MAX, ..with_secret() };
    assert_eq!(refused(&settings), AuthSettingsError::LongLeeway { seconds: u64::MAX, max: 300 });
}

#[test]
fn an_unknown_setting_is_refused_and_the_secret_is_not_shown() {
    let read: AuthSettings = serde_json::from_value(json!({"hs256_secret": SECRET, "issuer": "us"})).unwrap();
    assert_eq!((read.leeway_s, read.max_token_bytes), (30, 8_192));
    assert!(!format!("{read:?} {}", json!(read)).contains(SECRET));
    assert!(serde_json::from_value::<AuthSettings>(json!({"hs256-secret": SECRET})).is_err());
}

#[tokio::test]
async fn a_minted_token_is_accepted_by_a_node_with_the_same_settings() {
    let settings = AuthSettings { issuer: Some("https://id".into()), audience: Some("aihub".into()), ..with_secret() };
    let roles = ["finance".to_owned(), "auditor".to_owned()];
    let token = mint(&settings, &new_token("ann@example.com", &roles)).unwrap();
    let request = Request::get("/mcp").header("authorization", format!("Bearer {token}")).body(()).unwrap();
    let principal = principal_from_parts(&request.into_parts().0, &authenticator(&settings)).await.unwrap();
    assert_eq!((principal.user.as_str(), principal.account.as_str()), ("ann@example.com", "shop"));
    assert_eq!(principal.roles, roles);
    assert_eq!(principal.expires_at.timestamp(), NOW + 3_600 + 30);
    principal.capabilities.require_audit().unwrap();
    principal.capabilities.require_administration().unwrap_err();
}

#[test]
fn a_token_that_would_be_refused_is_not_minted() {
    let settings = with_secret();
    let refused = |token: &NewToken<'_>| match mint(&settings, token) {
        Err(MintError::Refused(AuthError::ClaimInvalid { claim, .. })) => claim,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&new_token("a b", &[])), "sub");
    assert_eq!(refused(&NewToken { account: Some(""), ..new_token("ann", &[]) }), "account");
    assert_eq!(refused(&new_token("ann", &["a b".to_owned()])), "roles");
    assert_eq!(refused(&NewToken { ttl: TimeDelta::MAX, ..new_token("ann", &[]) }), "exp");
    assert!(matches!(mint(&AuthSettings::default(), &new_token("ann", &[])), Err(MintError::NoSecret)));
}

#[tokio::test]
async fn every_refusal_can_stand_in_a_header() {
    let tokens = ["", "a.b.c", &hs256().token(&json!({})), &hs256().token(&good_but("sub", json!(1)))];
    for token in tokens.into_iter().chain([&*"x".repeat(9_000)]) {
        let header = refusal(token).await.www_authenticate().unwrap();
        let description = header.split_once("error_description=\"").unwrap().1.strip_suffix('"').unwrap();
        assert!(description.chars().all(|char| matches!(char, ' '..='~') && char != '"' && char != '\\'), "{header}");
    }
}
