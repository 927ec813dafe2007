//! MP4 (ISO/IEC 14496-12). Of its boxes only those are decoded that say what is asked, and the others are passed over: an odd one
//! among them costs nobody a video, and the frames are not read at all.

use std::{
    io::{ErrorKind, Read, Seek, SeekFrom},
    ops::Range,
};

use aihub_application::ports::media_store::MediaError;
use mp4_atom::{Atom, Decode, DecodeMaybe, FourCC, Ftyp, Header, Mdhd, Stts, Tfhd, Tkhd, Trex, Trun, Visual};

use super::{Facts, unreadable, unusable};

pub(super) const CONTENT_TYPE: &str = "video/mp4";

/// A minute of video has some dozens of boxes, and some hundreds in fragments.
const MAX_BOXES: usize = 100_000;
/// Of one box that is decoded. The longest is the time table of a track: 8 bytes a frame at worst.
const MAX_BOX_BYTES: u64 = 16 << 20;
/// A box's length, its kind, and its length again where that needs 64 bits.
const HEADER_BYTES: u64 = 16;
/// `stsd`: version and count. Then the first sample entry: its header and what all pictures have.
const SAMPLE_ENTRIES_AT: u64 = 8;
const VISUAL_BYTES: u64 = 78;
/// `hdlr`: version and four reserved bytes.
const HANDLER_AT: u64 = 8;
/// What brands of MP4s begin with. A `QuickTime` mp4 (`qt  `) and a still (`avif`, `heic`) are built alike.
const BRANDS: [&[u8]; 6] = [b"iso", b"mp4", b"avc", b"M4V", b"dash", b"cmf"];
/// A longer one is none that anybody asked for, but a claim.
const MAX_DURATION_MS: u128 = 24 * 60 * 60 * 1_000;

/// Whether a file that begins like this may be one.
pub(super) fn begins(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ftyp")
}

/// A box: its kind, and where in the file its body is.
type Found = (FourCC, Range<u64>);

pub(super) fn read(file: &mut (impl Read + Seek), bytes: u64) -> Result<Facts, MediaError> {
    let mut mp4 = Boxes { file, boxes_left: MAX_BOXES };
    let top = mp4.boxes(0..bytes)?;
    let brands: Ftyp = mp4.decode(one(&top, *b"ftyp")?)?;
    let known = |brand: &FourCC| BRANDS.iter().any(|known| <[u8; 4]>::from(*brand).starts_with(known));
    if !known(&brands.major_brand) && !brands.compatible_brands.iter().any(known) {
        return Err(unusable("it is of no brand of MP4"));
    }
    if of_kind(&top, *b"mdat").all(|body| body.is_empty()) {
        return Err(unusable("it has no frames"));
    }
    let movie = mp4.boxes(one(&top, *b"moov")?)?;
    for track in of_kind(&movie, *b"trak") {
        let track = mp4.boxes(track)?;
        let media = mp4.boxes(one(&track, *b"mdia")?)?;
        if mp4.bytes(one(&media, *b"hdlr")?, HANDLER_AT, 4)? == b"vide" {
            return mp4.picture(&top, &movie, &track, &media);
        }
    }
    Err(unusable("it has no picture"))
}

struct Boxes<'a, F> {
    file: &'a mut F,
    boxes_left: usize,
}

