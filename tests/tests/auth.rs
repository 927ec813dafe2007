//! Who gets in, and for how long.

use aihub_tests::{
    PATIENCE,
    app::{SECRET, TestApp},
    client::{Client, chat, open, upgrade, with},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};
use tokio_tungstenite::tungstenite::{
    client::IntoClientRequest,
    http::{
        HeaderValue,
        header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Tokens that nobody may get in with, and what is wrong with them.
fn forged(app: &TestApp) -> Vec<(&'static str, String)> {
    let good = app.token("ann");
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let signed = |algorithm: Algorithm, claims: &Value, secret: &str| {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let now = claims["iat"].as_i64().unwrap();
    let changed = |more: Value| signed(Algorithm::HS256, &with(claims.clone(), &more), SECRET);
    vec![
        ("no JWT at all", "x".to_owned()),
        ("no signature", format!("{header}.{payload}.")),
        ("alg none", format!("{}.{payload}.", part(&json!({ "alg": "none", "typ": "JWT" })))),
        ("alg None, with a signature", format!("{}.{payload}.{signature}", part(&json!({ "alg": "None" })))),
        ("another alg of the same key", signed(Algorithm::HS512, &claims, SECRET)),
        ("a public key's alg, signed with the secret", {
            format!("{}.{payload}.{signature}", part(&json!({ "alg": "RS256", "typ": "JWT" })))
        }),
        ("another secret", signed(Algorithm::HS256, &claims, "another secret, of the same length and form")),
        ("somebody else's claims", {
            format!("{header}.{}.{signature}", part(&with(claims.clone(), &json!({ "sub": "eve" }))))
        }),
        ("a key of its own", {
            let own = json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AA" }, "kid": "/dev/null", "crit": ["x"] });
            format!("{}.{payload}.{signature}", part(&own))
        }),
        ("expired", changed(json!({ "exp": now - 3_600 }))),
        ("without an end", changed(json!({ "exp": null }))),
        ("not valid yet", changed(json!({ "nbf": now + 3_600 }))),
        ("without a name", changed(json!({ "sub": null }))),
        ("a name that climbs", changed(json!({ "sub": "../admin" }))),
        ("roles that are no list", changed(json!({ "roles": "admin" }))),
        ("too long", format!("{good}{}", "A".repeat(10_000))),
    ]
}

#[tokio::test]
async fn whoever_has_no_good_token_is_refused_before_the_upgrade_and_told_how() {
    let app = TestApp::start(|_| ()).await;
    for (what, token) in forged(&app) {
        let refused = open(upgrade(app.address, &token)).await.err().unwrap_or_else(|| panic!("{what} got in"));
        assert_eq!(refused.status(), 401, "{what}");
        let challenge = refused.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\""), "{what}: {challenge}");
        let problem: Value = serde_json::from_slice(refused.body().as_ref().unwrap()).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!("UNAUTHORIZED"), &json!(401)), "{what}");
        let (status, headers, _) = app.get("/api/providers", Some(&token)).await;
        assert_eq!((status.as_u16(), headers.contains_key("www-authenticate")), (401, true), "{what}");
    }
    let (status, headers, _) = app.get("/api/credits", None).await;
    assert_eq!((status.as_u16(), &headers["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
    assert!(app.hub.sessions.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn a_token_is_taken_from_each_of_its_three_places_but_from_one_only() {
    let app = TestApp::start(|_| ()).await;
    let token = app.token("ann");
    let request = |uri: &str, protocols: Option<&str>| {
        let mut request = format!("ws://{}/mcp{uri}", app.address).into_client_request().unwrap();
        if let Some(protocols) = protocols {
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).unwrap());
        }
        request
    };
    let protocols = format!("aihub.v1, bearer.{token}");
    let (mut client, _) = open(upgrade(app.address, &token)).await.unwrap();
    client.ping().await;
    let (mut client, _) = open(request(&format!("?token={token}"), None)).await.unwrap();
    client.ping().await;
    let (mut client, response) = open(request("", Some(&protocols))).await.unwrap();
    client.ping().await;
    assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "aihub.v1", "the token is not sent back");
    let mut twice = request(&format!("?token={token}"), Some(&protocols));
    assert_eq!(open(twice.clone()).await.err().unwrap().status(), 401);
    twice.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
    assert_eq!(open(twice).await.err().unwrap().status(), 401);
    app.stop().await;
}

#[tokio::test]
async fn a_socket_ends_with_its_token_unless_a_fresh_one_came_in_time() {
    let app = TestApp::start(|config| config.auth.leeway_s = 0).await;
    let brief = app.token_for("ann", "ann", TimeDelta::seconds(4));
    let mut renewed = Client::connect(app.address, &brief).await;
    let mut expired = Client::connect(app.address, &brief).await;
    renewed.send(&json!({ "type": "auth", "id": "fresh", "token": app.token("ann") })).await;
    let accepted = renewed.next().await;
    assert_eq!((&accepted["type"], &accepted["id"]), (&json!("auth"), &json!("fresh")));
    let refused = renewed.ask(&json!({ "type": "auth", "id": "bad", "token": "bad" })).await;
    refused.error("UNAUTHORIZED");
    assert!(accepted["expiresAt"].is_string(), "{accepted}");
    assert_eq!(expired.closed().await.0, 4401);
    renewed.ask(&chat("a", "Why is the sky blue?")).await.done();
    assert_eq!(open(upgrade(app.address, &brief)).await.err().unwrap().status(), 401);
    app.stop().await;
}

#[tokio::test]
async fn a_fresh_token_whose_key_has_to_be_fetched_holds_up_no_answer_of_its_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!("http://{}/jwks", listener.local_addr().unwrap());
    let (asked, go_on) = (CancellationToken::new(), CancellationToken::new());
    let provider = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            asked.cancel();
            go_on.cancelled().await;
            let answer =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}";
            connection.write_all(answer).await.unwrap();
        }
    };
    let provider = TaskTracker::new().spawn(provider);
    let app = TestApp::start(|config| config.auth.jwks_url = Some(keys)).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 100 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 1).await;
    let fresh = app.token("ann");
    let (_, rest) = fresh.split_once('.').unwrap();
    let fresh = format!("{}.{rest}", part(&json!({ "alg": "ES256", "typ": "JWT", "kid": "new" })));
    client.send(&json!({ "type": "auth", "id": "fresh", "token": fresh })).await;
    timeout(PATIENCE, asked.cancelled()).await.expect("the keys are asked for");
    client.chunks("a", 10).await;
    go_on.cancel();
    assert_eq!(client.next_of("fresh").await["error"]["code"], "UNAVAILABLE", "there are no keys");
    assert_eq!(client.answer_after("a", 11).await.end["type"], "done");
    timeout(PATIENCE, provider).await.unwrap().unwrap();
    app.stop().await;
}

