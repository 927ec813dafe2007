//! An aggregate for the tests of the cqrs-es stores.

use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub balance: i64,
}

pub enum Command {
    Deposit(i64),
    Withdraw(i64),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
}

#[derive(Debug, Error)]
#[error("only {balance} are there")]
pub struct Overdrawn {
    balance: i64,
}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        match self {
            Self::Deposited { .. } => "Deposited".to_owned(),
            Self::Withdrawn { .. } => "Withdrawn".to_owned(),
        }
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Aggregate for Account {
    const TYPE: &'static str = "Account";
    type Command = Command;
    type Event = Event;
    type Error = Overdrawn;
    type Services = ();

    async fn handle(&mut self, command: Command, (): &(), sink: &EventSink<Self>) -> Result<(), Overdrawn> {
        match command {
            Command::Withdraw(amount) if amount > self.balance => Err(Overdrawn { balance: self.balance }),
            Command::Withdraw(amount) => {
                sink.write(Event::Withdrawn { amount }, self).await;
                Ok(())
            }
            Command::Deposit(amount) => {
                sink.write(Event::Deposited { amount }, self).await;
                Ok(())
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Deposited { amount } => self.balance += amount,
            Event::Withdrawn { amount } => self.balance -= amount,
        }
    }
}
