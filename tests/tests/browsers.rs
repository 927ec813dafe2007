//! Pages that call out of a browser: whose may, on sockets and over HTTP alike.

use aihub_tests::{
    app::TestApp,
    client::{open, upgrade},
};
use reqwest::{Method, StatusCode, header};
use serde_json::Value;

const OURS: &str = "https://app.example";
const THEIRS: &str = "https://evil.example";

async fn upgraded_from(app: &TestApp, origin: &str) -> Result<(), Value> {
    let mut request = upgrade(app.address, &app.token("ann"));
    request.headers_mut().insert("origin", origin.parse().unwrap());
    let opened = open(request).await;
    opened.map(drop).map_err(|refused| serde_json::from_slice(refused.body().as_ref().unwrap()).unwrap())
}

#[tokio::test]
async fn only_pages_of_the_origins_that_are_listed_open_sockets_and_read_answers() {
    let app = TestApp::start(|config| config.server.allowed_origins = vec![OURS.to_owned()]).await;
    let own = format!("http://{}", app.address);
    for good in [OURS, &own] {
        upgraded_from(&app, good).await.unwrap();
    }
    for bad in [THEIRS, "null", "https://app.example.evil.example"] {
        let refused = upgraded_from(&app, bad).await.unwrap_err();
        assert_eq!((&refused["code"], &refused["status"]), (&"FORBIDDEN".into(), &403.into()), "{bad}");
        assert!(refused["message"].as_str().unwrap().contains(bad), "{refused}");
    }
    for (origin, allowed) in [(OURS, true), (THEIRS, false)] {
        let url = format!("http://{}/api/credits", app.address);
        let preflight = app.http.request(Method::OPTIONS, &url).header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "GET");
        let preflight = preflight.header("access-control-request-headers", "authorization").send().await.unwrap();
        assert_eq!(preflight.status(), StatusCode::OK, "a preflight carries no token");
        let told = |response: &reqwest::Response, name: header::HeaderName| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let answer = app.http.get(&url).bearer_auth(app.token("ann")).header("origin", origin).send().await.unwrap();
        // A refusal can be read as well.
        let refused = app.http.get(&url).header("origin", origin).send().await.unwrap();
        assert_eq!((answer.status(), refused.status()), (StatusCode::OK, StatusCode::UNAUTHORIZED));
        for response in [&preflight, &answer, &refused] {
            let named = told(response, header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(named.as_deref(), allowed.then_some(origin));
        }
        assert!(told(&preflight, header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap().contains("authorization"));
        assert!(told(&answer, header::ACCESS_CONTROL_EXPOSE_HEADERS).unwrap().contains("retry-after"));
    }
    app.stop().await;
}
