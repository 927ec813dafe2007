//! What authenticated callers are refused before anything is accepted, on its way into the log.
//!
//! A refusal is to stay cheap, and whoever causes many of them is not to fill the log with them. So none is written down by
//! itself: what one user is refused is counted for a moment, by its reasons, in bounded memory and off the request's path, and
//! is then told by one event. A process that is killed takes the last moment with it. What there is no room for is dropped,
//! and a counter says so. Only what comes from outside is counted: a workflow's own events tell what its steps were refused.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use aihub_domain::refusal::{Grounds, Reason, Refusal, RefusalCommand, Refused};
use chrono::{DateTime, Utc};
use metrics::counter;
use uuid::Uuid;

use crate::{
    error::GatewayError,
    ports::event_log::{AppendError, EventLog, Metadata, StreamAppend, Unit},
    principal::{Principal, is_identifier},
    request::AUTO,
};

/// How many users' refusals are kept until they are written down; what others are refused meanwhile is dropped.
const MAX_USERS: usize = 1_024;
/// How many reasons of one code are told apart for one user. Names can be made up without end: what goes beyond these is
/// counted together.
const MAX_REASONS: usize = 8;
/// The longest name that a caller gave and that is kept, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The account and the user.
type Whose = (String, String);

#[derive(Default)]
pub struct Refusals {
    kept: Mutex<BTreeMap<Whose, Vec<Reason>>>,
    /// What is on its way, one unit a user, and how many refusals it tells. Its outcome may be unknown: appended again under
    /// the same command id, it is in the log once.
    units: tokio::sync::Mutex<VecDeque<(Unit, u64)>>,
}

impl Refusals {
    /// Counts `error`, if it is a refusal.
    pub fn note(&self, principal: &Principal, error: &GatewayError, now: DateTime<Utc>) {
        let (Some(because), code) = (grounds(error), error.code()) else { return };
        counter!("aihub_refusals_total", "code" => code).increment(1);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let users = kept.len();
        let reasons = match kept.entry((principal.account.clone(), principal.user.clone())) {
            Entry::Vacant(_) if users >= MAX_USERS => return dropped(code, 1),
            entry => entry.or_default(),
        };
        let is_known = |known: &Reason| {
            known.code == code && known.because.as_ref().is_some_and(|known| known.is_about_the_same(&because))
        };
        let told_apart = reasons.iter().filter(|known| known.code == code && known.because.is_some()).count();
        let because = (told_apart < MAX_REASONS || reasons.iter().any(is_known)).then_some(because);
        let same = |known: &&mut Reason| {
            known.code == code
                && match (&known.because, &because) {
                    (Some(known), Some(because)) => known.is_about_the_same(because),
                    (known, because) => known.is_none() && because.is_none(),
                }
        };
        match reasons.iter_mut().find(same) {
            Some(known) => {
                known.count += 1;
                known.last_at = now;
                known.because = because;
            }
            None => reasons.push(Reason { code: code.to_owned(), count: 1, first_at: now, last_at: now, because }),
        }
    }

    /// Writes down what was counted since the last time. What the log does not take now is kept for the next time, and
    /// until then nothing more is taken out of the count.
    pub async fn write_down(&self, log: &dyn EventLog, node: &str) -> Result<(), AppendError> {
        let mut units = self.units.lock().await;
        append(&mut units, log).await?;
        let counted = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        for ((account, user), reasons) in counted {
            let count = count(&reasons);
            match unit(Refused { account, user, reasons }, node) {
                Some(unit) => units.push_back((unit, count)),
                None => dropped("*", count),
            }
        }
        append(&mut units, log).await
    }

    /// Lets go of what is not in the log, as far as is known, when nobody will write it down any more; how many refusals.
    pub fn give_up(&self) -> u64 {
        let counted = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let counted: u64 = counted.values().map(|reasons| count(reasons)).sum();
        let under_way: u64 = self.units.try_lock().map_or(0, |mut units| units.drain(..).map(|(_, count)| count).sum());
        dropped("*", counted + under_way);
        counted + under_way
    }
}

