use std::io::Cursor;

use proptest::{collection::vec, prelude::*};

use super::{
    samples::{Mp4, boxed, images, numbers},
    *,
};

fn facts(kind: MediaKind, file: &[u8]) -> Result<Facts, String> {
    let read = inspect(kind, &mut Cursor::new(file), file.len() as u64);
    read.map_err(|error| match error {
        MediaError::Unusable(reason) => reason,
        error => panic!("{error}"),
    })
}

fn video(file: &[u8]) -> Result<Facts, String> {
    facts(MediaKind::Video, file)
}

#[test]
fn a_video_says_its_size_its_length_and_its_codec() {
    for fragmented in [false, true] {
        let read = video(&Mp4 { fragmented, ..Mp4::default() }.bytes());
        let (content_type, codec) = ("video/mp4", Some("avc1".to_owned()));
        let expected = Facts { content_type, width: 1_280, height: 720, duration_ms: Some(4_000), codec };
        assert_eq!(read, Ok(expected), "fragmented: {fragmented}");
    }
    let other = Mp4 {
        brand: b"mp42",
        codec: b"av01",
        width: 3_840,
        height: 2_160,
        timescale: 24,
        frames: (24, 1),
        ..Mp4::default()
    };
    let read = video(&other.bytes()).unwrap();
    assert_eq!(
        (read.width, read.height, read.duration_ms, read.codec.as_deref()),
        (3_840, 2_160, Some(1_000), Some("av01"))
    );
}

#[test]
fn an_image_says_its_size_and_its_type() {
    for (content_type, file) in images() {
        let expected = Facts { content_type, width: 640, height: 360, duration_ms: None, codec: None };
        assert_eq!(facts(MediaKind::Image, &file), Ok(expected));
        assert_eq!(super::content_type(&file[..HEAD_BYTES]), Some(content_type));
    }
}

#[test]
fn what_is_something_else_is_refused_and_says_why() {
    let good = Mp4::default().bytes();
    let [(_, jpeg), ..] = images();
    let film = |part: Mp4| part.bytes();
    for (file, reason) in [
        (vec![], "not an MP4"),
        (b"<!doctype html><title>404</title>".to_vec(), "not an MP4"),
        (jpeg, "not an MP4"),
        (film(Mp4 { brand: b"qt  ", ..Mp4::default() }), "no brand of MP4"),
        (film(Mp4 { brand: b"avif", ..Mp4::default() }), "no brand of MP4"),
        (film(Mp4 { frame_bytes: 0, ..Mp4::default() }), "no frames"),
        (film(Mp4 { frames: (0, 0), ..Mp4::default() }), "is no duration"),
        (film(Mp4 { timescale: 0, ..Mp4::default() }), "is no duration"),
        (film(Mp4 { width: 0, ..Mp4::default() }), "no size"),
        (film(Mp4 { codec: b"\0\x01\xff\n", ..Mp4::default() }), "no name"),
        (good[..good.len() - 1].to_vec(), "does not end where it should"),
        ([boxed(*b"ftyp", b"isom\0\0\0\0"), boxed(*b"mdat", b"frames")].concat(), "no moov"),
        ([boxed(*b"ftyp", b"isom\0\0\0\0"), boxed(*b"mdat", b"x"), boxed(*b"moov", [])].concat(), "no picture"),
    ] {
        let error = video(&file).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    for file in [good, b"GIF89a\x80\x02\x68\x01\0\0\0\0\0\0".to_vec(), b"\xff\xd8\xff\xe0".to_vec()] {
        facts(MediaKind::Image, &file).unwrap_err();
    }
}

#[test]
fn boxes_that_claim_more_than_there_is_take_no_memory() {
    let huge = |kind: &[u8; 4]| [numbers(&[1]), kind.to_vec(), (u64::MAX / 2).to_be_bytes().to_vec()].concat();
    let head = boxed(*b"ftyp", b"isom\0\0\0\0");
    assert!(video(&[head.clone(), huge(b"moov")].concat()).unwrap_err().contains("does not end"));
    for fragmented in [false, true] {
        let claims = Mp4 { frames: (u32::MAX, u32::MAX), fragmented, ..Mp4::default() };
        assert!(video(&claims.bytes()).unwrap_err().contains("is no duration"));
    }
    let many = boxed(*b"free", []).repeat(200_000);
    assert!(video(&[head, many].concat()).unwrap_err().contains("too many boxes"));
}

proptest! {
    #[test]
    fn whatever_a_provider_sends_is_read_or_refused(
        fragmented: bool,
        changes in vec((0usize..900, any::<u8>()), 1..12),
        cut in 0usize..2_000,
    ) {
        let mut file = Mp4 { fragmented, ..Mp4::default() }.bytes();
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(file.len().saturating_sub(cut.saturating_sub(1_000)));
        let _ = video(&file);
    }

    #[test]
    fn whatever_is_sent_for_an_image_is_read_or_refused(which in 0usize..3, tail in vec(any::<u8>(), 0..200), at in 0usize..64) {
        let mut file = images()[which].1.clone();
        file.truncate(at.max(3));
        file.extend(tail);
        let _ = facts(MediaKind::Image, &file);
    }
}
