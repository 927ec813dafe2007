use std::{fs, path::Path as FilePath};

use aihub_application::ports::{
    clock::SystemClock,
    provider::{FailureKind, ProviderError},
};
use axum::{Router, error_handling::HandleError};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{
    inspect::samples::{Mp4, images},
    signature::UrlFault,
    *,
};
use crate::audit::hex;

const KEY: &str = "0198/video.mp4";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOON: i64 = 1_800_000_000;
const MAX_BYTES: u64 = 32 << 20;

struct Still(i64);

impl Clock for Still {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap()
    }
}

fn kept(folder: &FilePath, url: &str, delivery: Delivery, now: i64, options: &[(&str, &str)]) -> KeptMedia {
    let options = MediaOptions {
        location: Location::parse(url).unwrap(),
        location_options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        spool_folder: folder.join("spool"),
        max_bytes: MAX_BYTES,
        delivery,
        url_ttl: Duration::from_hours(1),
        url_secrets: UrlSecrets::new(SECRET, []).unwrap(),
    };
    KeptMedia::open(options, Arc::new(Still(now))).unwrap()
}

fn in_folder() -> (TempDir, KeptMedia) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/kept", dir.path().display());
    let media = kept(dir.path(), &url, Delivery::Signed { public_url: None }, NOON, &[]);
    (dir, media)
}

fn broken() -> ProviderError {
    ProviderError {
        kind: FailureKind::Timeout,
        status: None,
        message: "no next byte".to_owned(),
        retry_after: None,
        flaw: None,
    }
}

