//! A provider's stream is passed on piece by piece, and metered. No piece is handed out before it is held for.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use aihub_domain::request::event::CancelReason;
use futures::{FutureExt, StreamExt};

use super::{
    Answers, Ending, Gateway, Job,
    allowance::Cover,
    dispatch::{ANSWERED, Begun, Unanswered, cut, millis},
    meter::{CallEnd, tokens_of},
    patience::within,
    progress::Progress,
};
use crate::{
    answer::{Full, call_bytes},
    catalog::Candidate,
    ports::provider::{Delta, DeltaStream, FinishReason, ProviderError, ToolCallDelta},
};

/// How many pieces of an answer that was cut are looked through for the provider's count, if they are there already.
const MAX_READ_ON: usize = 10_000;

/// What is handed out, and what is not yet.
struct Outlet<'a> {
    answers: &'a Answers,
    job: &'a Job,
    /// Output tokens that were handed out, or thought.
    given: u64,
    /// Pieces behind the hold by our own count, until the provider's own tells whether they are.
    withheld: Vec<Delta>,
}

impl Gateway {
    /// Passes an answer on to its end. Of a provider that broke off, what was passed on stays.
    pub(super) async fn drive(
        &self,
        job: &Job,
        candidate: &Candidate,
        begun: Begun,
        progress: &mut Progress,
    ) -> Result<Ending, Unanswered> {
        let Begun { mut stream, first, patience } = begun;
        let thought = progress.call.as_ref().map_or(0, |call| call.meter.seen());
        let mut outlet = Outlet { answers: &self.answers, job, given: thought, withheld: vec![] };
        let (mut next, mut steps) = (Some(first), self.limits.steps(&job.principal.user));
        while let Some(delta) = next {
            if let Some(call) = &mut progress.call {
                call.meter.observe(&delta);
            }
            let cover = self.cover(job, candidate, progress).await?;
            match cover {
                Cover::Doubtful if tokens_of(&delta) > 0 => outlet.withheld.push(delta),
                Cover::Held | Cover::Doubtful => {
                    let released = if cover == Cover::Held { outlet.release(progress) } else { Ok(()) };
                    match released.and_then(|()| outlet.pass_on(delta, progress)) {
                        Err(Ending::Cancelled(CancelReason::AnswerTooLong)) => {
                            read_on(&mut stream, false, progress);
                            return Ok(Ending::Cancelled(CancelReason::AnswerTooLong));
                        }
                        passed => passed?,
                    }
                }
                Cover::Beyond => {
                    let is_counted = matches!(delta, Delta::Usage(_));
                    outlet.withheld.push(delta);
                    return Ok(cut_short(outlet, &mut stream, is_counted, progress));
                }
            }
            // Whoever shuts down has no time for it.
            if !self.draining.is_cancelled() {
                steps.step().await;
            }
            next = within(patience.next_piece(), ANSWERED, async { stream.next().await.transpose() }).await?;
        }
        if progress.finish_reason.is_none() {
            return Err(ProviderError::cut("the stream was cut off").into());
        }
        Ok(finished(outlet, progress))
    }
}

/// The answer came to its own end.
fn finished(mut outlet: Outlet<'_>, progress: &mut Progress) -> Ending {
    let Some(call) = &mut progress.call else { return Ending::Completed };
    call.end = CallEnd::Finished;
    let is_lowered = call.allowance.is_lowered();
    // Had the provider counted more than what is held, that would have been the end.
    if let Err(ending) = outlet.release(progress) {
        return ending;
    }
    if is_lowered && progress.finish_reason == Some(FinishReason::Length) {
        return Ending::Cancelled(CancelReason::CreditsExhausted);
    }
    Ending::Completed
}

/// The answer goes no further: what is held for is handed out, and the provider's count taken if it `is_counted` already, or
/// its count is there to be read.
fn cut_short(mut outlet: Outlet<'_>, stream: &mut DeltaStream, is_counted: bool, progress: &mut Progress) -> Ending {
    let held = progress.call.as_ref().map_or(0, |call| call.allowance.held);
    if let Err(ending) = outlet.give_up_to(held, progress) {
        return ending;
    }
    read_on(stream, is_counted, progress);
    cut(progress)
}

