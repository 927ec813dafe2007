//! Where the operator wants it, a second provider is asked for an answer of which the first one has said nothing for a while. The
//! first to show something goes on; the other is left, and paid for by the rule for what is left. Each has its own account of its
//! work, and what both may come to is held.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aihub_domain::money::Microcredits;
use tokio::time::sleep;

use super::{Ending, Gateway, Job, dispatch::Begun, progress::Progress};
use crate::{catalog::Candidate, upstream::guard::Turn};

/// What the two know of each other.
#[derive(Debug, Default)]
pub struct Pair {
    /// Who is asked, or was, by either.
    asked: Mutex<Vec<(bool, String)>>,
    /// What the first one holds, in microcredits.
    held: AtomicI64,
}

/// Which of the two somebody is.
#[derive(Debug, Clone)]
pub struct Side {
    pub pair: Arc<Pair>,
    pub is_second: bool,
}

impl Side {
    /// Whether the provider is free to be asked; from then on the other one does not ask it.
    pub fn takes(&self, provider: &str) -> bool {
        let mut asked = self.pair.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((by_second, _)) = asked.iter().find(|(_, name)| name == provider) {
            return *by_second == self.is_second;
        }
        asked.push((self.is_second, provider.to_owned()));
        true
    }

    /// Notes what is held by now.
    pub fn holds(&self, reserved: Microcredits) {
        if !self.is_second {
            self.pair.held.store(reserved.0, Ordering::Release);
        }
    }
}

/// The stream that goes on, and whether it is the second one's.
pub struct Chosen {
    pub candidate: Candidate,
    pub turn: Turn,
    pub begun: Begun,
    pub is_second: bool,
}

impl Gateway {
    /// How long the first provider alone is waited for, where a second one may be asked beside it.
    pub(super) fn hedges_after(&self, job: &Job) -> Option<Duration> {
        self.settings.hedge_after.filter(|_| job.request.fallback && job.candidates.len() > 1)
    }

    /// The first stream that has something to show. What the second one does is in `beside`, whatever becomes of this.
    pub(super) async fn begin(
        &self,
        job: &Job,
        progress: &mut Progress,
        beside: &mut Option<Progress>,
    ) -> Result<Chosen, Ending> {
        let chosen = |is_second| move |(candidate, turn, begun)| Chosen { candidate, turn, begun, is_second };
        let Some(after) = self.hedges_after(job) else {
            return self.ask(job, progress, Self::begin_stream).await.map(chosen(false));
        };
        let pair = Arc::<Pair>::default();
        progress.side = Some(Side { pair: pair.clone(), is_second: false });
        pair.held.store(progress.reserved.0, Ordering::Release);
        let (reserved, spare) = (progress.reserved, progress.spare);
        let first = self.ask(job, progress, Self::begin_stream);
        tokio::pin!(first);
        tokio::select! {
            begun = &mut first => return begun.map(chosen(false)),
            () = sleep(after) => {}
        }
        // It holds for itself what it needs, on top of what the first one has.
        let held = Microcredits(pair.held.load(Ordering::Acquire)).max(reserved);
        let second = beside.insert(Progress::new(job, held, spare));
        second.side = Some(Side { pair, is_second: true });
        second.beside = held;
        let second = self.ask(job, second, Self::begin_stream);
        tokio::pin!(second);
        tokio::select! {
            begun = &mut first => match begun {
                Ok(begun) => Ok(chosen(false)(begun)),
                // The second one may still come to something.
                Err(ending) => second.await.map(chosen(true)).map_err(|_| ending),
            },
            begun = &mut second => match begun {
                Ok(begun) => Ok(chosen(true)(begun)),
                Err(_) => first.await.map(chosen(false)),
            },
        }
    }
}
