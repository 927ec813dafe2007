//! Tokens that nobody signed, or not in the way that they say.

use super::{signer::encode, *};

/// A good token with another header, signed with the right secret: only the header can be what it is refused for.
async fn refused_header(header: &Value) -> AuthError {
    refusal(&hs256().token_with(header, &good())).await
}

fn is_malformed(error: &AuthError) -> bool {
    matches!(error, AuthError::Malformed(_))
}

#[tokio::test]
async fn a_token_that_asks_for_no_signature_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
        assert_eq!(refused_header(&json!({"alg": alg})).await, AuthError::Algorithm, "{alg:?}");
        let (header, payload) = (encode(json!({"alg": alg}).to_string()), encode(good().to_string()));
        assert_eq!(refusal(&format!("{header}.{payload}.")).await, AuthError::Algorithm, "{alg:?}");
        assert!(is_malformed(&refusal(&format!("{header}.{payload}")).await), "{alg:?}");
    }
}

#[tokio::test]
async fn only_the_four_accepted_algorithms_are_accepted() {
    for alg in [
        "HS384",
        "HS512",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES384",
        "ES512",
        "ES256K",
        "Ed448",
        "hs256",
        "HS256\0",
        " HS256",
        "HMAC",
        "dir",
        "RSA-OAEP",
        "PBES2-HS256+A128KW", // the billion hashes attack
    ] {
        assert_eq!(refused_header(&json!({"alg": alg, "p2c": u32::MAX})).await, AuthError::Algorithm, "{alg:?}");
    }
    for header in
        [json!({}), json!({"alg": null}), json!({"alg": ["HS256"]}), json!({"alg": 256}), json!({"ALG": "HS256"})]
    {
        assert!(is_malformed(&refused_header(&header).await), "{header}");
    }
}

#[tokio::test]
async fn a_token_is_worth_nothing_without_its_whole_signature() {
    let token = hs256().token(&good());
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(refusal(&format!("{message}.")).await, AuthError::Signature);
    assert!(is_malformed(&refusal(message).await));
    for length in 1..signature.len() {
        assert_eq!(refusal(&format!("{message}.{}", &signature[..length])).await, AuthError::Signature, "{length}");
    }
    for longer in [format!("{token}A"), format!("{token}AAAA"), format!("{message}.{signature}{signature}")] {
        assert_eq!(refusal(&longer).await, AuthError::Signature);
    }
    assert_eq!(refusal(&format!("{message}.{}", encode([0; 32]))).await, AuthError::Signature);
}

#[tokio::test]
async fn no_bit_of_a_token_can_be_changed() {
    let settings = with_secret();
    let authenticator = authenticator(&settings);
    let token = hs256().token(&good());
    authenticator.authenticate(&token).await.unwrap();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut changed = token.clone().into_bytes();
            changed[at] ^= 1 << bit;
            let changed = String::from_utf8(changed).unwrap();
            authenticator.authenticate(&changed).await.expect_err(&changed);
        }
    }
}

#[tokio::test]
async fn a_token_with_raised_roles_is_refused() {
    let token = hs256().token(&good_but("roles", json!(["user"])));
    let parts: Vec<&str> = token.split('.').collect();
    let raised = encode(good_but("roles", json!(["admin"])).to_string());
    assert_eq!(refusal(&format!("{}.{raised}.{}", parts[0], parts[2])).await, AuthError::Signature);
}

#[tokio::test]
async fn a_token_that_is_signed_with_another_secret_is_refused() {
    for secret in ["", "secret", "a secret of more than thirty-two bytez", &SECRET.to_uppercase()] {
        assert_eq!(refusal(&Signer::hs256(secret.as_bytes()).token(&good())).await, AuthError::Signature);
    }
}

#[tokio::test]
async fn a_key_id_cannot_point_to_a_key() {
    let attacks = [
        ("../../../../../../dev/null", ""),
        ("/dev/null", "\0"),
        ("/proc/sys/kernel/randomize_va_space", "2\n"),
        ("x' UNION SELECT 'attack' --", "attack"),
        ("x\" OR 1=1 --", "1"),
        ("http://127.0.0.1:1/key", "attack"),
        ("$(id)", ""),
        ("| /usr/bin/id", ""),
        ("\0", ""),
        ("{{7*7}}", "49"),
    ];
    for (kid, secret) in attacks {
        let forged = Signer::hs256(secret.as_bytes()).token_with(&json!({"alg": "HS256", "kid": kid}), &good());
        assert_eq!(refusal(&forged).await, AuthError::Signature, "{kid:?}");
    }
    for kid in [json!(7), json!(["a"]), json!({})] {
        assert!(is_malformed(&refused_header(&json!({"alg": "HS256", "kid": kid})).await), "{kid}");
    }
}

