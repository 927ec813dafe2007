//! The credits are held and the request is accepted, both in one commit, before any provider hears of it.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    account::{AccountError, command::AccountCommand, event::AccountEvent},
    money::Microcredits,
    request::{
        Request,
        command::RequestCommand,
        event::{Accepted, Asked, RequestEvent},
    },
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use tokio::time::timeout;

use super::{
    Gateway, Job,
    allowance::{Tariff, Wish},
    closing::{FIRST_RETRY, SLOWEST_RETRY},
    holding::LEAST,
    progress::Progress,
};
use crate::{
    accounts::ExecuteError,
    error::{GatewayError, Outside as _},
    policies::expire_requests::{self, OrphanedRequest},
    ports::{
        event_log::{AppendError, Metadata, StreamAppend},
        vault::{Sealed, VaultError},
    },
    principal::Principal,
};

/// A prompt of more waits for its turn to be sealed.
const LARGE_BYTES: usize = 64 << 10;
/// How long it may take until a request is written down. Then its client is told to come back, and what comes of it is undone.
const OPENING_TIMEOUT: Duration = Duration::from_secs(4);

/// An acceptance that may have been committed.
struct Unconfirmed {
    request_id: String,
    account: String,
    accepted_at: DateTime<Utc>,
    metadata: Arc<Metadata>,
}

impl Unconfirmed {
    fn of(job: &Job) -> Self {
        Self {
            request_id: job.id.clone(),
            account: job.principal.account.clone(),
            accepted_at: job.asked_at,
            metadata: job.metadata.clone(),
        }
    }
}

impl Gateway {
    /// Returns the request's work, which has begun with what is held for it, or why it was not written down in time.
    pub(super) async fn open_in_time(self: &Arc<Self>, job: &Arc<Job>) -> Result<Progress, GatewayError> {
        let (gateway, opened) = (self.clone(), job.clone());
        let mut opening = Box::pin(async move { gateway.open(&opened).await });
        if let Ok(opened) = timeout(OPENING_TIMEOUT, &mut opening).await {
            return opened;
        }
        let (gateway, unconfirmed) = (self.clone(), Unconfirmed::of(job));
        self.tasks.spawn(async move {
            // Where that failed, it has seen to what may have been committed itself.
            if opening.await.is_ok() {
                gateway.undo(unconfirmed).await;
            }
        });
        tracing::warn!(request.id = %job.id, "a request was not written down in time");
        Err(GatewayError::unavailable())
    }

