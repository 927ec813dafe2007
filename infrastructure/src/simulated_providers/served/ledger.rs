//! The ledger itself: entries of atomics, written on the way of each token, read at any time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use aihub_application::ports::clock::{Clock as _, SystemClock};
use chrono::{DateTime, Utc};

use super::{
    super::{
        SimulatedProvider,
        models::{MODELS, Model},
    },
    MAX_CALLS, MAX_PAGE, ModelTotals, OUTCOMES, Operation, Outcome, ServedCall, Summary, Totals,
};

/// The list of the latest [`MAX_CALLS`] calls, and the counters of all.
#[derive(Default)]
pub struct Ledger {
    calls: Mutex<Calls>,
    /// One for each of [`MODELS`], and the last for calls of none of them.
    counters: [Counters; MODELS.len() + 1],
}

#[derive(Default)]
struct Calls {
    count: u64,
    latest: VecDeque<Arc<Entry>>,
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
    ended: [AtomicU64; OUTCOMES.len()],
}

struct Entry {
    call: u64,
    arrived_at: DateTime<Utc>,
    client_request_id: Option<Box<str>>,
    provider: SimulatedProvider,
    operation: Operation,
    model: Option<&'static str>,
    stream: bool,
    input_tokens: AtomicU32,
    output_tokens: AtomicU32,
    outcome: AtomicU8,
    status: AtomicU16,
}

/// What is known of a call when it arrives.
pub(in super::super) struct Arrival {
    pub client_request_id: Option<Box<str>>,
    pub provider: SimulatedProvider,
    pub operation: Operation,
    pub model: Option<&'static Model>,
    pub stream: bool,
}

/// A call that is being served. Dropped before it has ended, it ends as [`Outcome::ClientLeft`]: the server drops the
/// handler or the body when the connection goes away, and never else.
pub(in super::super) struct Serving {
    ledger: Arc<Ledger>,
    entry: Arc<Entry>,
    counters: usize,
}

impl Ledger {
    /// The calls after number `since`, oldest first, at most [`MAX_PAGE`].
    pub fn calls_since(&self, since: u64) -> Vec<ServedCall> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = calls.count - calls.latest.len() as u64;
        let skip = usize::try_from(since.saturating_sub(forgotten)).unwrap_or(usize::MAX).min(calls.latest.len());
        let page: Vec<Arc<Entry>> = calls.latest.range(skip..).take(MAX_PAGE).cloned().collect();
        drop(calls);
        page.iter().map(|entry| entry.read()).collect()
    }

    pub fn summary(&self) -> Summary {
        let listed_calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).latest.len() as u64;
        let mut summary = Summary { listed_calls, ..Summary::default() };
        for (at, counters) in self.counters.iter().enumerate() {
            let totals = counters.read();
            summary.total.add(&totals);
            if let Some(model) = MODELS.get(at)
                && totals.calls > 0
            {
                summary.models.push(ModelTotals { model: model.name.to_owned(), totals });
            }
        }
        summary
    }

    pub(in super::super) fn open(self: &Arc<Self>, arrival: Arrival) -> Serving {
        let counters = arrival
            .model
            .and_then(|model| MODELS.iter().position(|known| known.name == model.name))
            .unwrap_or(MODELS.len());
        self.counters[counters].calls.fetch_add(1, Relaxed);
        let arrived_at = SystemClock.now();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.count += 1;
        let entry = Arc::new(Entry {
            call: calls.count,
            arrived_at,
            client_request_id: arrival.client_request_id,
            provider: arrival.provider,
            operation: arrival.operation,
            model: arrival.model.map(|model| model.name),
            stream: arrival.stream,
            input_tokens: AtomicU32::new(0),
            output_tokens: AtomicU32::new(0),
            outcome: AtomicU8::new(Outcome::InProgress as u8),
            status: AtomicU16::new(0),
        });
        if calls.latest.len() == MAX_CALLS {
            calls.latest.pop_front();
        }
        calls.latest.push_back(Arc::clone(&entry));
        drop(calls);
        Serving { ledger: Arc::clone(self), entry, counters }
    }
}

impl Serving {
    /// The call's number, for the ids in its answer.
    pub fn call(&self) -> u64 {
        self.entry.call
    }

    /// The answer begins: from here on, its input is served.
    pub fn begin(&self, input_tokens: u32) {
        self.entry.status.store(200, Relaxed);
        self.entry.input_tokens.store(input_tokens, Relaxed);
        self.counters().input_tokens.fetch_add(input_tokens.into(), Relaxed);
    }

    pub fn add_output(&self, tokens: u32) {
        self.entry.output_tokens.fetch_add(tokens, Relaxed);
        self.counters().output_tokens.fetch_add(tokens.into(), Relaxed);
    }

    pub fn fail_with_status(&self, status: u16) {
        self.entry.status.store(status, Relaxed);
        self.end(Outcome::Failed);
    }

    /// Ends the call; only the first end counts.
    pub fn end(&self, outcome: Outcome) {
        let open = Outcome::InProgress as u8;
        if self.entry.outcome.compare_exchange(open, outcome as u8, Relaxed, Relaxed).is_ok() {
            self.counters().ended[outcome as usize].fetch_add(1, Relaxed);
        }
    }

    fn counters(&self) -> &Counters {
        &self.ledger.counters[self.counters]
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end(Outcome::ClientLeft);
    }
}

impl Entry {
    fn read(&self) -> ServedCall {
        ServedCall {
            call: self.call,
            arrived_at: self.arrived_at,
            client_request_id: self.client_request_id.as_deref().map(str::to_owned),
            provider: self.provider,
            operation: self.operation,
            model: self.model.map(str::to_owned),
            stream: self.stream,
            input_tokens: self.input_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            outcome: OUTCOMES[usize::from(self.outcome.load(Relaxed))],
            status: self.status.load(Relaxed),
        }
    }
}

impl Counters {
    fn read(&self) -> Totals {
        let ended = |outcome: Outcome| self.ended[outcome as usize].load(Relaxed);
        let mut totals = Totals {
            completed: ended(Outcome::Completed),
            failed: ended(Outcome::Failed),
            torn: ended(Outcome::Torn),
            hung: ended(Outcome::Hung),
            client_left: ended(Outcome::ClientLeft),
            input_tokens: self.input_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            ..Totals::default()
        };
        totals.calls = self.calls.load(Relaxed);
        let ended = totals.completed + totals.failed + totals.torn + totals.hung + totals.client_left;
        totals.in_progress = totals.calls.saturating_sub(ended);
        totals
    }
}
