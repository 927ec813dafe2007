//! A request for an answer from a model: accepted once, ended once.

pub mod command;
pub mod event;
#[cfg(test)]
mod tests;

use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use command::RequestCommand;
use event::{Asked, RequestEvent};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    status: RequestStatus,
    /// From its acceptance on.
    asked: Option<Asked>,
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
    pub fn accepted(asked: Asked) -> Self {
        Self { status: RequestStatus::Accepted, asked: Some(asked) }
    }

    pub fn status(&self) -> RequestStatus {
        self.status
    }

    pub fn decide(&self, command: RequestCommand) -> Result<Vec<RequestEvent>, RequestError> {
        let asked = match (self.status, &self.asked) {
            (RequestStatus::Accepted, Some(asked)) => Ok(asked.clone()),
            (RequestStatus::New | RequestStatus::Accepted, _) => Err(RequestError::NotAccepted),
            (ended, _) => Err(RequestError::AlreadyEnded(ended)),
        };
        let event = match command {
            RequestCommand::AcceptRequest(accepted) if self.status == RequestStatus::New => {
                RequestEvent::RequestAccepted(accepted)
            }
            RequestCommand::AcceptRequest(_) => return Err(RequestError::AlreadyAccepted),
            RequestCommand::CompleteRequest { client_left, outcome } => {
                RequestEvent::RequestCompleted { asked: asked?, client_left, outcome }
            }
            RequestCommand::FailRequest { code, outcome } => {
                RequestEvent::RequestFailed { asked: asked?, code, outcome }
            }
            RequestCommand::CancelRequest { reason, outcome } => {
                RequestEvent::RequestCancelled { asked: asked?, reason, outcome }
            }
            RequestCommand::AbandonRequest { reason, abandoned_at } => {
                RequestEvent::RequestAbandoned { asked: asked?, reason, abandoned_at }
            }
        };
        Ok(vec![event])
    }

    pub fn evolve(&mut self, event: &RequestEvent) {
        self.status = match event {
            RequestEvent::RequestAccepted(accepted) => {
                self.asked = Some(accepted.asked());
                RequestStatus::Accepted
            }
            RequestEvent::RequestCompleted { .. } => RequestStatus::Completed,
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
