//! Tokens with a good signature that say something wrong.

use super::*;

async fn accepted(payload: &Value) -> Principal {
    check(&with_secret(), &hs256().token(payload)).await.unwrap()
}

async fn refused(payload: &Value) -> AuthError {
    refusal(&hs256().token(payload)).await
}

/// The claim that a payload of this text is refused for.
async fn refused_claim(payload: &str) -> &'static str {
    match refusal(&hs256().sign(r#"{"alg":"HS256"}"#, payload)).await {
        AuthError::ClaimInvalid { claim, .. } => claim,
        other => panic!("{payload} is refused with {other}"),
    }
}

#[tokio::test]
async fn without_account_and_roles_a_token_is_for_its_subject_as_a_user() {
    let principal = accepted(&good()).await;
    assert_eq!((principal.user.as_str(), principal.account.as_str()), ("ann", "ann"));
    assert_eq!(principal.roles, ["user"]);
    assert_eq!(principal.expires_at.timestamp(), NOW + 600 + 30);
}

#[tokio::test]
async fn a_token_with_an_empty_list_of_roles_has_none() {
    let principal = accepted(&good_but("roles", json!([]))).await;
    assert!(principal.roles.is_empty());
    principal.require_reports_on("ann").unwrap_err();
}

#[tokio::test]
async fn where_no_role_is_made_up_a_token_whose_roles_grant_nothing_has_no_right() {
    let strict = AuthSettings { default_role: None, ..with_secret() };
    for payload in [good(), good_but("roles", json!([])), good_but("roles", json!(["nobody", "root"]))] {
        assert_eq!(check(&strict, &hs256().token(&payload)).await.unwrap_err(), AuthError::NoRole, "{payload}");
    }
    let user = check(&strict, &hs256().token(&good_but("roles", json!(["nobody", "user"])))).await.unwrap();
    user.require_reports_on("ann").unwrap();
    assert_eq!(AuthError::NoRole.status(), http::StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_token_without_an_end_is_refused() {
    assert_eq!(refused(&json!({"sub": "ann"})).await, AuthError::ClaimMissing("exp"));
}

#[tokio::test]
async fn an_end_that_is_no_time_of_this_era_is_refused() {
    for exp in [
        "null",
        "true",
        "\"1900000000\"",
        "[1900000000]",
        "{}",
        "-0.5",
        "-1",
        "-9223372036854775808",
        "253402300800",
        "9223372036854775807",
        "18446744073709551615",
        "99999999999999999999999999",
        "1e308",
    ] {
        assert_eq!(refused_claim(&format!(r#"{{"sub":"ann","exp":{exp}}}"#)).await, "exp", "{exp}");
    }
    for exp in ["NaN", "Infinity", "1e400", "0x71440000"] {
        let refused = refusal(&hs256().sign(r#"{"alg":"HS256"}"#, &format!(r#"{{"sub":"ann","exp":{exp}}}"#))).await;
        assert!(matches!(refused, AuthError::Malformed(_)), "{exp} is refused with {refused}");
    }
}

#[tokio::test]
async fn a_token_ends_when_its_end_and_the_leeway_have_passed() {
    assert_eq!(accepted(&good_but("exp", json!(NOW - 29))).await.expires_at.timestamp(), NOW + 1);
    assert_eq!(refused(&good_but("exp", json!(NOW - 30))).await, AuthError::Expired);
    assert_eq!(refused(&good_but("exp", json!(0))).await, AuthError::Expired);
    // RFC 7519 lets a time have a fraction, as languages with one kind of number write it.
    let fraction: serde_json::Value = serde_json::from_str(&format!("{NOW}.5")).unwrap();
    assert_eq!(accepted(&good_but("exp", fraction)).await.expires_at.timestamp(), NOW + 30);
}

#[tokio::test]
async fn a_token_from_the_future_is_refused() {
    accepted(&good_but("nbf", json!(NOW + 30))).await;
    assert_eq!(refused(&good_but("nbf", json!(NOW + 31))).await, AuthError::NotYetValid);
    for nbf in ["null", "\"0\"", "-1.5", "-1", "1e308"] {
        let payload = format!(r#"{{"sub":"ann","exp":{},"nbf":{nbf}}}"#, NOW + 600);
        assert_eq!(refused_claim(&payload).await, "nbf", "{nbf}");
    }
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused() {
    let settings = AuthSettings { issuer: Some("https://id.example.com".into()), ..with_secret() };
    let result = async |iss| check(&settings, &hs256().token(&good_but("iss", iss))).await;
    result(json!("https://id.example.com")).await.unwrap();
    for iss in [
        json!("https://id.example.com/"),
        json!("HTTPS://ID.EXAMPLE.COM"),
        json!("https://id.example.com.evil.org"),
        json!(["https://id.example.com"]),
        json!(""),
        json!(null),
    ] {
        assert_eq!(result(iss.clone()).await.unwrap_err(), AuthError::Issuer, "{iss}");
    }
    let without = check(&settings, &hs256().token(&good())).await;
    assert_eq!(without.unwrap_err(), AuthError::ClaimMissing("iss"));
}

#[tokio::test]
async fn a_token_that_was_issued_for_another_service_is_refused() {
    let settings = AuthSettings { audience: Some("aihub".into()), ..with_secret() };
    let result = async |aud| check(&settings, &hs256().token(&good_but("aud", aud))).await;
    for aud in [json!("aihub"), json!(["mail", "aihub"])] {
        result(aud).await.unwrap();
    }
    for aud in [
        json!("mail"),
        json!("aihub2"),
        json!("AIHUB"),
        json!(["mail", "calendar"]),
        json!([["aihub"]]),
        json!([]),
        json!(""),
        json!({"aihub": true}),
        json!(null),
    ] {
        assert_eq!(result(aud.clone()).await.unwrap_err(), AuthError::Audience, "{aud}");
    }
    let without = check(&settings, &hs256().token(&good())).await;
    assert_eq!(without.unwrap_err(), AuthError::ClaimMissing("aud"));
}

#[tokio::test]
async fn a_subject_that_could_not_name_a_stream_is_refused() {
    assert_eq!(refused(&json!({"exp": NOW + 600})).await, AuthError::ClaimMissing("sub"));
    for sub in [
        json!(null),
        json!(7),
        json!(true),
        json!(["ann"]),
        json!({"id": "ann"}),
        json!(""),
        json!(" ann"),
        json!("ann\n"),
        json!("ann\0"),
        json!("ann\u{202e}"),
        json!("аnn"), // the first letter is Cyrillic
        json!("ann'; DROP TABLE events; --"),
        json!("../../etc/passwd"),
        json!("<script>"),
        json!("*"),
        json!("a".repeat(257)),
    ] {
        for claim in ["sub", "account"] {
            let refused = refused(&good_but(claim, sub.clone())).await;
            assert!(matches!(refused, AuthError::ClaimInvalid { claim: of, .. } if of == claim), "{claim} {sub}");
        }
    }
}

#[tokio::test]
async fn roles_that_are_not_a_short_list_of_names_are_refused() {
    accepted(&good_but("roles", json!(vec!["user"; 32]))).await;
    for roles in [
        json!(null),
        json!("admin"),
        json!({"admin": true}),
        json!([["admin"]]),
        json!([null]),
        json!([1]),
        json!([""]),
        json!(["ad\u{0}min"]),
        json!(vec!["user"; 33]),
    ] {
        let payload = good_but("roles", roles).to_string();
        assert_eq!(refused_claim(&payload).await, "roles", "{payload}");
    }
}

#[tokio::test]
async fn a_claim_that_comes_twice_is_refused() {
    for twice in [
        r#""sub":"bob","sub":"ann""#,
        r#""sub":"ann","exp":1,"exp":1900000000"#,
        r#""sub":"ann","roles":["admin"],"roles":["user"]"#,
        r#""sub":"ann","account":"shop","account":"ann""#,
        r#""sub":"ann","s\u0075b":"bob""#,
    ] {
        let payload = format!(r#"{{{twice},"exp":1900000000}}"#);
        let refused = refusal(&hs256().sign(r#"{"alg":"HS256"}"#, &payload)).await;
        assert!(matches!(refused, AuthError::Malformed(_)), "{payload} is refused with {refused}");
    }
}

#[tokio::test]
async fn a_claim_in_other_letters_is_another_claim() {
    let other = json!({"sub": "ann", "exp": NOW + 600, "Sub": "bob", "ROLES": ["admin"], "accounts": "shop", "EXP": 1});
    let principal = accepted(&other).await;
    assert_eq!((principal.account.as_str(), &principal.roles[..]), ("ann", &["user".to_owned()][..]));
    assert_eq!(refused(&json!({"sub": "ann", "EXP": NOW + 600})).await, AuthError::ClaimMissing("exp"));
}

#[tokio::test]
async fn a_payload_that_is_no_object_is_refused() {
    let nested = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let trailing = format!("{} {{}}", good());
    let bom = format!("\u{feff}{}", good());
    let by_order = format!(r#"[{},0,"","","ann","ann",["admin"]]"#, NOW + 600);
    for payload in ["", "null", &by_order, "1", "\"ann\"", "[]", "{", &nested, &trailing, &bom] {
        let refused = refusal(&hs256().sign(r#"{"alg":"HS256"}"#, payload)).await;
        assert!(matches!(refused, AuthError::Malformed(_)), "{payload} is refused with {refused}");
    }
}
