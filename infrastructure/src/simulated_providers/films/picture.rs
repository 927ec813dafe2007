//! The picture: colour bars, the letters SIM on a dark band, and a bright block that crosses below once a second.

use jpeg_encoder::{ColorType, Encoder, EncodingError};

use super::{Size, encode::FRAMES_PER_SECOND};

/// The picture is a grid of so many cells, whatever its shape.
const COLUMNS: u32 = 16;
const ROWS: u32 = 12;
/// The longer side of a thumbnail, in pixels.
const THUMBNAIL_SIDE: u32 = 320;
const THUMBNAIL_QUALITY: u8 = 80;

const WHITE: Colour = [235, 128, 128];
const BLACK: Colour = [16, 128, 128];
/// White, yellow, cyan, green, magenta, red, blue and black at 75 %.
const BARS: [Colour; 8] = [
    [180, 128, 128],
    [162, 44, 142],
    [131, 156, 44],
    [112, 72, 58],
    [84, 184, 198],
    [65, 100, 212],
    [35, 212, 114],
    BLACK,
];
const LETTERS: [&[u8; 16]; 5] =
    [b" ### ### #   #  ", b" #    #  ## ##  ", b" ###  #  # # #  ", b"   #  #  #   #  ", b" ### ### #   #  "];
const BAND: std::ops::Range<u32> = 3..10;

/// Luma, blue and red difference.
type Colour = [u8; 3];

fn cell(column: u32, row: u32, frame: u32) -> Colour {
    if BAND.contains(&row) {
        let letters = row.checked_sub(BAND.start + 1).and_then(|line| LETTERS.get(line as usize));
        return if letters.is_some_and(|line| line[column as usize] == b'#') { WHITE } else { BLACK };
    }
    if row == ROWS - 1 && column * FRAMES_PER_SECOND / COLUMNS == frame {
        return WHITE;
    }
    BARS[(column / 2) as usize]
}

/// One frame as the encoder takes it: the plane of lumas and, at half the width and height, the two of colours.
pub(super) fn yuv(size: Size, frame: u32) -> Vec<u8> {
    let Size { width, height } = size;
    let mut yuv = Vec::with_capacity((width * height * 3 / 2) as usize);
    plane(&mut yuv, width, height, frame, 0);
    plane(&mut yuv, width / 2, height / 2, frame, 1);
    plane(&mut yuv, width / 2, height / 2, frame, 2);
    yuv
}

/// Draws one line for each row of cells, and copies it for the lines below.
fn plane(into: &mut Vec<u8>, width: u32, height: u32, frame: u32, component: usize) {
    let mut drawn = None;
    for y in 0..height {
        let row = y * ROWS / height;
        if drawn == Some(row) {
            into.extend_from_within(into.len() - width as usize..);
        } else {
            into.extend((0..width).map(|x| cell(x * COLUMNS / width, row, frame)[component]));
            drawn = Some(row);
        }
    }
}

/// The first frame as a JPEG of the same aspect, at most [`THUMBNAIL_SIDE`] pixels a side.
pub(in super::super) fn thumbnail(size: Size) -> Result<Vec<u8>, EncodingError> {
    let longer = size.width.max(size.height);
    let scale = |side: u32| if longer > THUMBNAIL_SIDE { (side * THUMBNAIL_SIDE / longer).max(1) } else { side };
    let (width, height) = (scale(size.width), scale(size.height));
    let pixels: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| cell(x * COLUMNS / width, y * ROWS / height, 0)))
        .collect();
    let mut jpeg = Vec::new();
    // Both sides are at most THUMBNAIL_SIDE.
    let [width, height] = [width, height].map(|side| u16::try_from(side).unwrap_or(u16::MAX));
    Encoder::new(&mut jpeg, THUMBNAIL_QUALITY).encode(&pixels, width, height, ColorType::Ycbcr)?;
    Ok(jpeg)
}
