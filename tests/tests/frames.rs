//! Frames that are wrong, and bytes that are no frames.

mod malformed;
mod noise;
