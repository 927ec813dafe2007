//! The end of the log as this node has read it: once, for all of its handlers.
//!
//! Handlers that keep up take their events from here, those that are behind read the log themselves. Whoever asks says
//! where it stands with position and chain hash, so a tail of another history has nothing for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::ensure;
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, KEPT_PLANS},
    event_store::{
        chain::ChainHead,
        decode::{LogEntry, entries},
        reader::{self, ReadLimit},
        upcast::Upcasters,
    },
};

/// How long after a read the next one begins at the earliest, unless there is a full batch. What a read and a handler's
/// step cost hardly depends on how many events there are, so a busy log is read in batches, and a quiet one without delay.
const READ_EVERY: Duration = Duration::from_millis(25);
/// So many events are worth a read at once: the more there are, the less each of them pays for it.
const FULL_BATCH: u64 = 256;
/// How often the log is looked at without an announcement.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// What is kept for handlers that are a little behind.
const KEPT_EVENTS: usize = 8_192;
const KEPT_BYTES: usize = 32 << 20;

#[derive(Debug, Default)]
pub struct Tail {
    kept: Mutex<Kept>,
    /// The position of the last event that is kept.
    position: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// What the first of the entries follows; `None` while nothing has been read.
    before: Option<ChainHead>,
    entries: VecDeque<Arc<LogEntry>>,
    bytes: usize,
}

impl Tail {
    /// Tells when there is more.
    pub fn position(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// The last that is read; `None` while that is not known.
    pub fn end(&self) -> Option<ChainHead> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entries.back().map(|entry| entry.head()).or(kept.before)
    }

    /// What follows `from`, as much of it as `limit` allows. `None` if that is not known here.
    pub fn after(&self, from: ChainHead, limit: ReadLimit) -> Option<Vec<Arc<LogEntry>>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.entries.partition_point(|entry| entry.position <= from.position);
        let at = match first.checked_sub(1).and_then(|index| kept.entries.get(index)) {
            Some(entry) => ChainHead { position: entry.position, chain_hash: entry.chain_hash },
            None => kept.before?,
        };
        if at != from {
            return None;
        }
        let mut bytes = 0;
        let mut last = None;
        let fits = |entry: &&Arc<LogEntry>| -> bool {
            // Events that one was upcast to stay together.
            let fits = last.is_some_and(|(_, position)| position == entry.position)
                || last.is_none_or(|(count, _)| count < limit.events && bytes < limit.bytes);
            bytes += size(entry);
            last = Some((last.map_or(0, |(count, _)| count) + 1, entry.position));
            fits
        };
        Some(kept.entries.iter().skip(first).take_while(fits).cloned().collect())
    }

    /// Reads the log whenever its head is announced, until shutdown.
    pub async fn follow(
        &self,
        database: Database,
        upcasters: Arc<Upcasters>,
        mut head: watch::Receiver<u64>,
        shutdown: CancellationToken,
    ) {
        let read_again = async {
            loop {
                if let Err(error) = self.read_on(&database, &upcasters, &mut head).await {
                    tracing::warn!(error = format!("{error:#}"), "the end of the log is read anew");
                }
                self.forget();
                sleep(RECONNECT_AFTER).await;
            }
        };
        shutdown.run_until_cancelled(read_again).await;
    }

    async fn read_on(
        &self,
        database: &Database,
        upcasters: &Upcasters,
        head: &mut watch::Receiver<u64>,
    ) -> anyhow::Result<()> {
        let settings = [("statement_timeout", "60s")].into_iter().chain(KEPT_PLANS);
        let settings = settings.map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>();
        let mut connection = database.dedicated("aihub-tail", &settings).await?;
        let mut read = reader::head(&mut connection).await?;
        self.begin(read);
        loop {
            let earliest = Instant::now() + READ_EVERY;
            read = self.read_from(read, &mut connection, upcasters).await?;
            // Announced or not, it is time to look.
            let _ = timeout(LOOK_EVERY, head.wait_for(|head| *head > read.position)).await;
            let full = timeout_at(earliest, head.wait_for(|head| *head >= read.position + FULL_BATCH));
            if full.await.is_ok_and(|head| head.is_err()) {
                // Nobody announces anything any more.
                sleep_until(earliest).await;
            }
        }
    }

    /// Everything after `read`; the last of it.
    async fn read_from(
        &self,
        mut read: ChainHead,
        connection: &mut PgConnection,
        upcasters: &Upcasters,
    ) -> anyhow::Result<ChainHead> {
        let limit = ReadLimit::default();
        loop {
            // The one at `read` is read along, to see that it is still the same.
            let first = read.position.max(1);
            let mut events = reader::events_from(&mut *connection, first, limit).await?;
            if read.position > 0 {
                let is_same = events.first().is_some_and(|event| event.head() == read);
                ensure!(is_same, "the log has another history: position {first} is another event now");
                events.remove(0);
            }
            let Some(last) = events.last() else { return Ok(read) };
            read = last.head();
            self.keep(entries(upcasters.apply(events)?), read);
        }
    }

    fn begin(&self, at: ChainHead) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Kept { before: Some(at), ..Kept::default() };
        self.position.send_replace(at.position);
    }

    /// Handlers read for themselves until it is followed again.
    fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn keep(&self, entries: Vec<Arc<LogEntry>>, read: ChainHead) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += entries.iter().map(size).sum::<usize>();
        kept.entries.extend(entries);
        while kept.entries.len() > KEPT_EVENTS || kept.bytes > KEPT_BYTES {
            let Some(entry) = kept.entries.pop_front() else { break };
            kept.bytes -= size(&entry);
            kept.before = Some(entry.head());
        }
        self.position.send_replace(read.position);
    }
}

fn size(entry: &Arc<LogEntry>) -> usize {
    entry.payload.len() + entry.metadata.len()
}
