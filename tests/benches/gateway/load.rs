//! Closed loops of callers, and what they saw.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::{client::Client, direct::Direct};

/// How one answer came.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub first_chunk: Duration,
    pub total: Duration,
}

/// Asks one thing after another.
pub enum Caller {
    Gateway(Box<Client>),
    Direct(Direct),
}

impl Caller {
    async fn ask(&mut self) -> Timing {
        match self {
            Self::Gateway(client) => client.ask().await,
            Self::Direct(direct) => direct.ask().await,
        }
    }
}

/// What the callers of a cell saw.
pub struct Cell {
    timings: Vec<Timing>,
    elapsed: Duration,
}

impl Cell {
    pub fn new(timings: Vec<Timing>, elapsed: Duration) -> Self {
        Self { timings, elapsed }
    }

    pub fn answers(&self) -> f64 {
        self.timings.len() as f64
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers() / self.elapsed.as_secs_f64()
    }

    pub fn first_chunk(&self, share: f64) -> Duration {
        percentile(self.timings.iter().map(|timing| timing.first_chunk), share)
    }

    pub fn total(&self, share: f64) -> Duration {
        percentile(self.timings.iter().map(|timing| timing.total), share)
    }
}

/// Each caller asks again as soon as it has its answer, until `time` is up; then the running answers are waited for.
pub async fn closed_loop(callers: &mut Vec<Caller>, time: Duration) -> Cell {
    one_after_another(callers, time, Duration::ZERO).await
}

/// The same, where each caller begins `after` the one before.
pub async fn one_after_another(callers: &mut Vec<Caller>, time: Duration, after: Duration) -> Cell {
    let (tracker, started) = (TaskTracker::new(), Instant::now());
    let tasks: Vec<_> = (0..)
        .zip(callers.drain(..))
        .map(|(nth, mut caller)| {
            tracker.spawn(async move {
                sleep(after * nth).await;
                let mut timings = Vec::new();
                while started.elapsed() < time {
                    timings.push(caller.ask().await);
                }
                (caller, timings)
            })
        })
        .collect();
    let mut timings = Vec::new();
    for done in join_all(tasks).await {
        let (caller, its) = done.unwrap();
        callers.push(caller);
        timings.extend(its);
    }
    Cell { timings, elapsed: started.elapsed() }
}

/// The least time that a `share` of all is not above.
pub fn percentile(times: impl Iterator<Item = Duration>, share: f64) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
    times[index - 1]
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
