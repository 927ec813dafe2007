//! What authenticated callers were refused before anything was accepted. Nothing changed by it, so nothing else in the log
//! says so. What one user is refused in a while is told together, by its reasons: each telling is a stream of its own.

#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{account, money::Microcredits};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    recorded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalCommand {
    RecordRefusals(Box<Refused>),
}

/// What one user was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub account: String,
    pub user: String,
    pub reasons: Vec<Reason>,
}

/// How often for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// As the caller was told: `INSUFFICIENT_CREDITS`.
    pub code: String,
    pub count: u64,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// What the last one was decided on; `None` where these are all others of the code, more than are told apart.
    pub because: Option<Grounds>,
}

/// What a refusal was decided on. A name that the caller made up stands in it only where it could be one: no content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grounds {
    Credits {
        available_microcredits: Microcredits,
        required_microcredits: Microcredits,
    },
    UsageLimit {
        period: account::Period,
        limit_microcredits: Microcredits,
        used_microcredits: Microcredits,
        required_microcredits: Microcredits,
    },
    Rate {
        /// `requests a minute`.
        too_many: String,
        /// For one `user`, `account`, `socket`, `address`, `request` or the whole `node`.
        scope: String,
        limit: u64,
    },
    /// The node, or a queue, is full.
    Queue {
        running: u64,
        waiting: u64,
    },
    Capability {
        /// What a role would have to grant.
        needed: String,
        model: Option<String>,
        provider: Option<String>,
    },
    Model {
        model: Option<String>,
        provider: Option<String>,
    },
    Video {
        /// `8 s of 720p in 16:9`.
        asked: String,
        model: Option<String>,
        provider: Option<String>,
    },
    /// The account was never granted anything.
    AccountNotOpen,
    /// The account's content was erased, and nothing more is taken for it.
    Erased,
    /// A good token, but of somebody else than the one whose socket it was brought to.
    Token {
        account: String,
        user: String,
    },
}

impl Grounds {
    /// Whether both say that the same is missing; how much there was of it may differ.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::UsageLimit { period: one, .. }, Self::UsageLimit { period: other, .. }) => one == other,
            (Self::Rate { too_many: one, scope, .. }, Self::Rate { too_many: other, scope: other_scope, .. }) => {
                (one, scope) == (other, other_scope)
            }
            (Self::Credits { .. }, Self::Credits { .. }) | (Self::Queue { .. }, Self::Queue { .. }) => true,
            _ => self == other,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalEvent {
    RequestsRefused(Refused),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RefusalError {
    #[error("what was refused is recorded once")]
    AlreadyRecorded,
}

impl Refusal {
    pub fn decide(&self, command: RefusalCommand) -> Result<Vec<RefusalEvent>, RefusalError> {
        let RefusalCommand::RecordRefusals(refused) = command;
        if self.recorded {
            Err(RefusalError::AlreadyRecorded)
        } else {
            Ok(vec![RefusalEvent::RequestsRefused(*refused)])
        }
    }

    pub fn evolve(&mut self, _: &RefusalEvent) {
        self.recorded = true;
    }
}

impl DomainEvent for RefusalEvent {
    fn event_type(&self) -> String {
        "RequestsRefused".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Refusal {
    const TYPE: &'static str = "refusal";
    type Command = RefusalCommand;
    type Event = RefusalEvent;
    type Error = RefusalError;
    type Services = ();

    async fn handle(&mut self, command: RefusalCommand, (): &(), sink: &EventSink<Self>) -> Result<(), RefusalError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: RefusalEvent) {
        self.evolve(&event);
    }
}
