//! A request whose process died is ended and its hold released. First the end, then the money; both in one commit.

use std::sync::Arc;

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
    request::{Request, command::RequestCommand, event::RequestEvent},
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures::future::BoxFuture;

use crate::{
    accounts::{Accounts, ExecuteError},
    ports::event_log::{AppendError, EventLog, LoadError, Metadata, NewEvent, StreamAppend},
};

/// A request that has not ended, though nobody drives it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedRequest {
    pub request_id: String,
    pub account: String,
    /// Why nobody does: its node has not been heard of, or its deadline has passed.
    pub reason: String,
}

/// Where such requests are found. What it says may be behind the log: what has ended since is left alone.
pub trait OrphanedRequests: Send + Sync {
    /// Some of them, oldest first.
    fn find(&self, now: DateTime<Utc>) -> BoxFuture<'_, anyhow::Result<Vec<OrphanedRequest>>>;
}

/// Ends every orphaned request that is found. Returns how many were ended now.
pub async fn expire_requests(
    accounts: &Accounts,
    log: &dyn EventLog,
    orphaned: &dyn OrphanedRequests,
    now: DateTime<Utc>,
    node: &str,
) -> anyhow::Result<usize> {
    let mut ended = 0;
    for request in orphaned.find(now).await? {
        let metadata = Arc::new(Metadata::from([
            ("actor", "expire_requests".to_owned()),
            ("correlationId", request.request_id.clone()),
            ("node", node.to_owned()),
        ]));
        let ended_now = match load(log, &request.request_id).await {
            Ok(state) => end(accounts, &state, &request, now, &metadata).await,
            Err(error) => Err(error.into()),
        };
        match ended_now {
            Ok(true) => {
                tracing::warn!(request.id = %request.request_id, reason = %request.reason, "an orphaned request was ended");
                metrics::counter!("aihub_requests_abandoned_total").increment(1);
                ended += 1;
            }
            Ok(false) => {}
            Err(error) if is_outage(&error) => return Err(error.into()),
            // One that cannot be ended does not keep the others from it.
            Err(error) => {
                tracing::error!(request.id = %request.request_id, error.message = %error, "an orphaned request cannot be ended");
            }
        }
    }
    Ok(ended)
}

/// Whether the log is to blame: the next request would fare no better, and this one may later.
pub(crate) fn is_outage(error: &ExecuteError) -> bool {
    matches!(
        error,
        ExecuteError::Append(AppendError::Unavailable(_) | AppendError::Overloaded)
            | ExecuteError::Load(LoadError::Unavailable(_))
    )
}

/// As the log has it: its end says again what its acceptance said.
async fn load(log: &dyn EventLog, request_id: &str) -> Result<Request, LoadError> {
    let mut request = Request::default();
    for event in log.load(Request::TYPE, request_id, 0).await? {
        let event: RequestEvent = event.decode(Request::TYPE, request_id)?;
        request.evolve(&event);
    }
    Ok(request)
}

/// Ends one, and releases what is held for it. `false` when it has ended already.
pub(crate) async fn end(
    accounts: &Accounts,
    state: &Request,
    request: &OrphanedRequest,
    now: DateTime<Utc>,
    metadata: &Arc<Metadata>,
) -> Result<bool, ExecuteError> {
    let abandon = RequestCommand::AbandonRequest { reason: request.reason.clone(), abandoned_at: now };
    let Ok(events) = state.decide(abandon) else { return Ok(false) };
    let companions = |_: &[_]| {
        Ok(vec![StreamAppend {
            aggregate_type: Request::TYPE,
            aggregate_id: request.request_id.clone(),
            expected_sequence: 1,
            events: events.iter().map(NewEvent::of).collect::<Result<_, _>>()?,
        }])
    };
    let release = AccountCommand::ReleaseReservation { reservation_id: request.request_id.clone(), released_at: now };
    match accounts.execute(&request.account, &release, &companions, metadata).await {
        Ok(_) => Ok(true),
        Err(ExecuteError::Refused(AccountError::NoSuchReservation(_)) | ExecuteError::CompanionConflict) => Ok(false),
        Err(error) => Err(error),
    }
}
