//! A request for an answer from a model: accepted once, ended once.

pub mod command;
pub mod event;
#[cfg(test)]
mod tests;

use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use command::RequestCommand;
use event::RequestEvent;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    status: RequestStatus,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// Not accepted yet.
    #[default]
    New,
    Accepted,
    Completed,
    Failed,
    Cancelled,
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    #[error("the request was accepted before")]
    AlreadyAccepted,
    #[error("the request was never accepted")]
    NotAccepted,
    #[error("the request has ended already: {0:?}")]
    AlreadyEnded(RequestStatus),
}

impl Request {
    /// As it stands after its acceptance. For whoever accepted it, or knows that it was, and need not load it: the
    /// log still refuses a second end.
    pub fn accepted() -> Self {
        Self { status: RequestStatus::Accepted }
    }

    pub fn status(&self) -> RequestStatus {
        self.status
    }

    pub fn decide(&self, command: RequestCommand) -> Result<Vec<RequestEvent>, RequestError> {
        match (self.status, command) {
            (RequestStatus::New, RequestCommand::AcceptRequest(accepted)) => {
                Ok(vec![RequestEvent::RequestAccepted(accepted)])
            }
            (_, RequestCommand::AcceptRequest(_)) => Err(RequestError::AlreadyAccepted),
            (RequestStatus::New, _) => Err(RequestError::NotAccepted),
            (RequestStatus::Accepted, RequestCommand::CompleteRequest(outcome)) => {
                Ok(vec![RequestEvent::RequestCompleted(outcome)])
            }
            (RequestStatus::Accepted, RequestCommand::FailRequest { code, outcome }) => {
                Ok(vec![RequestEvent::RequestFailed { code, outcome }])
            }
            (RequestStatus::Accepted, RequestCommand::CancelRequest { reason, outcome }) => {
                Ok(vec![RequestEvent::RequestCancelled { reason, outcome }])
            }
            (RequestStatus::Accepted, RequestCommand::AbandonRequest { reason, abandoned_at }) => {
                Ok(vec![RequestEvent::RequestAbandoned { reason, abandoned_at }])
            }
            (ended, _) => Err(RequestError::AlreadyEnded(ended)),
        }
    }

    pub fn evolve(&mut self, event: &RequestEvent) {
        self.status = match event {
            RequestEvent::RequestAccepted(_) => RequestStatus::Accepted,
            RequestEvent::RequestCompleted(_) => RequestStatus::Completed,
            RequestEvent::RequestFailed { .. } => RequestStatus::Failed,
            RequestEvent::RequestCancelled { .. } => RequestStatus::Cancelled,
            RequestEvent::RequestAbandoned { .. } => RequestStatus::Abandoned,
        };
    }
}

impl Aggregate for Request {
    const TYPE: &'static str = "request";
    type Command = RequestCommand;
    type Event = RequestEvent;
    type Error = RequestError;
    type Services = ();

    async fn handle(&mut self, command: RequestCommand, (): &(), sink: &EventSink<Self>) -> Result<(), RequestError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: RequestEvent) {
        self.evolve(&event);
    }
}
