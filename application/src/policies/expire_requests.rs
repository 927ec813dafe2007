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
    error::Outside as _,
    ports::event_log::{EventLog, LoadError, Metadata, StreamAppend},
};

/// A request that has not ended, though nobody drives it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedRequest {
    pub request_id: String,
    pub account: String,
    /// Why nobody does: its node has not been heard of, or its deadline has passed.
    pub reason: String,
    /// When it was found to be one.
    pub found_at: DateTime<Utc>,
}

/// Where such requests are found. What it says may be behind the log: what has ended since is left alone.
pub trait OrphanedRequests: Send + Sync {
    /// Some of them, oldest first.
    fn find(&self) -> BoxFuture<'_, anyhow::Result<Vec<OrphanedRequest>>>;
}

/// Ends every orphaned request that is found. Returns how many were ended now.
pub async fn expire_requests(
    accounts: &Accounts,
    log: &dyn EventLog,
    orphaned: &dyn OrphanedRequests,
    node: &str,
) -> anyhow::Result<usize> {
    let mut ended = 0;
    for request in orphaned.find().await? {
        let metadata = Arc::new(Metadata::from([
            ("actor", "expire_requests".to_owned()),
            ("correlationId", request.request_id.clone()),
            ("node", node.to_owned()),
        ]));
        let ended_now = match load(log, &request.request_id).await {
            Ok(state) => end(accounts, &state, &request, &metadata).await,
            Err(error) => Err(error.into()),
        };
        match ended_now {
            Ok(true) => {
                tracing::warn!(request.id = %request.request_id, reason = %request.reason, "an orphaned request was ended");
                metrics::counter!("aihub_requests_abandoned_total").increment(1);
                ended += 1;
            }
            Ok(false) => {}
            // The next request would fare no better.
            Err(error) if error.is_outage() => return Err(error.into()),
            // One that cannot be ended does not keep the others from it.
            Err(error) => {
                tracing::error!(request.id = %request.request_id, error.message = %error, "an orphaned request cannot be ended");
            }
        }
    }
    Ok(ended)
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
    metadata: &Arc<Metadata>,
) -> Result<bool, ExecuteError> {
    let abandon = RequestCommand::AbandonRequest { reason: request.reason.clone(), abandoned_at: request.found_at };
    let Ok(events) = state.decide(abandon) else { return Ok(false) };
    let companions = |_: &[_]| Ok(vec![StreamAppend::of::<Request>(&request.request_id, 1, &events)?]);
    let release = AccountCommand::ReleaseReservation {
        reservation_id: request.request_id.clone(),
        released_at: request.found_at,
    };
    match accounts.execute(&request.account, &release, &companions, metadata).await {
        Ok(_) => Ok(true),
        Err(ExecuteError::Refused(AccountError::NoSuchReservation(_)) | ExecuteError::CompanionConflict) => Ok(false),
        Err(error) => Err(error),
    }
}