/// Takes the provider's count of an answer that goes no further, if it `is_counted` already, or its count is there to be read.
fn read_on(stream: &mut DeltaStream, is_counted: bool, progress: &mut Progress) {
    let ready = std::iter::from_fn(|| stream.next().now_or_never().flatten()?.ok());
    let counted = ready.take(MAX_READ_ON).filter_map(|delta| match delta {
        Delta::Usage(usage) => Some(usage),
        _ => None,
    });
    let counted = counted.last();
    if let Some(call) = &mut progress.call {
        if let Some(usage) = counted {
            call.meter.report(usage);
        }
        if is_counted || counted.is_some() {
            call.end = CallEnd::Finished;
        }
    }
}

impl Outlet<'_> {
    fn pass_on(&mut self, delta: Delta, progress: &mut Progress) -> Result<(), Ending> {
        self.given = self.given.saturating_add(tokens_of(&delta));
        match delta {
            Delta::Text(text) => self.show(text, vec![], progress),
            Delta::ToolCall(call) => self.show(String::new(), vec![call], progress),
            Delta::Finish { reason, said } => {
                progress.finish_reason = Some(reason);
                progress.provider_finish_reason = said;
                Ok(())
            }
            Delta::Model(_) | Delta::Flaw(_) => {
                progress.note(delta);
                Ok(())
            }
            Delta::Usage(_) | Delta::Thinking { .. } => Ok(()),
        }
    }

    fn show(&self, mut text: String, mut calls: Vec<ToolCallDelta>, progress: &mut Progress) -> Result<(), Ending> {
        let Self { answers, job, .. } = self;
        // Of what goes beyond the longest answer, what still fits: the beginning of a text, and no part of a call.
        let room = job.answer.room_left();
        let is_too_long = calls.iter().map(call_bytes).fold(text.len(), usize::saturating_add) > room;
        if is_too_long {
            text.truncate(text.floor_char_boundary(room));
            calls.clear();
            if text.is_empty() {
                return Err(Ending::Cancelled(CancelReason::AnswerTooLong));
            }
        }
        progress.first_chunk_ms.get_or_insert_with(|| millis(job.started.elapsed()));
        let added = answers.push(&job.principal, &job.answer, job.request.stream, (text, calls));
        added.map_err(|full| match full {
            Full::TooLong => Ending::Cancelled(CancelReason::AnswerTooLong),
            Full::Memory(used_up) => Ending::Failed(used_up.into()),
        })?;
        if is_too_long { Err(Ending::Cancelled(CancelReason::AnswerTooLong)) } else { Ok(()) }
    }

    fn release(&mut self, progress: &mut Progress) -> Result<(), Ending> {
        std::mem::take(&mut self.withheld).into_iter().try_for_each(|delta| self.pass_on(delta, progress))
    }

    /// Hands out what was withheld, up to `most` tokens altogether; of a text that goes beyond, its beginning.
    fn give_up_to(&mut self, most: u64, progress: &mut Progress) -> Result<(), Ending> {
        for delta in std::mem::take(&mut self.withheld) {
            let (left, tokens) = (most.saturating_sub(self.given), tokens_of(&delta));
            if tokens <= left {
                self.pass_on(delta, progress)?;
            } else if let Delta::Text(text) = delta {
                let beginning = beginning(&text, left, tokens).to_owned();
                if !beginning.is_empty() {
                    self.pass_on(Delta::Text(beginning), progress)?;
                }
                return Ok(());
            } else {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The part of `text`, which has `tokens` tokens, that is `most` of them.
fn beginning(text: &str, most: u64, tokens: u64) -> &str {
    let bytes = u128::from(most).saturating_mul(text.len() as u128).checked_div(tokens.into());
    &text[..text.floor_char_boundary(bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_text_is_as_long_as_is_held_for_and_ends_between_characters() {
        assert_eq!(beginning("abcdefgh", 1, 2), "abcd");
        assert_eq!(beginning("äöü", 1, 2), "ä");
        assert_eq!(beginning("äöü", 0, 2), "");
        assert_eq!(beginning("äöü", 5, 2), "äöü");
    }
}
