//! The end of the log as this node has read it: once, for all of its handlers.
//!
//! Handlers that keep up take their events from here, those that are behind read the log themselves. Whoever asks says
//! where it stands with position and chain hash, so a tail of another history has nothing for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
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

/// How long after a read the next one begins, unless there is a full batch. What a read and a handler's step cost hardly depends
/// on how many events there are, so a busy log is read in batches.
const READ_EVERY: Duration = Duration::from_millis(25);
/// So many events are worth a read at once: the more there are, the less each of them pays for it.
const FULL_BATCH: u64 = 256;
/// How often a log is looked at for what other nodes append, once it has been quiet for [`QUIET_AFTER`].
const LOOK_EVERY: Duration = Duration::from_millis(100);
const QUIET_AFTER: Duration = Duration::from_secs(1);
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// What is kept for handlers that are a little behind.
const KEPT_EVENTS: usize = 8_192;
const KEPT_BYTES: usize = 32 << 20;
/// And for how long after the last of them: who is still behind then reads for itself.
const LET_GO_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Tail {
    kept: Mutex<Kept>,
    /// The position of the last event that is kept.
    position: watch::Sender<u64>,
    /// The position that this node has appended up to, as it said.
    appended: watch::Sender<u64>,
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

    /// There are events up to here.
    pub fn is_at_least(&self, position: u64) {
        self.appended.send_if_modified(|appended| std::mem::replace(appended, position.max(*appended)) < position);
    }

    /// Reads the log as it grows, until shutdown.
    pub async fn follow(self: Arc<Self>, database: Database, upcasters: Arc<Upcasters>, shutdown: CancellationToken) {
        let read_again = async {
            loop {
                if let Err(error) = self.read_on(&database, &upcasters).await {
                    tracing::warn!(error = format!("{error:#}"), "the end of the log is read anew");
                }
                self.forget();
                sleep(RECONNECT_AFTER).await;
            }
        };
        shutdown.run_until_cancelled(read_again).await;
    }

    async fn read_on(&self, database: &Database, upcasters: &Upcasters) -> anyhow::Result<()> {
        let settings = [("statement_timeout", "60s")].into_iter().chain(KEPT_PLANS);
        let settings = settings.map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>();
        let mut connection = database.dedicated("aihub-tail", &settings).await?;
        let mut read = reader::head(&mut connection).await?;
        self.begin(read);
        let (mut appended, mut moved_at) = (self.appended.subscribe(), Instant::now());
        loop {
            let (began, before, told) = (Instant::now(), read, *appended.borrow());
            read = self.read_from(read, &mut connection, upcasters).await?;
            if read != before {
                moved_at = began;
            }
            if moved_at.elapsed() > LET_GO_AFTER {
                self.let_go();
            }
            let pause = if moved_at.elapsed() < QUIET_AFTER { READ_EVERY } else { LOOK_EVERY };
            // What was told of and is not there is not asked for again.
            let known = read.position.max(told);
            if timeout_at(began + pause, appended.wait_for(|appended| *appended > known)).await.is_ok() {
                let full = appended.wait_for(|appended| *appended >= known + FULL_BATCH);
                let _ = timeout_at(moved_at + READ_EVERY, full).await;
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
            let events = reader::events_after(&mut *connection, read, limit).await?;
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

    /// Keeps none of what was read, and knows where that ended.
    fn let_go(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = kept.entries.back().map(|entry| entry.head()) {
            *kept = Kept { before: Some(last), ..Kept::default() };
        }
    }

    /// Handlers read for themselves until it is followed again.
    pub fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn keep(&self, entries: Vec<Arc<LogEntry>>, read: ChainHead) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever reads on although another one was told to reads something else than what comes next here.
        let end = kept.entries.back().map(|last| last.position).or(kept.before.map(|before| before.position));
        if entries.first().map(|first| first.position) != end.map(|end| end + 1) {
            return;
        }
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
