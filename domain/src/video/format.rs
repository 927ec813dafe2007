//! What a video can look like.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The length of the shorter side, by its trade name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Resolution {
    #[serde(rename = "720p")]
    P720,
    #[serde(rename = "1080p")]
    P1080,
    // In names of variables of the environment all is lower case.
    #[serde(rename = "4K", alias = "4k")]
    K4,
}

/// Width to height.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AspectRatio {
    #[default]
    #[serde(rename = "16:9")]
    Wide,
    #[serde(rename = "9:16")]
    Tall,
    #[serde(rename = "1:1")]
    Square,
    #[serde(rename = "4:3")]
    Classic,
    #[serde(rename = "3:4")]
    ClassicTall,
    #[serde(rename = "3:2")]
    Photo,
    #[serde(rename = "2:3")]
    PhotoTall,
    #[serde(rename = "21:9")]
    Cinema,
}

/// In pixels, both even: that is what encoders take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("must be one of {known}")]
pub struct UnknownFormat {
    known: String,
}

impl Resolution {
    pub const ALL: [Self; 3] = [Self::P720, Self::P1080, Self::K4];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::P720 => "720p",
            Self::P1080 => "1080p",
            Self::K4 => "4K",
        }
    }

    /// Of the shorter side, in pixels.
    pub fn lines(self) -> u32 {
        match self {
            Self::P720 => 720,
            Self::P1080 => 1_080,
            Self::K4 => 2_160,
        }
    }

    pub fn size(self, ratio: AspectRatio) -> Size {
        let (width, height) = ratio.terms();
        let short = self.lines();
        // The longer side is rounded to an even number of pixels.
        let long = (short * width.max(height) / width.min(height)).next_multiple_of(2);
        if width >= height { Size { width: long, height: short } } else { Size { width: short, height: long } }
    }
}

impl AspectRatio {
    pub const ALL: [Self; 8] = [
        Self::Wide,
        Self::Tall,
        Self::Square,
        Self::Classic,
        Self::ClassicTall,
        Self::Photo,
        Self::PhotoTall,
        Self::Cinema,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wide => "16:9",
            Self::Tall => "9:16",
            Self::Square => "1:1",
            Self::Classic => "4:3",
            Self::ClassicTall => "3:4",
            Self::Photo => "3:2",
            Self::PhotoTall => "2:3",
            Self::Cinema => "21:9",
        }
    }

    fn terms(self) -> (u32, u32) {
        match self {
            Self::Wide => (16, 9),
            Self::Tall => (9, 16),
            Self::Square => (1, 1),
            Self::Classic => (4, 3),
            Self::ClassicTall => (3, 4),
            Self::Photo => (3, 2),
            Self::PhotoTall => (2, 3),
            Self::Cinema => (21, 9),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `1280x720`, as most providers want it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Resolution {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| UnknownFormat { known: Self::ALL.map(Self::as_str).join(", ") })
    }
}

impl FromStr for AspectRatio {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| UnknownFormat { known: Self::ALL.map(Self::as_str).join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_resolutions_lines_on_its_shorter_side_and_even_pixels_on_both() {
        assert_eq!(Resolution::P720.size(AspectRatio::Wide).to_string(), "1280x720");
        assert_eq!(Resolution::P1080.size(AspectRatio::Tall).to_string(), "1080x1920");
        assert_eq!(Resolution::K4.size(AspectRatio::Wide).to_string(), "3840x2160");
        assert_eq!(Resolution::P720.size(AspectRatio::Square).to_string(), "720x720");
        for (resolution, ratio) in Resolution::ALL.iter().flat_map(|one| AspectRatio::ALL.map(|ratio| (*one, ratio))) {
            let size = resolution.size(ratio);
            assert_eq!((size.width % 2, size.height % 2, size.width.min(size.height)), (0, 0, resolution.lines()));
        }
    }

    #[test]
    fn a_format_reads_as_it_is_written_and_an_unknown_one_is_told_what_there_is() {
        for resolution in Resolution::ALL {
            assert_eq!(resolution.to_string().parse(), Ok(resolution));
            assert_eq!(serde_json::to_value(resolution).unwrap(), resolution.as_str());
        }
        for ratio in AspectRatio::ALL {
            assert_eq!(ratio.to_string().parse(), Ok(ratio));
            assert_eq!(serde_json::to_value(ratio).unwrap(), ratio.as_str());
        }
        let unknown = "8K".parse::<Resolution>().unwrap_err();
        assert_eq!(unknown.to_string(), "must be one of 720p, 1080p, 4K");
    }
}
