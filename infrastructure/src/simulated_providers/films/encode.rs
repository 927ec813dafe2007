//! H.264 in an MP4, cheaply: one second is encoded, whatever the length, and then repeated.

use muxide::api::{MuxerBuilder, VideoCodec};
use openh264::{
    OpenH264API,
    encoder::{Complexity, Encoder, EncoderConfig, FrameRate, IntraFramePeriod, RateControlMode},
    formats::YUVBuffer,
};

use super::{Film, FilmError, Size, picture};

/// Enough to see that it moves.
pub(in super::super) const FRAMES_PER_SECOND: u32 = 8;

/// The whole file, its index in front.
pub(super) fn mp4(film: Film) -> Result<Vec<u8>, FilmError> {
    let Film { size, seconds } = film;
    let Second { even, odd, later } = encode(size)?;
    let mut muxer = MuxerBuilder::new(Vec::new())
        .video(VideoCodec::H264, size.width, size.height, f64::from(FRAMES_PER_SECOND))
        .build()?;
    for second in 0..seconds {
        let first = if second % 2 == 0 { &even } else { &odd };
        muxer.write_video(f64::from(second), first, true)?;
        for (number, frame) in (1_u32..).zip(&later) {
            let at = f64::from(second) + f64::from(number) / f64::from(FRAMES_PER_SECOND);
            muxer.write_video(at, frame, false)?;
        }
    }
    muxer.finish_in_place()?;
    Ok(muxer.into_writer())
}

/// One second in Annex B form. Two pictures that stand alone and follow one another in a stream must have different
/// numbers (`idr_pic_id`, ITU-T H.264 §7.4.3), so there are two to begin a second with. The others do not mention it.
struct Second {
    even: Vec<u8>,
    odd: Vec<u8>,
    /// What comes after either.
    later: Vec<Vec<u8>>,
}

fn encode(size: Size) -> Result<Second, FilmError> {
    let config = EncoderConfig::new()
        .max_frame_rate(FrameRate::from_hz(8.0))
        .intra_frame_period(IntraFramePeriod::from_num_frames(FRAMES_PER_SECOND))
        .rate_control_mode(RateControlMode::Off)
        .skip_frames(false)
        .complexity(Complexity::Low)
        .scene_change_detect(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .num_threads(1);
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config)?;
    let mut encode = |number: u32| -> Result<Vec<u8>, FilmError> {
        let picture = picture::yuv(size, number);
        let picture = YUVBuffer::from_vec(picture, size.width as usize, size.height as usize);
        Ok(encoder.encode(&picture)?.to_vec())
    };
    let even = encode(0)?;
    let later = (1..FRAMES_PER_SECOND).map(&mut encode).collect::<Result<_, _>>()?;
    Ok(Second { even, odd: encode(0)?, later })
}
