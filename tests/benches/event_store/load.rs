//! Callers that call again as soon as they are answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio_util::task::TaskTracker;

/// What came of one cell of the table.
pub struct Cell {
    pub rate: f64,
    micros: Vec<u64>,
}

impl Cell {
    pub fn latency(&self) -> String {
        let at = |share: f64| {
            let index = (self.micros.len() as f64 * share) as usize;
            self.micros.get(index).copied().unwrap_or_default() as f64 / 1000.0
        };
        format!("{:.2} / {:.2}", at(0.5), at(0.99))
    }
}

/// Each caller is a task of its own. A first tenth of `time` is not counted.
pub async fn measure<F, Call>(callers: usize, time: Duration, call: F) -> Cell
where
    F: Fn(usize) -> Call + Send + Sync + 'static,
    Call: Future<Output = u64> + Send,
{
    let begin = Instant::now() + time / 10;
    let end = begin + time;
    let (call, tracker) = (Arc::new(call), TaskTracker::new());
    let callers = join_all((0..callers).map(|caller| {
        let call = call.clone();
        tracker.spawn(async move {
            let mut micros = Vec::new();
            loop {
                let called = Instant::now();
                if called >= end {
                    return micros;
                }
                call(caller).await;
                if called >= begin {
                    micros.push(u64::try_from(called.elapsed().as_micros()).unwrap());
                }
            }
        })
    }));
    let mut micros: Vec<u64> = callers.await.into_iter().flat_map(Result::unwrap).collect();
    let elapsed = begin.elapsed().as_secs_f64();
    micros.sort_unstable();
    Cell { rate: micros.len() as f64 / elapsed, micros }
}
