//! Whose signatures count: the keys that the log names, in the order in which it does.
//!
//! Whoever can write to the database can write such an event as well, so the log alone makes nobody trust a key. Trust comes from
//! outside, with the keys that whoever verifies brings along, and goes from a key to the one that it has endorsed. A former key's
//! checkpoints count as far as one that is trusted has signed the log with all that they say.

use aihub_application::ports::{
    clock::Clock,
    event_log::{Metadata, NewEvent},
};
use aihub_domain::audit_key::{self, AuditKeyCommand, AuditKeyEvent, AuditKeys, KeyIntroduction};
use cqrs_es::Aggregate;
use sqlx::PgExecutor;

use super::{
    AuditError,
    note::{SigningKey, VerifierKey},
};
use crate::{
    database::Database,
    event_store::{reader, still_log::LogStopper},
};

/// The keys that the log names.
#[derive(Debug, Clone, Default)]
pub struct Signers(Vec<Introduced>);

#[derive(Debug, Clone)]
struct Introduced {
    position: u64,
    key: VerifierKey,
    endorsement: Option<String>,
}

impl Signers {
    pub async fn of_log(executor: impl PgExecutor<'_>) -> Result<Self, AuditError> {
        let events = reader::stream_from(executor, AuditKeys::TYPE, audit_key::STREAM, 1).await?;
        // What is no introduction, as somebody may have put there, introduces nobody.
        let introduced = events.into_iter().filter_map(|event| {
            let AuditKeyEvent::AuditKeyIntroduced(introduction) = event.decode().ok()?;
            let key = introduction.key.parse().ok()?;
            Some(Introduced { position: event.position, key, endorsement: introduction.endorsement })
        });
        Ok(Self(introduced.collect()))
    }

    /// The one that signs now.
    pub fn current(&self) -> Option<&VerifierKey> {
        self.0.last().map(|introduced| &introduced.key)
    }

    /// Those that are trusted because `known` are: these, and those that one of them endorsed.
    pub fn trusted(&self, known: &[VerifierKey]) -> Vec<VerifierKey> {
        let mut trusted = known.to_vec();
        let mut former: Option<&VerifierKey> = None;
        for Introduced { key, endorsement, .. } in &self.0 {
            let endorsed = former.zip(endorsement.as_deref());
            let is_endorsed =
                endorsed.is_some_and(|(by, signature)| trusted.contains(by) && by.endorsed(key, signature));
            if is_endorsed && !trusted.contains(key) {
                trusted.push(key.clone());
            }
            former = Some(key);
        }
        trusted
    }

    /// All that were introduced.
    pub fn all(&self) -> Vec<VerifierKey> {
        self.0.iter().map(|introduced| introduced.key.clone()).collect()
    }

    /// In words; `None` where there was never another one.
    pub fn changes(&self) -> Option<String> {
        let changes: Vec<String> =
            self.0.iter().map(|one| format!("{} from position {} on", one.key, one.position)).collect();
        (changes.len() > 1).then(|| changes.join(", then "))
    }
}

/// Sees to it that the log knows the key before it signs anything; the first one introduces itself. `false` for an empty log.
pub async fn require(database: &Database, key: &SigningKey, clock: &dyn Clock) -> Result<bool, AuditError> {
    let ours = key.verifier();
    for _ in 0..2 {
        if reader::head(database.pool()).await?.position == 0 {
            return Ok(false);
        }
        match Signers::of_log(database.pool()).await?.current() {
            Some(current) if *current == ours => return Ok(true),
            Some(current) => return Err(AuditError::ForeignKey { ours: ours.to_string(), known: current.to_string() }),
            None => {
                let first = KeyIntroduction {
                    key: ours.to_string(),
                    endorsement: None,
                    actor: "checkpoint".to_owned(),
                    reason: "the first key of this log".to_owned(),
                    introduced_at: clock.now(),
                };
                // Another node may be first with the same or another key: then that is seen now.
                if let Err(error) = append_first(database, first).await {
                    tracing::debug!(error.message = format!("{error:#}"), "another node has introduced its key first");
                }
            }
        }
    }
    Err(AuditError::Incomplete("the key could not be introduced to the log".to_owned()))
}

async fn append_first(database: &Database, introduction: KeyIntroduction) -> anyhow::Result<()> {
    let metadata = Metadata::from([
        ("actor", introduction.actor.clone()),
        ("correlationId", format!("audit-key:{}", introduction.key)),
        ("node", "checkpoint".to_owned()),
    ]);
    let events = AuditKeys::default().decide(AuditKeyCommand::IntroduceKey(introduction))?;
    let mut stopper = LogStopper::connect(database).await?;
    for event in &events {
        let still = stopper.stop().await?;
        still.append_first(AuditKeys::TYPE, audit_key::STREAM, &NewEvent::of(event)?, &metadata).await?;
    }
    Ok(())
}
