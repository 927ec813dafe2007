use openh264::{decoder::Decoder, formats::YUVSource as _};
use re_mp4::{Mp4, StsdBoxContent};
use zune_jpeg::{JpegDecoder, zune_core::bytestream::ZCursor};

use super::{Film, Films, Size, encode, picture};

fn film(size: &str, seconds: u32) -> Film {
    Film { size: Size::parse(size).unwrap(), seconds }
}

#[test]
fn a_film_is_an_mp4_of_the_asked_length_and_size_with_h264_in_it() {
    for (size, seconds) in [("720x1280", 4), ("1280x720", 12), ("640x360", 60), ("16x16", 1), ("718x1026", 3)] {
        let film = film(size, seconds);
        let mp4 = encode::mp4(film).unwrap();
        let parsed = Mp4::read_bytes(&mp4).unwrap();
        let [track] = parsed.tracks().values().collect::<Vec<_>>()[..] else { panic!("{:?}", parsed.tracks()) };
        assert_eq!((u32::from(track.width), u32::from(track.height)), (film.size.width, film.size.height));
        assert_eq!(track.duration, u64::from(seconds) * track.timescale, "{size}, {seconds} s");
        let movie = &parsed.moov.mvhd;
        assert_eq!(movie.duration, u64::from(seconds) * u64::from(movie.timescale));
        let codec = track.codec_string(&parsed).unwrap();
        assert!(codec.starts_with("avc1."), "{codec}");
        assert_eq!(track.samples.len(), (seconds * encode::FRAMES_PER_SECOND) as usize);
        assert_eq!(track.samples.iter().filter(|sample| sample.is_sync).count(), seconds as usize);
        let end = track.samples.iter().map(|sample| sample.byte_range().end).max().unwrap();
        assert!(end <= mp4.len(), "a sample ends at {end} of {} bytes", mp4.len());
    }
}

/// The lumas of each frame.
fn decode(mp4: &[u8]) -> Vec<Vec<u8>> {
    let parsed = Mp4::read_bytes(mp4).unwrap();
    let track = parsed.tracks().values().next().unwrap();
    let StsdBoxContent::Avc1(avc1) = &track.trak(&parsed).mdia.minf.stbl.stsd.contents else { panic!("no avc1") };
    let mut decoder = Decoder::new().unwrap();
    let annex_b = |unit: &[u8]| [&[0, 0, 0, 1], unit].concat();
    for set in avc1.avcc.sequence_parameter_sets.iter().chain(&avc1.avcc.picture_parameter_sets) {
        decoder.decode(&annex_b(&set.bytes)).unwrap();
    }
    let mut pictures = Vec::new();
    for sample in &track.samples {
        let mut units = &mp4[sample.byte_range()];
        let mut packet = Vec::new();
        while let Some((length, rest)) = units.split_first_chunk::<4>() {
            let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            packet.extend(annex_b(unit));
            units = rest;
        }
        if let Some(picture) = decoder.decode(&packet).unwrap() {
            let (width, height) = picture.dimensions();
            let lines = picture.y().chunks(picture.strides().0).take(height);
            pictures.push(lines.flat_map(|line| &line[..width]).copied().collect());
        }
    }
    for picture in decoder.flush_remaining().unwrap() {
        pictures.push(picture.y().to_vec());
    }
    pictures
}

#[test]
fn each_frame_of_a_film_can_be_decoded_and_looks_like_its_picture() {
    let film = film("320x180", 3);
    let frames = decode(&encode::mp4(film).unwrap());
    assert_eq!(frames.len(), 3 * encode::FRAMES_PER_SECOND as usize);
    for (number, frame) in (0_u32..).zip(&frames) {
        let picture = picture::yuv(film.size, number % encode::FRAMES_PER_SECOND);
        let difference: u64 = frame.iter().zip(&picture).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = difference / frame.len() as u64;
        assert!(mean < 4, "frame {number} is off by {mean} in the mean");
    }
    assert_ne!(frames[0], frames[4], "it moves");
}

#[tokio::test]
async fn a_film_is_encoded_once_for_all_who_ask() {
    let films = Films::default();
    let (one, two) = tokio::join!(films.mp4(film("64x64", 2)), films.mp4(film("64x64", 2)));
    let (one, two, later) = (one.unwrap(), two.unwrap(), films.mp4(film("64x64", 2)).await.unwrap());
    assert_eq!(one.as_ptr(), two.as_ptr());
    assert_eq!(one.as_ptr(), later.as_ptr());
}

#[test]
fn a_size_is_two_even_sides_that_the_encoder_takes() {
    for size in ["16x16", "1280x720", "3840x2160", "2160x3840"] {
        assert_eq!(Size::parse(size).unwrap().to_string(), size);
    }
    for size in
        ["", "x", "1280", "1280x", "1280X720", "1281x720", "14x16", "3842x2160", "2162x2162", "+16x16", "16x16x16"]
    {
        assert_eq!(Size::parse(size), None, "{size}");
    }
}

#[test]
fn a_thumbnail_is_a_jpeg_of_the_films_aspect() {
    for (size, expected) in
        [("1280x720", (320, 180)), ("720x1280", (180, 320)), ("16x16", (16, 16)), ("3840x16", (320, 1))]
    {
        let jpeg = picture::thumbnail(Size::parse(size).unwrap()).unwrap();
        let mut decoder = JpegDecoder::new(ZCursor::new(jpeg));
        decoder.decode().unwrap();
        assert_eq!(decoder.dimensions().unwrap(), expected);
    }
}