/// In pieces of an odd size.
fn coming(file: &[u8], stated: Option<u64>, end: Option<ProviderError>) -> Download {
    let chunks: Vec<_> = file.chunks(70_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let content = stream::iter(chunks).chain(stream::iter(end.map(Err))).boxed();
    Download { content_type: Some("text/plain".to_owned()), content_length: stated, content }
}

async fn store(media: &KeptMedia, key: &str, file: &[u8]) -> Result<StoredMedia, MediaError> {
    media.store(key, MediaKind::Video, coming(file, Some(file.len() as u64), None)).await
}

async fn read(media: &KeptMedia, key: &str) -> Option<Vec<u8>> {
    let file = media.find(key).await.unwrap()?;
    let content = media.read(&file, 0..file.bytes).await.unwrap()?;
    Some(content.try_collect::<Vec<_>>().await.unwrap().concat())
}

/// Every file below a folder.
fn files(folder: &FilePath) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    // But for what the folder itself is known by.
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with(".aihub-media"));
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What holds wherever media are kept.
async fn keeps_its_promises(media: &KeptMedia) {
    // More than two parts of an upload.
    let large = Mp4 { frame_bytes: 17_000_000, ..Mp4::default() }.bytes();
    let stored = store(media, KEY, &large).await.unwrap();
    assert_eq!(
        stored,
        StoredMedia {
            key: KEY.to_owned(),
            content_type: "video/mp4".to_owned(),
            bytes: large.len() as u64,
            sha256: hex(&Sha256::digest(&large)),
            width: 1_280,
            height: 720,
            duration_ms: Some(4_000),
            codec: Some("avc1".to_owned()),
        }
    );
    assert!(read(media, KEY).await.unwrap() == large);
    let before = media.find(KEY).await.unwrap().unwrap();
    assert_eq!((before.content_type.as_str(), before.bytes), ("video/mp4", large.len() as u64));
    assert_eq!(before.disposition, "inline; filename=\"0198-video.mp4\"");
    let tag = before.e_tag.clone().unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    assert_eq!(media.find(KEY).await.unwrap().unwrap().e_tag, Some(tag));
    let part: Vec<_> = media.read(&before, 5..70_000).await.unwrap().unwrap().try_collect().await.unwrap();
    assert!(part.concat() == large[5..70_000]);

    let small = Mp4 { width: 640, ..Mp4::default() }.bytes();
    assert_eq!(store(media, KEY, &small).await.unwrap().width, 640);
    assert!(read(media, KEY).await.unwrap() == small);
    assert!(media.read(&before, 0..10).await.unwrap().is_none(), "it is another file by now");

    for (content_type, image) in images() {
        let key = "0198/thumbnail.jpg";
        let stored = media.store(key, MediaKind::Image, coming(&image, None, None)).await.unwrap();
        assert_eq!((stored.content_type.as_str(), stored.width, stored.height), (content_type, 640, 360));
        assert_eq!(media.find(key).await.unwrap().unwrap().content_type, content_type);
    }
    for key in [KEY, "0198/thumbnail.jpg"] {
        media.delete(key).await.unwrap();
        assert_eq!(media.find(key).await.unwrap(), None);
        media.delete(key).await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_keeps_what_came_whole_and_nothing_else() {
    let (dir, media) = in_folder();
    keeps_its_promises(&media).await;
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(dir.path().join("kept")).unwrap().count(), 1, "no empty folders are left beside the mark");
}

#[tokio::test]
async fn a_file_that_does_not_come_whole_is_not_kept_and_may_be_fetched_again() {
    let (dir, media) = in_folder();
    let file = Mp4::default().bytes();
    let bytes = file.len() as u64;
    for (stated, end, kind) in [
        (Some(bytes + 1), None, FailureKind::Connection),
        (Some(bytes - 1), None, FailureKind::Connection),
        (Some(bytes), Some(broken()), FailureKind::Timeout),
        (None, Some(broken()), FailureKind::Timeout),
    ] {
        let error = media.store(KEY, MediaKind::Video, coming(&file, stated, end)).await.unwrap_err();
        assert!(matches!(&error, MediaError::Source(source) if source.kind == kind), "{error}");
    }
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_given_up_as_soon_as_that_is_known() {
    let (dir, media) = in_folder();
    let endless = || {
        let content = stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 20]))).boxed();
        Download { content_type: None, content_length: None, content }
    };
    for file in [Download { content_length: Some(MAX_BYTES + 1), ..endless() }, endless()] {
        let error = media.store(KEY, MediaKind::Video, file).await.unwrap_err();
        assert!(matches!(error, MediaError::TooLarge { limit_bytes: MAX_BYTES }), "{error}");
    }
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_file_that_is_not_what_it_should_be_takes_nobodys_place() {
    let (dir, media) = in_folder();
    let good = Mp4::default().bytes();
    store(&media, KEY, &good).await.unwrap();
    for file in [&b""[..], b"<html>", &good[..good.len() - 1], &images()[0].1] {
        let error = store(&media, KEY, file).await.unwrap_err();
        assert!(matches!(error, MediaError::Unusable(_)), "{error}");
    }
    assert!(media.store(KEY, MediaKind::Image, coming(&good, None, None)).await.is_err());
    assert!(read(&media, KEY).await.unwrap() == good);
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn what_a_crash_left_of_an_upload_goes_with_the_next_one_and_with_the_file() {
    let (dir, media) = in_folder();
    let folder = dir.path().join("kept/0198");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("video.mp4#1"), "half").unwrap();
    store(&media, KEY, &Mp4::default().bytes()).await.unwrap();
    assert_eq!(files(dir.path()), [folder.join("video.mp4")]);
    fs::write(folder.join("video.mp4#2"), "half").unwrap();
    media.delete(KEY).await.unwrap();
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn no_key_leads_out_of_the_store() {
    let (dir, media) = in_folder();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let long = "a".repeat(201);
    for key in [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "",
        "a//b",
        ".",
        "a/.b",
        "a\\b",
        "a%2fb",
        "a#1",
        "ä",
        "a\0",
        &long,
    ] {
        assert_eq!(media.find(key).await.unwrap(), None, "{key}");
        assert!(store(&media, key, &Mp4::default().bytes()).await.is_err(), "{key}");
        assert!(media.url(key).await.is_err(), "{key}");
        media.delete(key).await.unwrap();
    }
    assert_eq!(files(dir.path()), [dir.path().join("secret")]);
}

fn query(url: &str) -> (u64, String) {
    let (expires, signature) = url.split_once("?expires=").unwrap().1.split_once("&signature=").unwrap();
    (expires.parse().unwrap(), signature.to_owned())
}

#[tokio::test]
async fn a_url_is_good_until_it_expires_and_the_same_for_a_while() {
    let (dir, media) = in_folder();
    assert!(media.url(KEY).await.is_err(), "nobody said yet where this is served");
    media.served_at("0.0.0.0:3003".parse().unwrap());
    let url = media.url(KEY).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:3003/media/0198/video.mp4?expires="), "{url}");
    let (expires, signature) = query(&url);
    let at = |now: i64| {
        let url = format!("file://{}/kept", dir.path().display());
        kept(dir.path(), &url, Delivery::Signed { public_url: Some("https://hub.example/".to_owned()) }, now, &[])
    };
    let lives = i64::try_from(expires).unwrap() - NOON;
    assert!((3_600..=4_500).contains(&lives), "{lives}");
    let allowed = at(NOON + lives - 1).allowed(KEY, expires, &signature).unwrap();
    assert!(allowed.seconds_left == 1 && !allowed.shared);
    assert_eq!(at(NOON + lives).allowed(KEY, expires, &signature), Err(UrlFault::Expired));
    assert_eq!(at(NOON).allowed("0199/video.mp4", expires, &signature), Err(UrlFault::Forged));

    let first = at(NOON).url(KEY).await.unwrap();
    assert!(first.starts_with("https://hub.example/media/0198/video.mp4?"), "{first}");
    // Noon is on the grid of a quarter of an hour.
    assert_eq!(at(NOON - 899).url(KEY).await.unwrap(), first);
    assert_ne!(at(NOON + 1).url(KEY).await.unwrap(), first);
}

#[tokio::test]
async fn the_edge_of_a_cdn_gets_a_url_that_it_can_check() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/kept", dir.path().display());
    let cdn = Delivery::Cdn { base_url: "https://cdn.example/v".to_owned() };
    let media = kept(dir.path(), &url, cdn, NOON, &[]);
    let url = media.url(KEY).await.unwrap();
    assert!(url.starts_with("https://cdn.example/v/0198/video.mp4?expires="), "{url}");
    let (expires, signature) = query(&url);
    assert!(media.allowed(KEY, expires, &signature).unwrap().shared);
}

