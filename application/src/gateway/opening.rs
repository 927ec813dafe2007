//! The credits are held and the request is accepted, both in one commit, before any provider hears of it.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
    money::Microcredits,
    request::{
        Request,
        command::RequestCommand,
        event::{Accepted, Asked, RequestEvent},
    },
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;

use super::{
    Gateway, Job,
    closing::{FIRST_RETRY, SLOWEST_RETRY},
};
use crate::{
    accounts::ExecuteError,
    error::GatewayError,
    policies::expire_requests::{self, OrphanedRequest},
    ports::{
        event_log::{AppendError, Metadata, NewEvent, StreamAppend},
        vault::VaultError,
    },
    principal::Principal,
};

/// An acceptance that may have been committed.
struct Unconfirmed {
    request_id: String,
    account: String,
    accepted_at: DateTime<Utc>,
    metadata: Arc<Metadata>,
}

impl Gateway {
    /// Returns what is held for the request.
    pub(super) async fn open(self: &Arc<Self>, job: &Arc<Job>) -> Result<Microcredits, GatewayError> {
        if job.request.idempotency_key.is_some() {
            self.refuse_known_request(job).await?;
        }
        let Some(first) = job.candidates.first() else {
            return Err(GatewayError::internal("a request without candidates was submitted"));
        };
        let output_tokens = self.held_output_tokens(&job.request, first);
        let worst_case = first.price.worst_case(job.input_tokens, u64::from(output_tokens));
        // A model that costs nothing still holds something, so that every request has its reservation.
        let reserved = self.settings.rate.charge(worst_case).max(Microcredits(1));
        let content = job.request.content().map_err(|error| GatewayError::internal(&error))?;
        let account = &job.principal.account;
        let prompt = self.vault.seal(account, &job.id, &content).await.map_err(|error| match error {
            VaultError::Erased => GatewayError::Erased { account: account.clone() },
            error => GatewayError::internal(&error),
        })?;
        let now = self.clock.now();
        let Asked { account, user, kind, provider, model } = job.asked()?;
        let accepted = Accepted {
            account,
            user,
            kind,
            provider,
            model,
            stream: job.request.stream,
            input_tokens_estimate: job.input_tokens,
            max_output_tokens: u64::from(output_tokens),
            reserved_microcredits: reserved,
            price_id: first.price.id.clone(),
            node: self.settings.node.clone(),
            deadline_at: job.asked_at + self.settings.request_timeout,
            accepted_at: job.asked_at,
            prompt,
        };
        let events = Request::default()
            .decide(RequestCommand::AcceptRequest(Box::new(accepted)))
            .map_err(|error| GatewayError::internal(&error))?;
        let accept = request_append(&job.id, 0, &events).map_err(|error| GatewayError::internal(&error))?;
        let command =
            AccountCommand::ReserveCredits { reservation_id: job.id.clone(), amount: reserved, reserved_at: now };

        let mut executed = self.hold(job, &command, &accept).await;
        if let Err(ExecuteError::Refused(AccountError::NotOpen)) = executed
            && let Some(amount) = self.settings.welcome_credits
        {
            self.welcome(&job.principal, amount).await?;
            executed = self.hold(job, &command, &accept).await;
        }
        match executed {
            Ok(()) => Ok(reserved),
            // Another node got the same idempotency key first; where its request is still running, its reservation is.
            Err(ExecuteError::CompanionConflict | ExecuteError::Refused(AccountError::ReservationExists(_))) => {
                Err(already_used(job))
            }
            Err(ExecuteError::Refused(refused)) => {
                Err(GatewayError::from_account(refused, &job.principal.account, now))
            }
            // Nothing was committed, and it may well be the next time.
            Err(ExecuteError::Append(AppendError::Overloaded) | ExecuteError::Contended) => {
                Err(GatewayError::QueueFull {
                    running: self.limits.running(),
                    waiting: 0,
                    retry_after: Duration::from_secs(1),
                })
            }
            Err(error) => {
                if let ExecuteError::Append(AppendError::Unavailable(_)) = error {
                    // Whether it was committed is not known. If it was, nobody will drive it: it is ended as soon as
                    // the log answers again, and the client need not wait for that.
                    let unconfirmed = Unconfirmed {
                        request_id: job.id.clone(),
                        account: job.principal.account.clone(),
                        accepted_at: job.asked_at,
                        metadata: job.metadata.clone(),
                    };
                    self.tasks.spawn(self.clone().undo(unconfirmed));
                }
                Err(GatewayError::internal(&error))
            }
        }
    }

