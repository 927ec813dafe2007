//! Content that is erased: first the log says so. Whoever keeps the keys destroys them because of that.

use std::sync::Arc;

use aihub_domain::{
    content::ContentKey,
    retention::{Retention, RetentionCommand},
    subject::{Subject, SubjectCommand, SubjectEvent},
};
use anyhow::bail;
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use uuid::Uuid;

use crate::ports::event_log::{AppendError, EventLog, Metadata, StreamAppend, Unit};

/// How often a command is decided again because another node was first.
const MAX_CONFLICTS: usize = 5;

/// What became of the command to erase a subject's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// The log says so from this position on.
    Recorded {
        position: u64,
    },
    Before {
        erased_at: DateTime<Utc>,
    },
}

/// Records that the subject's content is erased, once.
pub async fn erase_subject(
    log: &dyn EventLog,
    subject: &str,
    command: &SubjectCommand,
    metadata: &Arc<Metadata>,
) -> anyhow::Result<Erasure> {
    let mut state = Subject::default();
    let position = record(log, subject, metadata, |events| {
        state = Subject::default();
        for event in events {
            state.evolve(event);
        }
        Ok(state.decide(command.clone())?)
    })
    .await?;
    Ok(match (position, state.erased_at()) {
        (Some(position), _) => Erasure::Recorded { position },
        (None, Some(erased_at)) => Erasure::Before { erased_at },
        (None, None) => bail!("nothing was decided"),
    })
}

/// Records that the content under these keys is too old, at most [`MAX_KEYS`](aihub_domain::retention::MAX_KEYS) of them.
pub async fn expire_content(
    log: &dyn EventLog,
    keys: Vec<ContentKey>,
    expired_at: DateTime<Utc>,
    node: &str,
) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let metadata = Metadata::from([
        ("actor", "expire_content".to_owned()),
        ("correlationId", format!("retention:{}", expired_at.date_naive())),
        ("node", node.to_owned()),
    ]);
    let events = Retention::default().decide(RetentionCommand::ExpireContent { keys, expired_at })?;
    let stream = StreamAppend::of::<Retention>(&id.to_string(), 0, &events)?;
    log.append(Unit { command_id: id, streams: vec![stream], metadata: Arc::new(metadata), basis: None }).await?;
    Ok(())
}

/// Appends what the subject decides on its events, as long as another writer is first; the position. `None` if that is
/// nothing.
async fn record(
    log: &dyn EventLog,
    id: &str,
    metadata: &Arc<Metadata>,
    mut decide: impl FnMut(&[SubjectEvent]) -> anyhow::Result<Vec<SubjectEvent>>,
) -> anyhow::Result<Option<u64>> {
    for _ in 0..MAX_CONFLICTS {
        let stored = log.load(Subject::TYPE, id, 0).await?;
        let expected_sequence = stored.last().map_or(0, |event| event.sequence);
        let events = stored.into_iter().map(|event| event.decode(Subject::TYPE, id)).collect::<Result<Vec<_>, _>>()?;
        let decided = decide(&events)?;
        if decided.is_empty() {
            return Ok(None);
        }
        let stream = StreamAppend::of::<Subject>(id, expected_sequence, &decided)?;
        let unit = Unit { command_id: Uuid::now_v7(), streams: vec![stream], metadata: metadata.clone(), basis: None };
        match log.append(unit).await {
            Ok(appended) => return Ok(Some(appended.position)),
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{MAX_CONFLICTS} times another writer was first on {} {id}", Subject::TYPE)
}