#[tokio::test]
async fn an_extension_that_is_critical_is_refused() {
    for crit in [json!(["exp"]), json!(["b64"]), json!(["urn:example:policy"]), json!([]), json!("exp")] {
        assert!(is_malformed(&refused_header(&json!({"alg": "HS256", "crit": crit, "exp": 1})).await), "{crit}");
    }
    assert!(is_malformed(&refused_header(&json!({"alg": "HS256", "b64": false})).await));
}

#[tokio::test]
async fn an_encrypted_compressed_or_nested_token_is_refused() {
    for header in [
        json!({"alg": "HS256", "enc": "A256GCM"}),
        json!({"alg": "HS256", "zip": "DEF"}),
        json!({"alg": "HS256", "cty": "JWT"}),
    ] {
        assert!(is_malformed(&refused_header(&header).await), "{header}");
    }
    let jwe = format!("{}.{}.{}.{}.{}", encode(r#"{"alg":"dir","enc":"A256GCM"}"#), "", "AAAA", "AAAA", "AAAA");
    assert!(is_malformed(&refusal(&jwe).await));
    let inner = hs256().token(&good());
    assert!(is_malformed(&refusal(&hs256().sign(r#"{"alg":"HS256"}"#, &inner)).await));
    assert!(is_malformed(&refusal(&format!("{inner}.{inner}")).await));
}

#[tokio::test]
async fn a_token_of_another_type_is_refused() {
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "id_token+jwt", "JOSE", "JWT+evil", ""] {
        assert!(is_malformed(&refused_header(&json!({"alg": "HS256", "typ": typ})).await), "{typ:?}");
    }
    for typ in [json!("JWT"), json!("jwt"), json!("at+jwt"), json!("application/at+jwt"), json!(null)] {
        check(&with_secret(), &hs256().token_with(&json!({"alg": "HS256", "typ": typ}), &good())).await.unwrap();
    }
}

#[tokio::test]
async fn a_header_that_two_readers_could_read_differently_is_refused() {
    let good = good().to_string();
    for header in [
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
        r#"{"alg":"HS256"}{"alg":"none"}"#,
        r#"["HS256",null,null,null,null,null,null,null]"#,
        "\u{feff}{\"alg\":\"HS256\"}",
        r#"{"alg":"HS256",}"#,
        "{'alg':'HS256'}",
        "",
    ] {
        assert!(is_malformed(&refusal(&hs256().sign(header, &good)).await), "{header}");
    }
}

#[tokio::test]
async fn there_is_one_way_to_write_a_token() {
    let token = hs256().token(&good());
    let (header, payload) = (encode(hs256().header().to_string()), encode(good().to_string()));
    for other in [
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}="),
        format!(".{token}"),
        format!("{token}."),
        token.replace('.', ".."),
        token.replace('.', "%2E"),
        hs256().sign_parts(&format!("{header}=="), &payload),
        hs256().sign_parts(&header, &format!("{payload} ")),
        hs256().sign_parts(&header, &format!("\n{payload}")),
        hs256().sign_parts(&header, "💥"),
        hs256().sign_parts("%7B%22alg%22%3A%22HS256%22%7D", &payload),
        json!({"protected": header, "payload": payload, "signature": "AAAA"}).to_string(),
        format!("{{\"protected\":\"{token}\"}}"),
        String::new(),
        "..".to_owned(),
        ".".repeat(8_000),
    ] {
        let refused = refusal(&other).await;
        assert!(is_malformed(&refused) || refused == AuthError::Signature, "{other:?} is refused with {refused}");
    }
}

#[tokio::test]
async fn a_huge_token_is_refused_before_it_is_read() {
    let (limit, settings) = (8_192, with_secret());
    let padded = |length| hs256().token(&good_but("pad", json!("x".repeat(length))));
    let length = (1..limit).rev().find(|length| padded(*length).len() <= limit).unwrap();
    check(&settings, &padded(length)).await.unwrap();
    assert_eq!(refusal(&padded(length + 1)).await, AuthError::TooLong { limit });
    assert_eq!(refusal(&"A".repeat(100_000_000)).await, AuthError::TooLong { limit });
}