    /// Ends what was committed after all, as often as it takes.
    async fn undo(self: Arc<Self>, unconfirmed: Unconfirmed) {
        let mut retry = FIRST_RETRY;
        while let Err(error) = self.try_undo(&unconfirmed).await {
            let id = &unconfirmed.request_id;
            if !expire_requests::is_outage(&error) && !matches!(error, ExecuteError::Contended) {
                tracing::error!(request.id = %id, error.message = %error, "an unconfirmed acceptance cannot be undone");
                return;
            }
            tracing::warn!(request.id = %id, error.message = %error, "an unconfirmed acceptance is not undone yet");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(SLOWEST_RETRY);
        }
    }

    async fn try_undo(&self, unconfirmed: &Unconfirmed) -> Result<(), ExecuteError> {
        let Unconfirmed { request_id, account, accepted_at, metadata } = unconfirmed;
        let Some(first) = self.log.load(Request::TYPE, request_id, 0).await?.into_iter().next() else { return Ok(()) };
        // The client may have asked again under the same idempotency key: that acceptance is not ours to undo.
        let asked = match first.decode(Request::TYPE, request_id)? {
            RequestEvent::RequestAccepted(accepted)
                if accepted.accepted_at == *accepted_at && accepted.node == self.settings.node =>
            {
                accepted.asked()
            }
            _ => return Ok(()),
        };
        let orphaned = OrphanedRequest {
            request_id: request_id.clone(),
            account: account.clone(),
            reason: "its acceptance was not confirmed".to_owned(),
        };
        let request = Request::accepted(asked);
        expire_requests::end(&self.accounts, &request, &orphaned, self.clock.now(), metadata).await.map(drop)
    }

    async fn hold(&self, job: &Job, command: &AccountCommand, accept: &StreamAppend) -> Result<(), ExecuteError> {
        let companions = |_: &[_]| Ok(vec![accept.clone()]);
        self.accounts.execute(&job.principal.account, command, &companions, &job.metadata).await.map(drop)
    }

    /// What the principal's account has to spend. In development, asking opens it.
    pub async fn available(&self, principal: &Principal) -> Result<Microcredits, GatewayError> {
        let load =
            || async { self.accounts.glance(&principal.account).await.map_err(|error| GatewayError::internal(&error)) };
        let mut account = load().await?;
        if !account.is_open()
            && let Some(amount) = self.settings.welcome_credits
        {
            self.welcome(principal, amount).await?;
            account = load().await?;
        }
        Ok(account.available())
    }

    async fn welcome(&self, principal: &Principal, amount: Microcredits) -> Result<(), GatewayError> {
        let metadata = Arc::new(Metadata::from([
            ("actor", "aihub".to_owned()),
            ("correlationId", format!("welcome:{}", principal.account)),
            ("node", self.settings.node.clone()),
        ]));
        let command = AccountCommand::GrantCredits {
            grant_id: "welcome".to_owned(),
            amount,
            expires_at: None,
            reason: "welcome credits of a new account".to_owned(),
            actor: "aihub".to_owned(),
            granted_at: self.clock.now(),
        };
        self.accounts
            .execute(&principal.account, &command, &|_| Ok(vec![]), &metadata)
            .await
            .map(drop)
            .map_err(|error| GatewayError::internal(&error))
    }

    /// An idempotency key names its request for ever, also after its answer is no longer kept.
    async fn refuse_known_request(&self, job: &Job) -> Result<(), GatewayError> {
        let known = self.log.load(Request::TYPE, &job.id, 0).await.map_err(|error| GatewayError::internal(&error))?;
        if known.is_empty() { Ok(()) } else { Err(already_used(job)) }
    }
}

fn already_used(job: &Job) -> GatewayError {
    GatewayError::DuplicateRequest {
        request_id: Some(job.id.clone()),
        reason: "this idempotency key was used before; its request is not run again and its answer is no longer kept here",
    }
}

pub(super) fn request_append(
    request_id: &str,
    expected_sequence: u64,
    events: &[RequestEvent],
) -> Result<StreamAppend, serde_json::Error> {
    Ok(StreamAppend {
        aggregate_type: Request::TYPE,
        aggregate_id: request_id.to_owned(),
        expected_sequence,
        events: events.iter().map(NewEvent::of).collect::<Result<_, _>>()?,
    })
}
