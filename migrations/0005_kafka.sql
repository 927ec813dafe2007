-- Views that are fed from Kafka, see `infrastructure/src/kafka/projector.rs`: from where each partition is read on. A
-- row moves in the transaction that the views move in, so what stands before its offset is in them.
CREATE TABLE kafka_offsets (
    consumer_group text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    partition      integer          NOT NULL,
    next_offset    bigint           NOT NULL,
    -- Of which cluster: in another one the same offset is another event.
    cluster_id     text             NOT NULL,
    -- The position that the views had then. They are only read on from here if they have not been set back since.
    position       bigint           NOT NULL,
    updated_at     timestamptz      NOT NULL,
    CONSTRAINT kafka_offsets_partition PRIMARY KEY (consumer_group, topic, partition)
);
