//! Content that is erased: first the log says so. Whoever keeps the keys destroys them because of that.

use std::sync::Arc;

use aihub_domain::{
    retention::{self, Retention, RetentionCommand, RetentionEvent},
    subject::{Subject, SubjectCommand, SubjectEvent},
};
use anyhow::bail;
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::ports::event_log::{AppendError, EventLog, Metadata, NewEvent, StreamAppend, Unit};

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
    let position = record(log, subject, metadata, |events: &[SubjectEvent]| {
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

/// Records which months' content is too old by now, if that has changed; the first month that is kept.
pub async fn expire_content(
    log: &dyn EventLog,
    retention_days: u32,
    now: DateTime<Utc>,
    node: &str,
) -> anyhow::Result<Option<NaiveDate>> {
    let metadata = Arc::new(Metadata::from([
        ("actor", "expire_content".to_owned()),
        ("correlationId", format!("retention:{}", now.date_naive())),
        ("node", node.to_owned()),
    ]));
    let mut kept = None;
    record(log, retention::STREAM, &metadata, |events: &[RetentionEvent]| {
        let mut state = Retention::default();
        for event in events {
            state.evolve(event);
        }
        let decided = state.decide(RetentionCommand::ExpireContent { retention_days, now })?;
        kept = decided.first().map(|RetentionEvent::ContentExpired { before, .. }| *before);
        Ok(decided)
    })
    .await?;
    Ok(kept)
}

/// Appends what `decide` makes of the stream's events; the position of the first. `None` if that is nothing.
async fn record<E>(
    log: &dyn EventLog,
    id: &str,
    metadata: &Arc<Metadata>,
    mut decide: impl FnMut(&[E]) -> anyhow::Result<Vec<E>>,
) -> anyhow::Result<Option<u64>>
where
    E: DomainEvent + Serialize + DeserializeOwned + StreamOf,
{
    for _ in 0..MAX_CONFLICTS {
        let stored = log.load(E::TYPE, id, 0).await?;
        let expected_sequence = stored.last().map_or(0, |event| event.sequence);
        let events = stored.into_iter().map(|event| event.decode(E::TYPE, id)).collect::<Result<Vec<E>, _>>()?;
        let decided = decide(&events)?;
        if decided.is_empty() {
            return Ok(None);
        }
        let stream = StreamAppend {
            aggregate_type: E::TYPE,
            aggregate_id: id.to_owned(),
            expected_sequence,
            events: decided.iter().map(NewEvent::of).collect::<Result<_, _>>()?,
        };
        let unit = Unit { command_id: Uuid::now_v7(), streams: vec![stream], metadata: metadata.clone(), basis: None };
        match log.append(unit).await {
            Ok(appended) => return Ok(Some(appended.position)),
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{MAX_CONFLICTS} times another writer was first on {} {id}", E::TYPE)
}

/// Whose events they are.
trait StreamOf {
    const TYPE: &'static str;
}

impl StreamOf for SubjectEvent {
    const TYPE: &'static str = <Subject as Aggregate>::TYPE;
}

impl StreamOf for RetentionEvent {
    const TYPE: &'static str = <Retention as Aggregate>::TYPE;
}
