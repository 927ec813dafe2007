//! `GET /` and `GET /docs`: what this is, for people who come with a browser. Without scripts, and without the network.

use axum::response::Html;

/// The manual, as it was when this was built.
const MANUAL: &str = include_str!("../../../README.md");

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
                     pre{white-space:pre-wrap;font:14px/1.5 ui-monospace,monospace}";

pub async fn front() -> Html<String> {
    page(
        "<h1>Smart AI Hub</h1>\
         <p>A gateway between a product and its AI providers. Clients speak JSON on the WebSocket <code>/mcp</code>.</p>\
         <ul><li><a href=\"/docs\">The manual</a></li>\
         <li><a href=\"/asyncapi.json\">The socket, the topics and the events, for programs</a></li>\
         <li><a href=\"/health/ready\">Whether this node is ready</a></li></ul>",
    )
}

pub async fn manual() -> Html<String> {
    let text = MANUAL.replace('&', "&amp;").replace('<', "&lt;");
    page(&format!("<pre>{text}</pre>"))
}

fn page(body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Smart AI Hub</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>"
    ))
}
