//! Tokens that are signed with a key pair, and what can be tried with the public half.

use std::sync::Arc;

use super::{
    identity_provider::{Answer, IdentityProvider},
    signer::encode,
    *,
};

/// The order of the group of P-256.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

async fn provider_of(keys: &[Value]) -> Arc<IdentityProvider> {
    let provider = IdentityProvider::start(&[]).await;
    provider.answer_with(Answer::Keys { set: json!({ "keys": keys }), cache_control: "" });
    provider
}

#[tokio::test]
async fn a_token_of_each_kind_of_key_is_accepted_with_and_without_its_id() {
    let signers = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d")];
    let provider = IdentityProvider::start(&signers.each_ref()).await;
    let authenticator = authenticator(&with_both(&provider));
    for signer in &signers {
        let without_id = json!({"alg": signer.header()["alg"]});
        for token in [signer.token(&good()), signer.token_with(&without_id, &good())] {
            assert_eq!(authenticator.authenticate(&token).await.unwrap().user, "ann");
        }
        let mut changed = signer.token(&good());
        let last = if changed.pop() == Some('A') { 'Q' } else { 'A' };
        changed.push(last);
        assert_eq!(authenticator.authenticate(&changed).await.unwrap_err(), AuthError::Signature);
    }
    assert_eq!(authenticator.authenticate(&hs256().token(&good())).await.unwrap().user, "ann");
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    for signer in [Signer::rs256("k"), Signer::es256("k"), Signer::eddsa("k")] {
        let provider = IdentityProvider::start(&[&signer]).await;
        let jwk = &signer.jwk;
        let part = |name: &str| jwk[name].as_str().unwrap_or_default();
        let raw = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, part("x")).unwrap();
        for secret in [
            jwk.to_string().into_bytes(),
            json!({"keys": [jwk]}).to_string().into_bytes(),
            part("n").as_bytes().to_vec(),
            part("x").as_bytes().to_vec(),
            raw,
        ] {
            for header in [json!({"alg": "HS256", "kid": "k"}), json!({"alg": "HS256"})] {
                let forged = Signer::hs256(&secret).token_with(&header, &good());
                assert_eq!(check(&with_both(&provider), &forged).await.unwrap_err(), AuthError::Signature);
                let without_secret = AuthSettings { hs256_secret: None, ..with_both(&provider) };
                assert_eq!(check(&without_secret, &forged).await.unwrap_err(), AuthError::Algorithm);
            }
        }
    }
}

#[tokio::test]
async fn a_symmetric_key_in_a_public_set_is_no_secret() {
    let good_key = Signer::es256("e");
    let oct = json!({"kty": "oct", "k": encode("published secret of thirty-two bytes"), "alg": "HS256", "kid": "k"});
    let provider = provider_of(&[oct, good_key.jwk.clone()]).await;
    let forged = Signer::hs256(b"published secret of thirty-two bytes");
    let forged = forged.token_with(&json!({"alg": "HS256", "kid": "k"}), &good());
    assert_eq!(check(&with_both(&provider), &forged).await.unwrap_err(), AuthError::Signature);
}

#[tokio::test]
async fn a_key_checks_only_tokens_of_its_own_algorithm() {
    let signers = [Signer::rs256("k"), Signer::es256("k"), Signer::eddsa("k")];
    for signer in &signers {
        let provider = IdentityProvider::start(&[signer]).await;
        for other in signers.iter().filter(|other| other.algorithm != signer.algorithm) {
            let token = signer.token_with(&other.header(), &good());
            let refused = check(&with_both(&provider), &token).await.unwrap_err();
            assert_eq!(refused, AuthError::UnknownKey, "{:?} as {:?}", signer.algorithm, other.algorithm);
        }
    }
}

