//! Streams: many on one socket, each whole, whoever leaves meanwhile.

mod answers;
mod departures;
mod idempotency;
mod names;
mod readers;
