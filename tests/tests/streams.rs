//! Streams: many on one socket, each whole, whoever leaves meanwhile.

mod answers;
mod cuts;
mod departures;
mod idempotency;
mod names;
mod readers;