/// One after another: this is in nobody's way, and nobody waits for it.
async fn append(units: &mut VecDeque<(Unit, u64)>, log: &dyn EventLog) -> Result<(), AppendError> {
    while let Some((unit, count)) = units.front() {
        match log.append(unit.clone()).await {
            Err(error @ (AppendError::Overloaded | AppendError::Unavailable(_))) => return Err(error),
            Err(error) => {
                tracing::error!(error.message = %error, "what was refused cannot be written down");
                dropped("*", *count);
            }
            Ok(_) => {}
        }
        units.pop_front();
    }
    Ok(())
}

fn count(reasons: &[Reason]) -> u64 {
    reasons.iter().map(|reason| reason.count).sum()
}

/// What one user was refused. The stream is named after the account, so that its trail finds it. `None` cannot be: the event
/// is the stream's first, and made of texts and numbers.
fn unit(refused: Refused, node: &str) -> Option<Unit> {
    let command_id = Uuid::now_v7();
    let aggregate_id = format!("{}:{command_id}", refused.account);
    let metadata = Metadata::from([
        ("actor", refused.user.clone()),
        ("correlationId", command_id.to_string()),
        ("node", node.to_owned()),
    ]);
    let events = Refusal::default().decide(RefusalCommand::RecordRefusals(Box::new(refused))).ok()?;
    let stream = StreamAppend::of::<Refusal>(&aggregate_id, 0, &events).ok()?;
    Some(Unit { command_id, streams: vec![stream], metadata: Arc::new(metadata), basis: None })
}

fn dropped(code: &'static str, count: u64) {
    counter!("aihub_refusals_dropped_total", "code" => code).increment(count);
}

/// What the refusal was decided on; `None` where the error is none: faulty input, repetitions and failures say nothing
/// about what somebody may or has.
fn grounds(error: &GatewayError) -> Option<Grounds> {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Some(match error {
        GatewayError::InsufficientCredits { available, required, .. } => {
            Grounds::Credits { available_microcredits: *available, required_microcredits: *required }
        }
        GatewayError::UsageLimitExceeded { period, limit, used, required, .. } => Grounds::UsageLimit {
            period: *period,
            limit_microcredits: *limit,
            used_microcredits: *used,
            required_microcredits: *required,
        },
        GatewayError::RateLimitExceeded { what, scope, limit, .. } => {
            Grounds::Rate { too_many: (*what).to_owned(), scope: scope.as_str().to_owned(), limit: *limit }
        }
        GatewayError::QueueFull { running, waiting, .. } => {
            Grounds::Queue { running: count(*running), waiting: count(*waiting) }
        }
        GatewayError::Forbidden(missing) => Grounds::Capability {
            needed: missing.needed().to_owned(),
            model: missing.with().and_then(|with| name(&with.model)),
            provider: missing.with().and_then(|with| name(with.provider.as_deref()?)),
        },
        GatewayError::ModelNotFound { model, provider, .. } => {
            Grounds::Model { model: name(model), provider: asked_provider(provider) }
        }
        GatewayError::VideoNotOffered { asked, .. } => Grounds::Video {
            asked: asked.format.clone(),
            model: asked.model.as_deref().and_then(name),
            provider: asked_provider(&asked.provider),
        },
        GatewayError::AccountNotOpen { .. } => Grounds::AccountNotOpen,
        GatewayError::Erased { .. } => Grounds::Erased,
        GatewayError::OthersToken { account, user } => Grounds::Token { account: account.clone(), user: user.clone() },
        GatewayError::Validation(_)
        | GatewayError::DuplicateRequest { .. }
        | GatewayError::ShuttingDown
        | GatewayError::AllProvidersFailed { .. }
        | GatewayError::StreamInterrupted { .. }
        | GatewayError::Timeout { .. }
        | GatewayError::NothingToResume
        | GatewayError::OthersAnswer
        | GatewayError::EndedAlready { .. }
        | GatewayError::AmbiguousName { .. }
        | GatewayError::AnswerLost { .. }
        | GatewayError::AnswerElsewhere { .. }
        | GatewayError::Unavailable { .. }
        | GatewayError::Internal { .. } => return None,
    })
}

fn asked_provider(provider: &str) -> Option<String> {
    if provider == AUTO { None } else { name(provider) }
}

/// A name that a caller gave, where it looks like one. Anything else may be content that came into the wrong field.
fn name(text: &str) -> Option<String> {
    (text.len() <= MAX_NAME_BYTES && is_identifier(text)).then(|| text.to_owned())
}
