//! The hold of a request while it works: for each candidate before it is asked, and more as an answer grows.

use std::time::Duration;

use aihub_domain::{
    account::{AccountError, command::AccountCommand, event::AccountEvent},
    money::Microcredits,
};
use tokio::time::Instant;

use super::{
    Ending, Gateway, Job,
    allowance::{Allowance, Cover, Tariff, Wish},
    progress::Progress,
};
use crate::{
    accounts::ExecuteError,
    catalog::Candidate,
    error::GatewayError,
    ports::event_log::{AppendError, LoadError},
};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const SLOWEST_RETRY: Duration = Duration::from_secs(2);
/// The least that is ever held or extended by.
pub(super) const LEAST: Microcredits = Microcredits(1);

impl Gateway {
    pub(super) fn tariff<'a>(&self, job: &Job, candidate: &'a Candidate, spent: Microcredits) -> Tariff<'a> {
        Tariff {
            price: &candidate.price,
            rate: self.settings.rate,
            input_tokens: job.request.input_tokens_at_most(&candidate.model),
            writes_for_an_hour: job.request.prompt.writes_for_an_hour(),
            spent,
        }
    }

    /// What may be asked of this candidate, once that is held for; `None` when the account cannot pay for it.
    pub(super) async fn allow(
        &self,
        job: &Job,
        candidate: &Candidate,
        progress: &mut Progress,
    ) -> Result<Option<Allowance>, Ending> {
        let wish = Wish::of(&job.request, candidate, &self.settings);
        let tariff = self.tariff(job, candidate, progress.spent());
        let (wanted, least) = (tariff.cost(wish.hold), tariff.cost(wish.least));
        let is_enough = |reserved: Microcredits| least <= reserved;
        if wanted > progress.reserved && (!is_enough(progress.reserved) || progress.spare > Microcredits::ZERO) {
            let at_least = least.minus(progress.reserved).max(LEAST);
            let held = self.extend(job, wanted.minus(progress.reserved), at_least, progress).await?;
            if !held && !is_enough(progress.reserved) {
                return Ok(None);
            }
        }
        Ok(Some(Allowance::of(wish, &tariff, progress.reserved, progress.spare)))
    }

    /// Sees to it that what was produced by now is held for, and something ahead of it as far as the account can pay, before
    /// any of it is handed out.
    pub(super) async fn cover(
        &self,
        job: &Job,
        candidate: &Candidate,
        progress: &mut Progress,
    ) -> Result<Cover, Ending> {
        let step = u64::from(self.settings.output_hold_tokens);
        let spent = progress.spent();
        let Some(call) = &progress.call else { return Ok(Cover::Held) };
        let (seen, told, allowance) = (call.meter.seen(), call.meter.told(), call.allowance);
        // An account that had nothing left is asked now and then, and when there is nothing else to do.
        let is_worth_asking =
            seen > allowance.held || call.exhausted_at.is_none_or(|then| seen >= then.saturating_add(step / 4));
        if let Some(target) = allowance.due(seen, step).filter(|_| is_worth_asking) {
            let tariff = self.tariff(job, candidate, spent);
            let by = tariff.cost(target).minus(progress.reserved).max(LEAST);
            let held = self.extend(job, by, LEAST, progress).await?;
            let (reserved, wanted) = (progress.reserved, tariff.cost(target));
            if let Some(call) = &mut progress.call {
                call.allowance.held = tariff.affordable(reserved, allowance.cap).max(allowance.held);
                call.exhausted_at = (!held || reserved < wanted).then_some(seen);
            }
            self.debit(job, seen, progress);
        }
        Ok(progress.call.as_ref().map_or(Cover::Held, |call| call.allowance.cover(seen, told)))
    }

    /// Takes output that was not foreseen off the allowances of tokens a minute.
    pub(super) fn debit(&self, job: &Job, output_tokens: u64, progress: &mut Progress) {
        if let Some(more) = output_tokens.checked_sub(progress.debited).filter(|more| *more > 0) {
            self.limits.debit(&job.principal, more);
            progress.debited = output_tokens;
        }
    }

    /// Holds `by` more, or what there is if that is `at_least` so much; `false` when there is not. What passes is waited for:
    /// the request's deadline ends that. An outcome that was not learned may be a hold that was made; it is then made
    /// twice, and released at the end.
    async fn extend(
        &self,
        job: &Job,
        by: Microcredits,
        at_least: Microcredits,
        progress: &mut Progress,
    ) -> Result<bool, Ending> {
        let mut retry = FIRST_RETRY;
        loop {
            let command = AccountCommand::ExtendReservation {
                reservation_id: job.id.clone(),
                by,
                at_least,
                extended_at: self.clock.now(),
            };
            match self.accounts.execute(&job.principal.account, &command, &|_| Ok(vec![]), &job.metadata).await {
                Ok(events) => {
                    for event in events {
                        if let AccountEvent::ReservationExtended { by_microcredits, available_microcredits, .. } = event
                        {
                            progress.reserved = progress.reserved.plus(by_microcredits);
                            progress.side.iter().for_each(|side| side.holds(progress.reserved));
                            progress.spare = available_microcredits;
                        }
                    }
                    return Ok(true);
                }
                Err(ExecuteError::Refused(
                    AccountError::InsufficientCredits { .. } | AccountError::UsageLimitExceeded { .. },
                )) => {
                    progress.spare = Microcredits::ZERO;
                    return Ok(false);
                }
                Err(error) if passes(&error) && Instant::now() + retry < job.deadline => {
                    tracing::warn!(request.id = %job.id, error.message = %error, "no more is held yet; trying again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(SLOWEST_RETRY);
                }
                // Among them a reservation that is gone: somebody took this request for orphaned and ended it.
                Err(error) => return Err(Ending::Failed(GatewayError::internal(&error))),
            }
        }
    }
}

/// Whether the same may succeed a little later.
fn passes(error: &ExecuteError) -> bool {
    matches!(
        error,
        ExecuteError::Contended
            | ExecuteError::Append(AppendError::Overloaded | AppendError::Unavailable(_))
            | ExecuteError::Load(LoadError::Unavailable(_))
    )
}