impl<F: Read + Seek> Boxes<'_, F> {
    fn picture(
        &mut self,
        top: &[Found],
        movie: &[Found],
        track: &[Found],
        media: &[Found],
    ) -> Result<Facts, MediaError> {
        let information = self.boxes(one(media, *b"minf")?)?;
        let samples = self.boxes(one(&information, *b"stbl")?)?;
        let entries = one(&samples, *b"stsd")?;
        let entry = self.bytes(entries, SAMPLE_ENTRIES_AT, 8 + VISUAL_BYTES)?;
        let mut entry = entry.as_slice();
        let codec = Header::decode(&mut entry).map_err(malformed)?.kind;
        let visual = Visual::decode(&mut entry).map_err(malformed)?;
        if visual.width == 0 || visual.height == 0 {
            return Err(unusable("its size is no size"));
        }
        let codec = <[u8; 4]>::from(codec);
        if !codec.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return Err(unusable("its codec has no name"));
        }

        let clock: Mdhd = self.decode(one(media, *b"mdhd")?)?;
        let times: Stts = self.decode(one(&samples, *b"stts")?)?;
        let ticks = |count: u32, ticks: u32| u128::from(count) * u128::from(ticks);
        let mut duration = times.entries.iter().map(|run| ticks(run.sample_count, run.sample_delta)).sum::<u128>();
        if duration == 0 {
            duration = self.fragments(top, movie, track)?;
        }
        let duration_ms = (duration * 1_000).checked_div(u128::from(clock.timescale));
        let duration_ms =
            duration_ms.filter(|ms| (1..=MAX_DURATION_MS).contains(ms)).and_then(|ms| u64::try_from(ms).ok());
        Ok(Facts {
            content_type: CONTENT_TYPE,
            width: visual.width.into(),
            height: visual.height.into(),
            duration_ms: Some(duration_ms.ok_or_else(|| unusable("its duration is no duration"))?),
            codec: Some(String::from_utf8_lossy(&codec).trim_end().to_owned()),
        })
    }

    /// The ticks of a track's frames that stand in fragments of the file.
    fn fragments(&mut self, top: &[Found], movie: &[Found], track: &[Found]) -> Result<u128, MediaError> {
        let track: Tkhd = self.decode(one(track, *b"tkhd")?)?;
        let mut default = 0;
        for extends in of_kind(movie, *b"mvex") {
            for extends in of_kind(&self.boxes(extends)?, *b"trex") {
                let extends: Trex = self.decode(extends)?;
                if extends.track_id == track.track_id {
                    default = extends.default_sample_duration;
                }
            }
        }
        let mut duration = 0;
        for fragment in of_kind(top, *b"moof") {
            for fragment in of_kind(&self.boxes(fragment)?, *b"traf") {
                let fragment = self.boxes(fragment)?;
                let header: Tfhd = self.decode(one(&fragment, *b"tfhd")?)?;
                if header.track_id != track.track_id {
                    continue;
                }
                let default = header.default_sample_duration.unwrap_or(default);
                for run in of_kind(&fragment, *b"trun") {
                    let run: Trun = self.decode(run)?;
                    duration += match run.samples {
                        mp4_atom::TrunSamples::Inherited { count, .. } => u128::from(count) * u128::from(default),
                        mp4_atom::TrunSamples::Explicit(frames) => {
                            frames.iter().map(|frame| u128::from(frame.duration.unwrap_or(default))).sum()
                        }
                    };
                }
            }
        }
        Ok(duration)
    }

    /// The boxes that stand in a stretch of the file, one behind the other.
    fn boxes(&mut self, stretch: Range<u64>) -> Result<Vec<Found>, MediaError> {
        let mut found = Vec::new();
        let mut at = stretch.start;
        while at < stretch.end {
            self.boxes_left = self.boxes_left.checked_sub(1).ok_or_else(|| unusable("it has too many boxes"))?;
            let head = self.bytes(at..stretch.end, 0, HEADER_BYTES.min(stretch.end - at))?;
            let mut rest = head.as_slice();
            let header = Header::decode_maybe(&mut rest).map_err(malformed)?.ok_or_else(|| unusable(CUT))?;
            let start = at + (head.len() - rest.len()) as u64;
            let end = header.size.map_or(Some(stretch.end), |bytes| start.checked_add(bytes as u64));
            at = end.filter(|end| *end <= stretch.end).ok_or_else(|| unusable(CUT))?;
            found.push((header.kind, start..at));
        }
        Ok(found)
    }

    fn decode<A: Atom>(&mut self, body: Range<u64>) -> Result<A, MediaError> {
        let bytes = self.bytes(body.clone(), 0, body.end - body.start)?;
        A::decode_body(&mut bytes.as_slice()).map_err(malformed)
    }

    /// So many bytes of a body.
    fn bytes(&mut self, body: Range<u64>, at: u64, count: u64) -> Result<Vec<u8>, MediaError> {
        if at + count > body.end - body.start {
            return Err(unusable(CUT));
        }
        if count > MAX_BOX_BYTES {
            return Err(unusable("one of its boxes is too large"));
        }
        self.file.seek(SeekFrom::Start(body.start + at)).map_err(unreadable)?;
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| unusable(CUT))?];
        self.file.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => unusable(CUT),
            _ => unreadable(error),
        })?;
        Ok(bytes)
    }
}

const CUT: &str = "one of its boxes does not end where it should";

fn one(boxes: &[Found], kind: [u8; 4]) -> Result<Range<u64>, MediaError> {
    of_kind(boxes, kind).next().ok_or_else(|| unusable(format!("it has no {}", FourCC::from(kind))))
}

fn of_kind(boxes: &[Found], kind: [u8; 4]) -> impl Iterator<Item = Range<u64>> {
    let kind = FourCC::from(kind);
    boxes.iter().filter(move |(found, _)| *found == kind).map(|(_, body)| body.clone())
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped with")]
fn malformed(error: mp4_atom::Error) -> MediaError {
    unusable(format!("one of its boxes is malformed: {error}"))
}