#[tokio::test]
async fn a_fresh_token_of_somebody_else_is_refused_and_changes_nothing() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let of = |user: &str, account: &str| app.token_for(user, account, TimeDelta::hours(1));
    let others = [of("eve", "eve"), of("ann", "eve"), of("eve", "ann")];
    for (token, code) in others.iter().map(|token| (token.as_str(), "FORBIDDEN")).chain([("x", "UNAUTHORIZED")]) {
        client.send(&json!({ "type": "auth", "token": token })).await;
        let error = client.next().await;
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!(code)), "{error}");
    }
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    let audit = app.audit().await;
    assert_eq!((audit.request().accepted.user.as_str(), audit.accounts.len()), ("ann", 1));
    let database = app.database.clone();
    app.stop().await;
    // Whose they were is on record.
    let brought = "SELECT reason #>> '{because,token,user}' || '@' || (reason #>> '{because,token,account}')
                   FROM events, json_array_elements(payload #> '{RequestsRefused,reasons}') reason
                   WHERE aggregate_type = 'refusal' AND payload #>> '{RequestsRefused,user}' = 'ann'";
    let brought: Vec<String> = sqlx::query_scalar(brought).fetch_all(database.pool()).await.unwrap();
    assert_eq!(brought, ["eve@eve", "ann@eve", "eve@ann"]);
}

#[tokio::test]
async fn what_the_roles_do_not_grant_is_forbidden_and_auto_passes_over_it() {
    let app = TestApp::start(|config| {
        let user = json!({ "chat": true, "models": ["claude-*"], "providers": ["*"] });
        config.roles.insert("user".to_owned(), serde_json::from_value(user).unwrap());
    })
    .await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "hello")).await.error("FORBIDDEN");
    client.ask(&json!({ "id": "a", "type": "embedding", "input": "hello" })).await.error("FORBIDDEN");
    let auto = client.ask(&with(chat("a", "hello"), &json!({ "provider": "auto", "model": null }))).await;
    assert_eq!(auto.done()["metadata"]["provider"], "claude");
    assert_eq!(app.providers.calls().len(), 1);
    app.stop().await;
}
