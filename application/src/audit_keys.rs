//! Another key is to sign what the log is: the log says so first.

use std::sync::Arc;

use aihub_domain::audit_key::{self, AuditKeyCommand, AuditKeyEvent, AuditKeys, KeyIntroduction};
use cqrs_es::Aggregate;
use uuid::Uuid;

use crate::ports::event_log::{EventLog, Metadata, StreamAppend, Unit};

/// Records the key, if it is not the one that signs already: where that stands in the log.
pub async fn introduce(
    log: &dyn EventLog,
    introduction: KeyIntroduction,
    metadata: &Arc<Metadata>,
) -> anyhow::Result<Option<u64>> {
    let mut keys = AuditKeys::default();
    let mut expected_sequence = 0;
    for event in log.load(AuditKeys::TYPE, audit_key::STREAM, 0).await? {
        expected_sequence = event.sequence;
        let event: AuditKeyEvent = event.decode(AuditKeys::TYPE, audit_key::STREAM)?;
        keys.evolve(&event);
    }
    let events = keys.decide(AuditKeyCommand::IntroduceKey(introduction))?;
    if events.is_empty() {
        return Ok(None);
    }
    let stream = StreamAppend::of::<AuditKeys>(audit_key::STREAM, expected_sequence, &events)?;
    let unit = Unit { command_id: Uuid::now_v7(), streams: vec![stream], metadata: metadata.clone(), basis: None };
    Ok(Some(log.append(unit).await?.position))
}