const S3_KEY: (&str, &str) = ("the-key", "the-secret");

/// A server that speaks S3, with one bucket.
async fn s3(root: &FilePath) -> String {
    fs::create_dir(root.join("bucket")).unwrap();
    let mut service = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single(S3_KEY.0, S3_KEY.1));
    let failed = async |error: s3s::HttpError| (http::StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}"));
    let router = Router::new().fallback_service(HandleError::new(service.build(), failed));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    TaskTracker::new().spawn(axum::serve(listener, router).into_future());
    url
}

fn in_bucket(dir: &FilePath, endpoint: &str, secret: &str) -> KeptMedia {
    let options = [
        ("endpoint", endpoint),
        ("allow_http", "true"),
        ("region", "eu-central-1"),
        ("access_key_id", S3_KEY.0),
        ("secret_access_key", secret),
    ];
    kept(dir, "s3://bucket/of/ours", Delivery::Presigned, SystemClock.now().timestamp(), &options)
}

#[tokio::test]
async fn a_bucket_keeps_what_came_whole_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = s3(dir.path()).await;
    let media = in_bucket(dir.path(), &endpoint, S3_KEY.1);
    keeps_its_promises(&media).await;
    assert!(store(&media, KEY, b"<html>").await.is_err());
    assert_eq!(media.find(KEY).await.unwrap(), None);
}

/// Stands in the environment of the helper alone.
const OF_THE_HELPER: &str = "AIHUB_TEST_BUCKET";

/// Of a process of its own, whose environment this is.
#[tokio::test]
async fn helper_that_keeps_a_file_in_a_bucket() {
    if std::env::var_os(OF_THE_HELPER).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = [("endpoint", &*s3(dir.path()).await), ("allow_http", "true"), ("region", "eu-central-1")];
    let media = kept(dir.path(), "s3://bucket", Delivery::Presigned, SystemClock.now().timestamp(), &options);
    store(&media, KEY, &Mp4::default().bytes()).await.unwrap();
    assert_eq!(media.trimmed(), ["AWS_SECRET_ACCESS_KEY"]);
}

#[tokio::test]
async fn a_bucket_on_this_machine_is_asked_past_every_proxy_and_with_keys_whose_lines_are_broken() {
    let helper = ["media::tests::helper_that_keeps_a_file_in_a_bucket", "--exact", "--nocapture"];
    let ended = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(helper)
        .env(OF_THE_HELPER, "1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env("AWS_ACCESS_KEY_ID", S3_KEY.0)
        .env("AWS_SECRET_ACCESS_KEY", format!("{}\r\n", S3_KEY.1))
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn a_bucket_serves_its_files_itself_by_urls_that_it_signed() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = s3(dir.path()).await;
    let media = in_bucket(dir.path(), &endpoint, S3_KEY.1);
    let file = Mp4::default().bytes();
    store(&media, KEY, &file).await.unwrap();
    let url = media.url(KEY).await.unwrap();
    assert!(url.starts_with(&format!("{endpoint}/bucket/of/ours/0198/video.mp4?")), "{url}");
    assert!(url.contains("X-Amz-Expires=3600") && !url.contains(S3_KEY.1), "{url}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(&url).header("range", "bytes=0-99").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (206, &"video/mp4".parse().unwrap()));
    assert!(answer.bytes().await.unwrap() == file[..100]);
    assert_eq!(client.get(url.replace("0198", "0199")).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_bucket_that_refuses_us_is_unavailable_and_its_secret_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = s3(dir.path()).await;
    let media = in_bucket(dir.path(), &endpoint, "another-secret");
    let error = store(&media, KEY, &Mp4::default().bytes()).await.unwrap_err();
    assert!(matches!(error, MediaError::Unavailable(_)), "{error}");
    assert!(media.find(KEY).await.is_err() && media.delete(KEY).await.is_err());
    let told = format!("{:?} {media:?}", anyhow::Error::new(error));
    assert!(!told.contains("another-secret"), "{told}");
}
