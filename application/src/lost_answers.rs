//! Answers that a client wants to go on with and that this node does not have: their node died, or is another one, or has forgotten
//! them. What became of them is in the log.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    money::Microcredits,
    request::{
        Request,
        event::{Accepted, RequestEvent},
    },
};
use cqrs_es::Aggregate;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    answer::{
        Answer, AnswerEnd, Failed,
        name::{Wanted, only},
    },
    error::GatewayError,
    limits::Running,
    ports::{client_requests::ClientRequests, event_log::EventLog},
    principal::Principal,
    shares::Held,
};

/// How long a client waits for what it is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is worth asking again what became of a request that has not ended: a node is missed after some seconds.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// So many are looked up at the same time.
const LOOK_UPS: usize = 2;
/// The same of looks whether somebody else has the name. They wait for the log's readers, and take next to nothing meanwhile.
const CHECKS: usize = 16;

/// Makes keys out of clients' names for their requests.
const CLIENT_NAMESPACE: Uuid = Uuid::from_u128(0x8c0f_41d7_6b1e_4e0d_9d53_7a2e_18c4_b96f);

/// Looks up what became of them.
pub struct LostAnswers {
    log: Arc<dyn EventLog>,
    requests: Arc<dyn ClientRequests>,
    tasks: TaskTracker,
    turns: Semaphore,
    checks: Semaphore,
}

/// What the log has of the latest request under this name: the same for the same user, account and name, and nothing that tells the
/// name, which may be anything that a client likes.
pub fn client_key(principal: &Principal, client_id: &str) -> Uuid {
    // The lengths keep two different names from spelling the same text.
    let (account, user) = (&principal.account, &principal.user);
    let name = format!("{}:{account}{}:{user}{client_id}", account.len(), user.len());
    Uuid::new_v5(&CLIENT_NAMESPACE, name.as_bytes())
}

impl LostAnswers {
    pub fn new(log: Arc<dyn EventLog>, requests: Arc<dyn ClientRequests>, tasks: TaskTracker) -> Self {
        Self { log, requests, tasks, turns: Semaphore::new(LOOK_UPS), checks: Semaphore::new(CHECKS) }
    }

    /// An answer that ends with what became of the one that is meant, once that is known. Nobody is kept waiting meanwhile, and
    /// `room` is what it takes; it counts as a request of its user's that is `running`.
    pub fn look_up(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        wanted: Wanted,
        room: Held,
        running: Running,
    ) -> Arc<Answer> {
        let answer = Arc::new(Answer::new(room, 0));
        let (lost, principal, told) = (self.clone(), principal.clone(), answer.clone());
        self.tasks.spawn(async move {
            let end = timeout(PATIENCE, lost.end(&principal, &wanted)).await;
            let end = end.unwrap_or_else(|_| GatewayError::unavailable().into());
            told.end(AnswerEnd::Failed(end));
            drop(running);
        });
        answer
    }

    /// That a name that is said without its connection means this one request, on whichever node.
    pub async fn require_only(
        &self,
        principal: &Principal,
        client_id: &str,
        request_id: &str,
    ) -> Result<(), GatewayError> {
        let find = async {
            let _turn = self.checks.acquire().await;
            self.requests.find(client_key(principal, client_id), None).await
        };
        let found = match timeout(PATIENCE, find).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(away(&error)),
            Err(_) => return Err(GatewayError::unavailable()),
        };
        only(found.iter().map(String::as_str).chain([request_id])).map(drop)
    }

    async fn find(
        &self,
        principal: &Principal,
        client_id: &str,
        connection: Option<Uuid>,
    ) -> Result<Option<String>, GatewayError> {
        match self.requests.find(client_key(principal, client_id), connection).await {
            Ok(found) => Ok(only(found.iter().map(String::as_str))?.map(str::to_owned)),
            Err(error) => Err(away(&error)),
        }
    }

    async fn end(&self, principal: &Principal, wanted: &Wanted) -> Failed {
        let _turn = self.turns.acquire().await;
        let found = match wanted {
            Wanted::Request(request_id) => Ok(Some(request_id.clone())),
            Wanted::Called { id, connection } => self.find(principal, id, *connection).await,
        };
        match found {
            Ok(Some(request_id)) => self.end_of(principal, request_id).await,
            Ok(None) => GatewayError::NothingToResume.into(),
            Err(error) => error.into(),
        }
    }

    async fn end_of(&self, principal: &Principal, request_id: String) -> Failed {
        let events = match self.log.load(Request::TYPE, &request_id, 0).await {
            Ok(events) => events,
            Err(error) => return GatewayError::outside(&error).into(),
        };
        let mut accepted: Option<Box<Accepted>> = None;
        for event in events {
            match event.decode(Request::TYPE, &request_id) {
                Ok(RequestEvent::RequestAccepted(acceptance)) => {
                    if (&acceptance.account, &acceptance.user) != (&principal.account, &principal.user) {
                        return GatewayError::OthersAnswer.into();
                    }
                    accepted = Some(acceptance);
                }
                Ok(end) => return lost(request_id, &end),
                Err(error) => return GatewayError::internal(&error).into(),
            }
        }
        let Some(accepted) = accepted else { return GatewayError::NothingToResume.into() };
        match self.requests.is_alive(&accepted.node).await {
            Ok(is_alive) => GatewayError::AnswerElsewhere {
                request_id,
                node: is_alive.then(|| accepted.node.clone()),
                retry_after: ASK_AGAIN_AFTER,
            }
            .into(),
            Err(error) => {
                tracing::warn!(error.message = format!("{error:#}"), "whether a node is alive cannot be looked up");
                GatewayError::unavailable().into()
            }
        }
    }
}

fn away(error: &anyhow::Error) -> GatewayError {
    tracing::warn!(error.message = format!("{error:#}"), "what became of an answer cannot be looked up");
    GatewayError::unavailable()
}

/// The honest end of an answer that is not here any more, with what was charged.
fn lost(request_id: String, end: &RequestEvent) -> Failed {
    let ended = match end {
        RequestEvent::RequestAccepted(_) | RequestEvent::RequestAbandoned { .. } => "abandoned",
        RequestEvent::RequestCompleted { .. } => "completed",
        RequestEvent::RequestFailed { .. } => "failed",
        RequestEvent::RequestCancelled { .. } => "cancelled",
    };
    let charged = end.outcome().map_or(Microcredits::ZERO, |outcome| outcome.charge.amount);
    Failed { error: GatewayError::AnswerLost { request_id, ended, charged }, charged }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::principal::Capabilities;

    fn principal(account: &str, user: &str) -> Principal {
        Principal {
            user: user.to_owned(),
            account: account.to_owned(),
            roles: vec![],
            expires_at: DateTime::UNIX_EPOCH,
            capabilities: Capabilities::default(),
        }
    }

    #[test]
    fn a_key_is_of_one_name_of_one_user_of_one_account() {
        let key = client_key(&principal("acme", "ann"), "1");
        assert_eq!(key, client_key(&principal("acme", "ann"), "1"));
        for (account, user, id) in
            [("acme", "ann", "2"), ("acme", "an", "n1"), ("acm", "eann", "1"), ("acme2", "ann", "1")]
        {
            assert_ne!(key, client_key(&principal(account, user), id), "{account} {user} {id}");
        }
    }
}
