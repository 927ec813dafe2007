use reqwest::{Method, RequestBuilder, Response, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Harness, PATIENCE, header, merged, parse};

mod content;
mod creating;
mod knobs;
mod requests;
mod webhooks;

const PROMPT: &str = "A calm ocean wave at sunset";

impl Harness {
    fn videos(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &format!("/v1/videos{path}")).bearer_auth("sk-any")
    }

    /// Asks for two small seconds, at once; `more` is merged into the request.
    fn order(&self, knobs: &str, more: Value) -> RequestBuilder {
        let body =
            json!({"prompt": PROMPT, "model": format!("sora-2+ttft=0s{knobs}"), "seconds": "2", "size": "64x36"});
        self.videos(Method::POST, "").json(&merged(body, more))
    }

    /// The id of a video that is just created.
    async fn create(&self, knobs: &str) -> String {
        let video = self.order(knobs, json!({})).send().await.unwrap();
        assert_eq!(video.status(), 200);
        json_of(video).await["id"].as_str().unwrap().to_owned()
    }

    async fn video(&self, id: &str) -> Value {
        json_of(self.videos(Method::GET, &format!("/{id}")).send().await.unwrap()).await
    }

    /// The video, once it has this status.
    async fn video_once(&self, id: &str, status: &str) -> Value {
        let reached = async {
            loop {
                let video = self.video(id).await;
                if video["status"] == status {
                    return video;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap()
    }

    async fn content(&self, id: &str, query: &str) -> Response {
        self.videos(Method::GET, &format!("/{id}/content{query}")).send().await.unwrap()
    }

    /// Multipart form data of texts, as the SDKs send it.
    async fn form(&self, fields: &[(&str, &str)]) -> Response {
        let part = |(name, value): &(&str, &str)| {
            format!("--limit\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let body: String = fields.iter().map(part).chain(["--limit--\r\n".to_owned()]).collect();
        let request = self.videos(Method::POST, "").header(CONTENT_TYPE, "multipart/form-data; boundary=limit");
        request.body(body).send().await.unwrap()
    }
}

async fn json_of(response: Response) -> Value {
    parse(&response.text().await.unwrap())
}

/// The error of a refusal with this status.
async fn refused(response: Response, status: u16) -> Value {
    assert_eq!(response.status(), status);
    let error = json_of(response).await["error"].take();
    assert_eq!(super::keys(&error), super::sorted(["message", "type", "param", "code"]));
    error
}
