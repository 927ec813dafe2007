//! How long one attempt is waited for.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{catalog::Candidate, ports::provider::ProviderError, request::AnswerRequest, upstream::Timing};

/// The fewest inputs that a provider takes in one call.
const INPUTS_AT_ONCE: usize = 100;
/// Longer than what ends it before.
const LONG: Duration = Duration::from_hours(1);

/// The times of one attempt, counted from its beginning. All attempts together fit into the request's deadline, with room for
/// each candidate that can still be asked. Who is the last to be asked has as long as the request has.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// By when there is a status.
    pub first_byte: Instant,
    /// By when there is something to show.
    pub first_piece: Instant,
    /// From one piece to the next.
    pub silence: Duration,
    /// By when the answer has come to its end.
    pub whole: Instant,
    /// How long is waited for something to show, once there were thoughts.
    thinking: Option<Duration>,
}

impl Patience {
    /// `others` is how many more could be asked.
    /// One that finds out whether its provider is back is not waited for longer than any other: nobody else is let through
    /// meanwhile.
    pub fn of(
        candidate: &Candidate,
        request: &AnswerRequest,
        others: usize,
        finds_out: bool,
        deadline: Instant,
    ) -> Self {
        let now = Instant::now();
        let Timing { first_byte, first_piece, silence, whole } = candidate.timing();
        let left = deadline.saturating_duration_since(now);
        // The request's own deadline ends the last one, by its name.
        let late = deadline + LONG;
        if others == 0 && !finds_out {
            return Self { first_byte: late, first_piece: late, silence, whole: late, thinking: None };
        }
        let share = left / u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let comes_in_pieces = !request.inputs.is_empty() || candidate.upstream.is_asked_for_a_stream(request);
        let first_piece = if comes_in_pieces { first_piece } else { whole }.min(share);
        let first_byte = if comes_in_pieces { first_byte.min(first_piece) } else { first_piece };
        Self {
            first_byte: now + first_byte,
            first_piece: now + first_piece,
            silence,
            whole: now + whole,
            thinking: Some(first_piece),
        }
    }

    /// By when so many inputs are embedded, in calls of a hundred.
    pub fn whole_piece(&self, inputs: usize) -> Instant {
        let calls = u32::try_from(inputs.div_ceil(INPUTS_AT_ONCE)).unwrap_or(u32::MAX).max(1);
        self.thinking.map_or(self.first_piece, |each| (Instant::now() + each.saturating_mul(calls)).min(self.whole))
    }

    /// By when there is something to show, after a thought just now.
    pub fn after_a_thought(&self) -> Instant {
        self.thinking.map_or(self.first_piece, |thinking| (Instant::now() + thinking).min(self.whole))
    }

    /// By when the next piece comes, after one just now.
    pub fn next_piece(&self) -> Instant {
        (Instant::now() + self.silence).min(self.whole)
    }
}

/// What comes of `work` until then, which is a time-out otherwise; `status` is what the provider has answered by now.
pub async fn within<T>(
    until: Instant,
    status: Option<u16>,
    work: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    timeout_at(until, work).await.unwrap_or_else(|_| Err(ProviderError::timed_out(status)))
}
