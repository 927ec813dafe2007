use std::time::{Duration, Instant};

use re_mp4::Mp4;
use zune_jpeg::{JpegDecoder, zune_core::bytestream::ZCursor};

use super::{Harness, header, refused};

/// The seconds that the only track of an MP4 has.
fn seconds(mp4: &[u8]) -> u64 {
    let mp4 = Mp4::read_bytes(mp4).unwrap();
    let track = mp4.tracks().values().next().unwrap();
    assert_eq!(track.duration % track.timescale, 0);
    track.duration / track.timescale
}

#[tokio::test]
async fn the_content_is_an_mp4_of_what_was_asked_for() {
    let harness = Harness::start().await;
    let id = harness.create("+vtime=0s").await;
    for query in ["", "?variant=video"] {
        let content = harness.content(&id, query).await;
        assert_eq!((content.status().as_u16(), header(&content, "content-type")), (200, Some("video/mp4")));
        let length: usize = header(&content, "content-length").unwrap().parse().unwrap();
        let mp4 = content.bytes().await.unwrap();
        assert_eq!((mp4.len(), seconds(&mp4)), (length, 2));
    }
    let thumbnail = harness.content(&id, "?variant=thumbnail").await;
    assert_eq!((thumbnail.status().as_u16(), header(&thumbnail, "content-type")), (200, Some("image/jpeg")));
    assert!(header(&thumbnail, "content-length").is_some());
    let jpeg = thumbnail.bytes().await.unwrap();
    let mut jpeg = JpegDecoder::new(ZCursor::new(&jpeg));
    jpeg.decode().unwrap();
    assert_eq!(jpeg.dimensions(), Some((64, 36)));
    assert_eq!(harness.simulator.videos()[0].downloads, 2, "thumbnails do not count");
}

#[tokio::test]
async fn content_that_is_not_there_is_a_typed_error() {
    let harness = Harness::start().await;
    let code =
        async |id: &str, query: &str, status| refused(harness.content(id, query).await, status).await["code"].take();
    let running = harness.create("").await;
    assert_eq!(code(&running, "", 400).await, "video_not_ready");
    let failed = harness.create("+vtime=0s+fail=late").await;
    assert_eq!(code(&failed, "", 400).await, "video_failed");
    let made = harness.create("+vtime=0s").await;
    assert_eq!(code(&made, "?variant=spritesheet", 400).await, "invalid_value");
    for unknown in ["video_1", "video_sim", &format!("video_sim{:045x}", 99), &format!("video_sim{}", "f".repeat(45))] {
        assert_eq!(code(unknown, "", 404).await, "video_not_found");
    }
    assert!(harness.simulator.videos().iter().all(|video| video.downloads == 0));
}

#[tokio::test]
async fn a_knob_makes_the_file_shorter_than_was_asked_for() {
    let harness = Harness::start().await;
    for (knob, expected) in [("+short=1s", 1), ("+short=0s", 2), ("+short=59s", 1)] {
        let id = harness.create(&format!("+vtime=0s{knob}")).await;
        assert_eq!(harness.video(&id).await["seconds"], "2", "the status does not tell");
        assert_eq!(seconds(&harness.content(&id, "").await.bytes().await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_knob_breaks_the_content() {
    let harness = Harness::start().await;
    let whole = harness.create("+vtime=0s").await;
    let whole = harness.content(&whole, "").await.bytes().await.unwrap();

    let garbage = harness.create("+vtime=0s+content=garbage").await;
    let garbage = harness.content(&garbage, "").await;
    assert_eq!(header(&garbage, "content-type"), Some("video/mp4"));
    assert!(Mp4::read_bytes(&garbage.bytes().await.unwrap()).is_err());

    let truncated = harness.create("+vtime=0s+content=truncated").await;
    let truncated = harness.content(&truncated, "").await.bytes().await.unwrap();
    assert_eq!(truncated, whole[..whole.len() / 2]);

    let torn = harness.create("+vtime=0s+content=torn").await;
    let torn = harness.content(&torn, "").await;
    assert_eq!(header(&torn, "content-length"), Some(whole.len().to_string().as_str()));
    torn.bytes().await.unwrap_err();
}

#[tokio::test]
async fn a_knob_slows_the_content_down() {
    let harness = Harness::start().await;
    let id = harness.create("+vtime=0s").await;
    let whole = harness.content(&id, "").await.bytes().await.unwrap();
    let rate = whole.len() * 4;
    let id = harness.create(&format!("+vtime=0s+bandwidth={rate}")).await;
    let begin = Instant::now();
    let slow = harness.content(&id, "").await.bytes().await.unwrap();
    assert_eq!(slow, whole);
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
}