#[tokio::test]
async fn without_a_key_set_only_the_secret_is_believed() {
    for signer in [Signer::rs256("k"), Signer::es256("k"), Signer::eddsa("k")] {
        assert_eq!(refusal(&signer.token(&good())).await, AuthError::Algorithm);
    }
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_used() {
    let (known, forger) = (Signer::es256("k"), Signer::es256("k"));
    let provider = IdentityProvider::start(&[&known]).await;
    let evil = IdentityProvider::start(&[&forger]).await;
    let authenticator = authenticator(&with_both(&provider));
    for (name, value) in [
        ("jwk", forger.jwk.clone()),
        ("jku", json!(evil.url())),
        ("jku", json!(format!("{}@{}", provider.url(), evil.address))),
        ("x5u", json!(evil.url())),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("iss", json!(evil.url())),
        ("kid", json!(evil.url())),
    ] {
        let mut header = forger.header();
        header[name] = value;
        let refused = authenticator.authenticate(&forger.token_with(&header, &good())).await.unwrap_err();
        assert_eq!(refused, if name == "kid" { AuthError::UnknownKey } else { AuthError::Signature }, "{header}");
        // An identity provider may put these there too: then they do no harm.
        let mut header = known.header();
        header["jku"] = json!(evil.url());
        authenticator.authenticate(&known.token_with(&header, &good())).await.unwrap();
    }
    assert_eq!(evil.fetches(), 0);
}

#[tokio::test]
async fn a_psychic_signature_is_refused() {
    let signer = Signer::es256("k");
    let provider = IdentityProvider::start(&[&signer]).await;
    let authenticator = authenticator(&with_both(&provider));
    let token = signer.token(&good());
    let (message, _) = token.rsplit_once('.').unwrap();
    let (zero, mut one) = ([0; 32], [0; 32]);
    one[31] = 1;
    for (r, s) in [
        (zero, zero),
        (zero, one),
        (one, zero),
        (P256_ORDER, P256_ORDER),
        (P256_ORDER, one),
        (one, P256_ORDER),
        ([0xff; 32], [0xff; 32]),
    ] {
        let forged = format!("{message}.{}", encode([r, s].concat()));
        assert_eq!(authenticator.authenticate(&forged).await.unwrap_err(), AuthError::Signature);
    }
    for der in [&[0x30, 6, 2, 1, 0, 2, 1, 0][..], &[], &[0; 63], &[0; 65], &[0; 96]] {
        let forged = format!("{message}.{}", encode(der));
        assert_eq!(authenticator.authenticate(&forged).await.unwrap_err(), AuthError::Signature);
    }
}

#[tokio::test]
async fn an_empty_or_constant_signature_is_refused_for_every_key() {
    for signer in [Signer::rs256("k"), Signer::es256("k"), Signer::eddsa("k")] {
        let provider = IdentityProvider::start(&[&signer]).await;
        let authenticator = authenticator(&with_both(&provider));
        let token = signer.token(&good());
        let (message, signature) = token.rsplit_once('.').unwrap();
        for byte in [0, 1, 0xff] {
            for length in [0, 1, 32, 64, 256, 1_024] {
                let forged = format!("{message}.{}", encode(vec![byte; length]));
                assert_eq!(authenticator.authenticate(&forged).await.unwrap_err(), AuthError::Signature);
            }
        }
        let cut = format!("{message}.{}", &signature[..signature.len() / 8 * 4]);
        assert_eq!(authenticator.authenticate(&cut).await.unwrap_err(), AuthError::Signature);
    }
}

#[tokio::test]
async fn a_key_that_is_weak_or_broken_or_for_something_else_is_passed_over() {
    let (rsa, ec, ed) = (Signer::rs256("k"), Signer::es256("k"), Signer::eddsa("k"));
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    let other = Signer::eddsa("other");
    for (signer, broken) in [
        (&rsa, with(&rsa.jwk, "n", json!(encode([0xff; 128])))), // 1024 bits
        (&rsa, with(&rsa.jwk, "n", json!(encode([vec![0; 200], vec![0xff; 128]].concat())))),
        (&rsa, with(&rsa.jwk, "n", json!(encode([0xff; 1_025])))),
        (&rsa, with(&rsa.jwk, "n", json!(""))),
        (&rsa, with(&rsa.jwk, "n", json!("not base64!"))),
        (&rsa, with(&rsa.jwk, "use", json!("enc"))),
        (&rsa, with(&rsa.jwk, "alg", json!("RS512"))),
        (&rsa, with(&rsa.jwk, "alg", json!("RSA-OAEP"))),
        (&ec, with(&ec.jwk, "y", ec.jwk["x"].clone())), // not on the curve
        (&ec, with(&ec.jwk, "x", json!(""))),
        (&ec, with(&ec.jwk, "crv", json!("P-384"))),
        (&ec, with(&ec.jwk, "crv", json!("secp256k1"))),
        (&ec, with(&ec.jwk, "key_ops", json!(["encrypt"]))),
        (&ed, with(&ed.jwk, "x", json!(""))), // makes `jsonwebtoken` panic
        (&ed, with(&ed.jwk, "x", json!(encode([1; 31])))),
        (&ed, with(&ed.jwk, "x", json!(encode([1; 33])))),
        (&ed, with(&ed.jwk, "crv", json!("X25519"))),
        (&ed, with(&ed.jwk, "crv", json!("Ed448"))),
        (&ed, with(&ed.jwk, "kty", json!("EC"))),
        (&ed, json!({"kty": "OKP"})),
        (&ed, json!("OKP")),
    ] {
        let provider = provider_of(&[broken.clone(), other.jwk.clone()]).await;
        let authenticator = authenticator(&with_both(&provider));
        let refused = authenticator.authenticate(&signer.token(&good())).await.unwrap_err();
        assert_eq!(refused, AuthError::UnknownKey, "{broken}");
        authenticator.authenticate(&other.token(&good())).await.unwrap();
    }
}

#[tokio::test]
async fn a_public_exponent_that_makes_every_signature_fit_is_refused() {
    let rsa = Signer::rs256("k");
    for exponent in [&[0][..], &[1], &[2], &[]] {
        let mut jwk = rsa.jwk.clone();
        jwk["e"] = json!(encode(exponent));
        let provider = provider_of(&[jwk]).await;
        let refused = check(&with_both(&provider), &rsa.token(&good())).await.unwrap_err();
        assert_eq!(refused, AuthError::Signature, "{exponent:?}");
    }
}

#[tokio::test]
async fn a_token_without_an_id_is_refused_if_several_keys_could_be_meant() {
    let (one, two) = (Signer::es256("1"), Signer::es256("2"));
    let provider = IdentityProvider::start(&[&one, &two]).await;
    let authenticator = authenticator(&with_both(&provider));
    authenticator.authenticate(&two.token(&good())).await.unwrap();
    let refused = authenticator.authenticate(&two.token_with(&json!({"alg": "ES256"}), &good())).await.unwrap_err();
    assert_eq!(refused, AuthError::UnknownKey);
    let crossed = two.token_with(&one.header(), &good());
    assert_eq!(authenticator.authenticate(&crossed).await.unwrap_err(), AuthError::Signature);
}