    async fn open(self: &Arc<Self>, job: &Arc<Job>) -> Result<Progress, GatewayError> {
        if job.request.idempotency_key.is_some() {
            self.refuse_known_request(job).await?;
        }
        let Some(first) = job.candidates.first() else {
            return Err(GatewayError::internal("a request without candidates was submitted"));
        };
        let wish = Wish::of(&job.request, first, &self.settings);
        let tariff = self.tariff(job, first, Microcredits::ZERO);
        let now = self.clock.now();
        // A model that costs nothing still holds something, so that every request has its reservation.
        let command = AccountCommand::ReserveCredits {
            reservation_id: job.id.clone(),
            amount: tariff.cost(wish.hold).max(LEAST),
            at_least: tariff.cost(wish.least).max(LEAST),
            reserved_at: now,
        };
        let parts = job.request.content().map_err(|error| GatewayError::internal(&error))?;
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        let account = &job.principal.account;
        let turn = if parts.iter().map(|part| part.len()).sum::<usize>() > LARGE_BYTES {
            let mut turn = self.sealing.acquire().await.ok();
            // What is refused is not sealed for nothing. What that waits for keeps nobody else from their turn.
            if self.accounts.may_refuse(account, &command) {
                drop(turn.take());
                if let Err(ExecuteError::Refused(refused)) = self.accounts.foresee(account, &command).await
                    && refused != AccountError::NotOpen
                {
                    return Err(GatewayError::from_account(refused, account, self.settings.top_up.as_ref(), now));
                }
                turn = self.sealing.acquire().await.ok();
            }
            turn
        } else {
            None
        };
        let prompt = self.vault.seal(account, job.content_kind(), &parts).await.map_err(|error| match error {
            VaultError::Erased => GatewayError::Erased { account: account.clone() },
            error => GatewayError::outside(&error),
        })?;
        drop(turn);
        let (prompt, contents) = prompt.map(|Sealed { content, pieces }| (content, pieces)).unzip();
        let Asked { account, user, kind, provider, model } = job.asked()?;
        let accepted = Accepted {
            account,
            user,
            kind,
            provider,
            model,
            stream: job.request.stream,
            input_tokens_estimate: job.input_tokens,
            max_output_tokens: wish.hold,
            reserved_microcredits: Microcredits::ZERO,
            price_id: first.price.id.clone(),
            node: self.settings.node.clone(),
            deadline_at: job.asked_at + self.settings.request_timeout,
            accepted_at: job.asked_at,
            prompt,
        };
        let events = Request::default()
            .decide(RequestCommand::AcceptRequest(Box::new(accepted)))
            .map_err(|error| GatewayError::internal(&error))?;
        let contents = contents.unwrap_or_default();
        // The account says how much it is that is held.
        let accept = |held: &[AccountEvent]| {
            let (reserved, _) = reserved(held);
            let events: Vec<_> =
                events.iter().cloned().map(|event| with_reserved(event, reserved, &tariff, wish)).collect();
            Ok(StreamAppend::of::<Request>(&job.id, 0, &events)?.with(contents.clone()))
        };
        let mut executed = self.hold(job, &command, &accept).await;
        if let Err(ExecuteError::Refused(AccountError::NotOpen)) = executed
            && let Some(amount) = self.settings.welcome_credits
        {
            self.welcome(&job.principal, amount).await?;
            executed = self.hold(job, &command, &accept).await;
        }
        match executed {
            Ok(events) => {
                let (reserved, spare) = reserved(&events);
                Ok(Progress::new(job, reserved, spare))
            }
            // Another node got the same idempotency key first; where its request is still running, its reservation is.
            Err(ExecuteError::CompanionConflict | ExecuteError::Refused(AccountError::ReservationExists(_))) => {
                Err(already_used(job))
            }
            Err(ExecuteError::Refused(refused)) => {
                Err(GatewayError::from_account(refused, &job.principal.account, self.settings.top_up.as_ref(), now))
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
                    self.tasks.spawn(self.clone().undo(Unconfirmed::of(job)));
                }
                Err(GatewayError::outside(&error))
            }
        }
    }

    /// Ends what was committed after all, as often as it takes.
    async fn undo(self: Arc<Self>, unconfirmed: Unconfirmed) {
        let mut retry = FIRST_RETRY;
        while let Err(error) = self.try_undo(&unconfirmed).await {
            let id = &unconfirmed.request_id;
            if !error.is_outage() && !matches!(error, ExecuteError::Contended) {
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
            found_at: self.clock.now(),
        };
        let request = Request::accepted(asked);
        expire_requests::end(&self.accounts, &request, &orphaned, metadata).await.map(drop)
    }

    async fn hold(
        &self,
        job: &Job,
        command: &AccountCommand,
        accept: &(dyn Fn(&[AccountEvent]) -> Result<StreamAppend, serde_json::Error> + Send + Sync),
    ) -> Result<Vec<AccountEvent>, ExecuteError> {
        let companions = |events: &[AccountEvent]| Ok(vec![accept(events)?]);
        let mut metadata = job.metadata.clone();
        if let Some((key, connection)) = job.asked_as {
            let metadata = Arc::make_mut(&mut metadata);
            metadata.insert("clientKey", key.to_string());
            metadata.insert("connectionId", connection.to_string());
        }
        self.accounts.execute(&job.principal.account, command, &companions, &metadata).await
    }

    /// What the principal's account has to spend. In development, asking opens it.
    pub async fn available(&self, principal: &Principal) -> Result<Microcredits, GatewayError> {
        self.require_log()?;
        let load =
            || async { self.accounts.glance(&principal.account).await.map_err(|error| GatewayError::outside(&error)) };
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
            .map_err(|error| GatewayError::outside(&error))
    }

    /// An idempotency key names its request for ever, also after its answer is no longer kept.
    async fn refuse_known_request(&self, job: &Job) -> Result<(), GatewayError> {
        let known = self.log.load(Request::TYPE, &job.id, 0).await.map_err(|error| GatewayError::outside(&error))?;
        let Some(last) = known.into_iter().last() else { return Ok(()) };
        // Its node died: whoever asks again is to know what that cost.
        match last.decode(Request::TYPE, &job.id) {
            Ok(RequestEvent::RequestAbandoned { .. }) => {
                let (request_id, charged) = (job.id.clone(), Microcredits::ZERO);
                Err(GatewayError::AnswerLost { request_id, ended: "abandoned", charged })
            }
            _ => Err(already_used(job)),
        }
    }
}

/// What was held, and what the account has left.
fn reserved(events: &[AccountEvent]) -> (Microcredits, Microcredits) {
    let reserved = events.iter().find_map(|event| match event {
        AccountEvent::CreditsReserved { amount_microcredits, available_microcredits, .. } => {
            Some((*amount_microcredits, *available_microcredits))
        }
        _ => None,
    });
    reserved.unwrap_or_default()
}

/// The acceptance with what is held for it, and how much output that is.
fn with_reserved(mut event: RequestEvent, reserved: Microcredits, tariff: &Tariff<'_>, wish: Wish) -> RequestEvent {
    if let RequestEvent::RequestAccepted(accepted) = &mut event {
        accepted.reserved_microcredits = reserved;
        accepted.max_output_tokens = tariff.affordable(reserved, wish.hold);
    }
    event
}

fn already_used(job: &Job) -> GatewayError {
    GatewayError::DuplicateRequest {
        request_id: Some(job.id.clone()),
        reason: "this idempotency key was used before; its request is not run again and its answer is not kept here",
    }
}
