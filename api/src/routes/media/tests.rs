use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use aihub_application::ports::{clock::Clock, media_store::MediaStore};
use aihub_infrastructure::media::{Delivery, MediaOptions, location::Location, signature::UrlSecrets};
use axum::{Router, routing::get};
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::server::{Bounds, serve as serve_connections};

const KEY: &str = "0198/video.mp4";
const BYTES: usize = 700_000;

struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0.load(Ordering::Relaxed), 0).unwrap()
    }
}

/// A service with one file.
struct Service {
    dir: TempDir,
    content: Vec<u8>,
    media: Arc<KeptMedia>,
    clock: Arc<Hand>,
    addr: SocketAddr,
    client: Client,
    stop: CancellationToken,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Service {
    async fn start() -> Self {
        Self::delivering(Delivery::Signed { public_url: None }).await
    }

    async fn delivering(delivery: Delivery) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut content = b"\0\0\0\x10ftypisom\0\0\0\0".to_vec();
        content.extend((0..BYTES - content.len()).map(|at| u8::try_from(at % 251).unwrap()));
        fs::create_dir(dir.path().join("0198")).unwrap();
        fs::write(dir.path().join(KEY), &content).unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(1_800_000_000)));
        let options = MediaOptions {
            location: Location::Folder(dir.path().to_owned()),
            location_options: vec![],
            spool_folder: dir.path().join("spool"),
            max_bytes: 1,
            delivery,
            url_ttl: Duration::from_hours(1),
            url_secrets: UrlSecrets::new("0123456789abcdef0123456789abcdef", []).unwrap(),
        };
        let media = Arc::new(KeptMedia::open(options, clock.clone()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        media.served_at(addr);
        let router = Router::new().route("/media/{*key}", get(show)).with_state(Media(media.clone()));
        let stop = CancellationToken::new();
        let bounds = Bounds { max_connections: 10, head_timeout: std::time::Duration::from_secs(30) };
        TaskTracker::new().spawn(serve_connections(listener, router, bounds, stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { dir, content, media, clock, addr, client, stop }
    }

    async fn url(&self) -> String {
        self.media.url(KEY).await.unwrap()
    }

    async fn get(&self) -> RequestBuilder {
        self.client.get(self.url().await)
    }

    async fn ranged(&self, range: &str) -> reqwest::Response {
        self.get().await.header("range", range).send().await.unwrap()
    }
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn refused(response: reqwest::Response) -> (u16, String, Value) {
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(header(&response, "cache-control"), "no-store");
    let status = response.status().as_u16();
    let problem: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (status, problem["code"].as_str().unwrap().to_owned(), problem["details"]["reason"].clone())
}

#[tokio::test]
async fn whoever_has_the_url_gets_the_file_and_all_that_a_cache_needs() {
    let service = Service::start().await;
    let head = service.client.head(service.url().await).send().await.unwrap();
    let whole = service.get().await.send().await.unwrap();
    for response in [&head, &whole] {
        assert_eq!(response.status(), 200);
        assert_eq!(header(response, "content-length"), BYTES.to_string());
        assert_eq!(header(response, "content-type"), "video/mp4");
        assert_eq!(header(response, "content-disposition"), "inline; filename=\"0198-video.mp4\"");
        assert_eq!(header(response, "x-content-type-options"), "nosniff");
        assert_eq!(header(response, "accept-ranges"), "bytes");
        assert_eq!(header(response, "cache-control"), "private, max-age=3600, immutable");
        assert!(header(response, "etag").starts_with('"') && header(response, "last-modified").ends_with("GMT"));
        assert_eq!(header(response, "etag"), header(&head, "etag"));
    }
    assert!(head.bytes().await.unwrap().is_empty());
    assert!(whole.bytes().await.unwrap() == service.content);
    let post = service.client.post(service.url().await).send().await.unwrap();
    assert_eq!(post.status(), 405);
}

#[tokio::test]
async fn any_stretch_of_a_file_can_be_had() {
    let service = Service::start().await;
    let last = BYTES - 1;
    for (range, from, to) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-1023", 0, 1_023),
        ("bytes=300000-", 300_000, last),
        ("bytes=-1000", BYTES - 1_000, last),
        ("bytes=-10000000", 0, last),
        ("bytes=699999-800000", last, last),
        ("bytes=0-18446744073709551615", 0, last),
    ] {
        let response = service.ranged(range).await;
        assert_eq!(response.status(), 206, "{range}");
        assert_eq!(header(&response, "content-range"), format!("bytes {from}-{to}/{BYTES}"), "{range}");
        assert_eq!(header(&response, "content-length"), (to - from + 1).to_string(), "{range}");
        assert_eq!(header(&response, "content-type"), "video/mp4");
        assert!(response.bytes().await.unwrap() == service.content[from..=to], "{range}");
    }
    for range in ["bytes=700000-", "bytes=800000-900000", "bytes=-0"] {
        let response = service.ranged(range).await;
        assert_eq!(response.status(), 416, "{range}");
        assert_eq!(header(&response, "content-range"), format!("bytes */{BYTES}"), "{range}");
        assert!(response.bytes().await.unwrap().is_empty());
    }
    // Several are answered with the whole, which is allowed; what is no range is passed over.
    for range in ["bytes=0-9, 20-29", "lines=1-2", "bytes=a-b", "bytes=", "bytes=9"] {
        let response = service.ranged(range).await;
        assert_eq!(response.status(), 200, "{range}");
        assert!(response.bytes().await.unwrap() == service.content, "{range}");
    }
    let head = service.client.head(service.url().await).header("range", "bytes=0-9").send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "700000"));
}

