//! Small files, made by hand.

/// A box: its length, its kind and its body.
pub fn boxed(kind: [u8; 4], body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = u32::try_from(body.as_ref().len() + 8).unwrap();
    [length.to_be_bytes().as_slice(), &kind, body.as_ref()].concat()
}

/// Of 32-bit numbers.
pub fn numbers(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub struct Mp4 {
    pub brand: &'static [u8; 4],
    pub codec: &'static [u8; 4],
    pub width: u16,
    pub height: u16,
    /// Ticks a second.
    pub timescale: u32,
    /// Frames, and ticks of each.
    pub frames: (u32, u32),
    pub frame_bytes: usize,
    /// Whether the frames stand in a fragment of their own.
    pub fragmented: bool,
}

impl Default for Mp4 {
    fn default() -> Self {
        Self {
            brand: b"isom",
            codec: b"avc1",
            width: 1_280,
            height: 720,
            timescale: 90_000,
            frames: (96, 3_750),
            frame_bytes: 1_000,
            fragmented: false,
        }
    }
}

impl Mp4 {
    pub fn bytes(&self) -> Vec<u8> {
        let frames = boxed(*b"mdat", vec![7; self.frame_bytes]);
        let kind = boxed(*b"ftyp", [self.brand.as_slice(), &[0; 4], self.brand].concat());
        let (count, ticks) = self.frames;
        if !self.fragmented {
            return [kind, self.movie(&numbers(&[0, 1, count, ticks]), &[]), frames].concat();
        }
        let extends = boxed(*b"mvex", boxed(*b"trex", numbers(&[0, 2, 1, ticks, 0, 0])));
        // The first run has its frames' durations, the second one the track's.
        let first = boxed(*b"trun", numbers(&[0x100, 2, ticks, ticks]));
        let second = boxed(*b"trun", numbers(&[0, count - 2]));
        let header = boxed(*b"tfhd", numbers(&[0, 2]));
        let fragment = boxed(*b"moof", boxed(*b"traf", [header, first, second].concat()));
        [kind, self.movie(&numbers(&[0, 0]), &extends), fragment, frames].concat()
    }

    /// With a track of sound in front of the picture's.
    fn movie(&self, times: &[u8], extends: &[u8]) -> Vec<u8> {
        let sound = boxed(*b"trak", boxed(*b"mdia", handler(*b"soun")));
        let mut entry = vec![0; 78];
        entry[24..26].copy_from_slice(&self.width.to_be_bytes());
        entry[26..28].copy_from_slice(&self.height.to_be_bytes());
        let entries = [numbers(&[0, 1]), boxed(*self.codec, entry)].concat();
        let samples = boxed(*b"stbl", [boxed(*b"stsd", entries), boxed(*b"stts", times)].concat());
        let clock = boxed(*b"mdhd", numbers(&[0, 0, 0, self.timescale, 0, 0x55c4_0000]));
        let media = [clock, handler(*b"vide"), boxed(*b"minf", samples)].concat();
        let header = boxed(*b"tkhd", [numbers(&[0, 0, 0, 2]), vec![0; 68]].concat());
        let picture = boxed(*b"trak", [header, boxed(*b"mdia", media)].concat());
        // What nobody here can read is passed over.
        let odd = boxed(*b"udta", b"\0\0\0\x09\xa9too");
        boxed(*b"moov", [odd, sound, picture, extends.to_vec()].concat())
    }
}

fn handler(kind: [u8; 4]) -> Vec<u8> {
    boxed(*b"hdlr", [[0; 8].as_slice(), &kind, &[0; 12], b"\xffa name in Latin-1\0"].concat())
}

/// The heads of a JPEG, a PNG and a WebP of 640 by 360 pixels, with their types.
pub fn images() -> [(&'static str, Vec<u8>); 3] {
    let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08\x01\x68\x02\x80\x03\x01\x11\0\x02\x11\x01\x03\x11\x01\xff\xd9";
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\x68\x08\x02\0\0\0";
    let webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x7f\x02\0\x67\x01\0";
    [("image/jpeg", jpeg.to_vec()), ("image/png", png.to_vec()), ("image/webp", webp.to_vec())]
}
