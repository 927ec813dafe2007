//! How large a picture is, and how many tokens it can count for.
//!
//! Models cut pictures into patches and count those. Anthropic's patches have 28 pixels a side and count as one token each, up
//! to 4,784 a picture (<https://platform.claude.com/docs/en/build-with-claude/vision>); those of `OpenAI`'s current models have
//! 32 pixels and count as 1.2, which is less than patches of 28 and a hundred tokens
//! (<https://developers.openai.com/api/docs/guides/images-vision>); Pixtral's have 16, and no model that we know of has finer
//! ones. `OpenAI`'s older models count tiles, up to a most.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::num::NonZeroU32;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::ports::provider::prompt::Extent;

/// For what stands around a picture, and for models whose smallest ones count as more than a patch.
const TOKENS_AROUND: u64 = 100;
/// The finest patches of a model that says nothing about its own, in pixels a side.
const FINEST_PATCH_PX: u64 = 16;
/// What a pixel can take at most: four channels of 16 bits. A file with more bytes than its pixels explain is counted as if
/// it had as many pixels as it has room for: its header may not tell the truth.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// How a model counts pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pictures {
    /// A token's patch, in pixels a side. Without it, and with `tokens_max`, each counts as that.
    pub patch_px: Option<NonZeroU32>,
    /// No picture counts as more; `None` where there is no such bound. Only with it can pictures be given by address.
    pub tokens_max: Option<u32>,
}

impl Pictures {
    /// What a picture counts for at most; `None` where that is not known.
    pub fn tokens(&self, extent: Extent) -> Option<u64> {
        let most = self.tokens_max.map(u64::from);
        let Extent::Inline { width_px, height_px, bytes } = extent else { return most };
        let patch_px = match (self.patch_px, most) {
            (Some(patch_px), _) => u64::from(patch_px.get()),
            (None, None) => FINEST_PATCH_PX,
            (None, most) => return most,
        };
        let patches = width_px.div_ceil(patch_px).saturating_mul(height_px.div_ceil(patch_px));
        let room = (bytes / MAX_BYTES_PER_PIXEL).div_ceil(patch_px.saturating_mul(patch_px));
        let tokens = patches.max(room).saturating_add(TOKENS_AROUND);
        Some(most.map_or(tokens, |most| tokens.min(most)))
    }
}

/// How large the picture at `url` is: an `http` or `https` address, or a data URI. The error says what is wrong with it.
pub fn extent(url: &str) -> Result<Extent, &'static str> {
    let Some(data) = url.strip_prefix("data:") else {
        let is_address = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
        return if is_address { Ok(Extent::Unknown) } else { Err("must be a data URI, or an http or https address") };
    };
    let formats = "must be a PNG, JPEG, WebP or GIF in base64: data:image/png;base64,…";
    let (media_type, data) = data.split_once(";base64,").ok_or(formats)?;
    if !["image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif"].contains(&media_type) {
        return Err(formats);
    }
    let picture = BASE64_STANDARD.decode(data).map_err(|_| "is not valid base64")?;
    let size =
        imagesize::blob_size(&picture).map_err(|_| "is not a picture that can be read: PNG, JPEG, WebP and GIF can")?;
    let length = |pixels: usize| u64::try_from(pixels).unwrap_or(u64::MAX);
    Ok(Extent::Inline { width_px: length(size.width), height_px: length(size.height), bytes: length(picture.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(patch_px: Option<u32>, tokens_max: Option<u32>) -> Pictures {
        Pictures { patch_px: patch_px.and_then(NonZeroU32::new), tokens_max }
    }

    fn inline(width_px: u64, height_px: u64) -> Extent {
        Extent::Inline { width_px, height_px, bytes: 1_000 }
    }

    /// A PNG's signature and header.
    fn png(width: u32, height: u32) -> String {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend(b"\x08\x06\0\0\0\0\0\0\0");
        format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
    }

    #[test]
    fn a_picture_never_counts_for_less_than_its_vendors_say() {
        let claude = pictures(Some(28), Some(4_784));
        for (width, height, counted) in [(1_000, 1_000, 1_296), (1_024, 1_024, 1_369), (1_920, 1_080, 2_691)] {
            let held = claude.tokens(inline(width, height)).unwrap();
            assert!((counted..=counted + TOKENS_AROUND).contains(&held), "{width}x{height}: {held}");
        }
        assert_eq!(claude.tokens(inline(4_032, 3_024)), Some(4_784));
        let openai = pictures(Some(28), None);
        for width in (1..4_000_u64).step_by(7) {
            for height in (1..4_000_u64).step_by(97) {
                let patches = width.div_ceil(32) * height.div_ceil(32);
                let held = openai.tokens(inline(width, height)).unwrap();
                assert!(held * 10 >= patches * 12, "{width}x{height}: {held}");
            }
        }
        assert_eq!(pictures(None, Some(48_169)).tokens(inline(1, 1)), Some(48_169), "tiles");
        assert_eq!(pictures(None, None).tokens(inline(160, 160)), Some(200), "the finest patches");
    }

    #[test]
    fn a_picture_by_address_counts_for_the_most_that_any_does_and_without_a_most_for_nothing_known() {
        assert_eq!(pictures(Some(28), Some(4_784)).tokens(Extent::Unknown), Some(4_784));
        assert_eq!(pictures(Some(28), None).tokens(Extent::Unknown), None);
        assert_eq!(pictures(None, None).tokens(Extent::Unknown), None);
    }

    #[test]
    fn a_header_that_makes_its_picture_small_is_not_believed_beyond_what_its_bytes_allow() {
        let small = Extent::Inline { width_px: 1, height_px: 1, bytes: 8 * 28 * 28 * 50 };
        assert_eq!(pictures(Some(28), None).tokens(small), Some(50 + TOKENS_AROUND));
        let huge = Extent::Inline { width_px: u64::MAX, height_px: u64::MAX, bytes: u64::MAX };
        assert_eq!(pictures(Some(1), None).tokens(huge), Some(u64::MAX), "and nothing wraps");
    }

    #[test]
    fn a_picture_is_read_or_refused() {
        assert!(matches!(extent(&png(640, 480)), Ok(Extent::Inline { width_px: 640, height_px: 480, .. })));
        assert_eq!(extent("https://a.example/b.png"), Ok(Extent::Unknown));
        for unreadable in [
            "",
            "file:///etc/passwd",
            "data:",
            "data:image/png,x",
            "data:image/svg+xml;base64,PHN2Zy8+",
            "data:application/pdf;base64,JVBERi0=",
            "data:image/png;base64,%%%",
            "data:image/png;base64,aGVsbG8=",
        ] {
            assert!(extent(unreadable).is_err(), "{unreadable}");
        }
    }
}