#[tokio::test]
async fn a_range_of_another_state_of_the_file_is_answered_with_the_whole() {
    let service = Service::start().await;
    let before = service.client.head(service.url().await).send().await.unwrap();
    let (tag, modified) = (header(&before, "etag").to_owned(), header(&before, "last-modified").to_owned());
    let asked = async |state: &str| {
        let range = service.get().await.header("range", "bytes=0-9").header("if-range", state);
        range.send().await.unwrap().status().as_u16()
    };
    for (state, status) in [
        (tag.as_str(), 206),
        (modified.as_str(), 206),
        ("\"another\"", 200),
        (&format!("W/{tag}"), 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        assert_eq!(asked(state).await, status, "{state}");
    }
    fs::write(service.dir.path().join(KEY), b"\0\0\0\x10ftypisom\0\0\0\0 another film").unwrap();
    assert_eq!(asked(&tag).await, 200);
}

#[tokio::test]
async fn who_has_the_file_already_does_not_get_it_again() {
    let service = Service::start().await;
    let first = service.client.head(service.url().await).send().await.unwrap();
    let (tag, modified) = (header(&first, "etag"), header(&first, "last-modified"));
    for (name, value, status) in [
        ("if-none-match", tag.to_owned(), 304),
        ("if-none-match", format!("\"other\", W/{tag}"), 304),
        ("if-none-match", "*".to_owned(), 304),
        ("if-none-match", "\"other\"".to_owned(), 200),
        ("if-modified-since", modified.to_owned(), 304),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT".to_owned(), 200),
    ] {
        let response = service.get().await.header(name, &value).header("range", "bytes=0-9").send().await.unwrap();
        assert_eq!(response.status().as_u16(), if status == 200 { 206 } else { 304 }, "{name}: {value}");
        assert_eq!(header(&response, "etag"), tag);
        if status == 304 {
            assert_eq!(header(&response, "cache-control"), "private, max-age=3600, immutable");
            assert!(response.bytes().await.unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn nothing_opens_a_file_but_a_url_that_was_given_out_and_has_not_expired() {
    let service = Service::start().await;
    let url = service.url().await;
    let (address, query) = url.split_once('?').unwrap();
    let (expires, signature) = query.split_once("&signature=").unwrap();
    let base = format!("http://{}/media", service.addr);
    for url in [
        address.to_owned(),
        format!("{address}?{expires}"),
        format!("{address}?{expires}&signature="),
        format!("{address}?{expires}&signature={}", signature.to_uppercase()),
        format!("{address}?{expires}0&signature={signature}"),
        format!("{address}?expires=-1&signature={signature}"),
        format!("{address}?expires=soon&signature={signature}"),
        format!("{base}/0199/video.mp4?{query}"),
        format!("{base}/0198/..%2f0198/video.mp4?{query}"),
        format!("{base}/..%2f..%2fetc/passwd?{query}"),
        format!("{base}/%ff?{query}"),
    ] {
        let answer = refused(service.client.get(&url).send().await.unwrap()).await;
        assert_eq!(answer, (403, "FORBIDDEN".to_owned(), "signature".into()), "{url}");
    }
    // The escaped key is the same key.
    let same = service.client.get(url.replace("video.mp4", "vide%6f.mp4")).send().await.unwrap();
    assert_eq!(same.status(), 200);

    service.clock.0.fetch_add(3_599, Ordering::Relaxed);
    let last = service.client.get(&url).send().await.unwrap();
    assert_eq!(header(&last, "cache-control"), "private, max-age=1, immutable");
    service.clock.0.fetch_add(1, Ordering::Relaxed);
    let answer = refused(service.client.get(&url).send().await.unwrap()).await;
    assert_eq!(answer, (403, "FORBIDDEN".to_owned(), "expired".into()));
    assert_eq!(service.get().await.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_file_that_was_deleted_is_gone_for_whoever_has_its_url() {
    let service = Service::start().await;
    service.media.delete(KEY).await.unwrap();
    let answer = refused(service.get().await.send().await.unwrap()).await;
    assert_eq!(answer, (404, "NOT_FOUND".to_owned(), Value::Null));
}

#[tokio::test]
async fn behind_a_cdn_shared_caches_may_keep_a_file() {
    let service = Service::delivering(Delivery::Cdn { base_url: "https://cdn.example/media".to_owned() }).await;
    let url = service.url().await.replace("https://cdn.example", &format!("http://{}", service.addr));
    let response = service.client.get(url).send().await.unwrap();
    assert_eq!(header(&response, "cache-control"), "public, max-age=3600, immutable");
}
