//! Kafka, with librdkafka's own brokers: events leave, and come back into views. `kafka_broker.rs` does it with a real one.

mod projector;
mod relay;
