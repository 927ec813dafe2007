//! Frames that are wrong, and bytes that are no frames.

mod deflated;
mod ends;
mod malformed;
mod noise;
