//! Who has a right in production.

use aihub::config::Environment;
use aihub_tests::{
    app::{SECRET, TestApp},
    client::{open, upgrade},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

fn signed(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test]
async fn in_production_a_token_without_a_role_or_for_another_audience_has_no_right() {
    let app = TestApp::start(|config| {
        config.environment = Environment::Production;
        config.auth.audience = Some("aihub".to_owned());
        config.webhooks.secret = Some(aihub::auth::secret::Secret::new(SECRET));
        config.server.drain_notice_ms = Some(0);
    })
    .await;
    let exp = app.hub.gateway.clock.now().timestamp() + 600;
    let token = |more: &Value| {
        let mut claims = json!({ "sub": "ann", "exp": exp, "aud": "aihub", "roles": ["user"] });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        signed(&claims)
    };
    for (more, status) in [
        (json!({}), 200),
        (json!({ "roles": null }), 403),
        (json!({ "roles": [] }), 403),
        (json!({ "roles": ["somebody"] }), 403),
        (json!({ "aud": "billing" }), 401),
        (json!({ "aud": ["billing", "mail"] }), 401),
        (json!({ "aud": null }), 401),
    ] {
        let token = token(&more);
        for path in ["/api/providers", "/api/mcp/sora2/videos"] {
            let (found, _, said) = app.get(path, Some(&token)).await;
            assert_eq!(found.as_u16(), status, "{more} {path} {said}");
        }
        let opened = open(upgrade(app.address, &token)).await;
        assert_eq!(opened.is_ok(), status == 200, "{more}");
    }
    app.stop().await;
}

#[tokio::test]
async fn in_development_a_token_without_a_role_is_a_users() {
    let app = TestApp::start(|_| {}).await;
    let exp = app.hub.gateway.clock.now().timestamp() + 600;
    let (status, _, said) = app.get("/api/providers", Some(&signed(&json!({ "sub": "ann", "exp": exp })))).await;
    assert_eq!(status.as_u16(), 200, "{said}");
    app.stop().await;
}
