//! The views by name, and how one is filled anew, beside the one that is read.
//!
//! A copy of the view's tables is made in the schema `read_next` and filled from the log's beginning, in large batches,
//! under a checkpoint of its own. When it has caught up, it takes the place of the live tables: one transaction locks
//! them, applies what is still missing, drops them, and moves the copy and the live checkpoint. Readers see the old view
//! up to that instant and the new one from then on; a runner of the live view that was further along is caught up with,
//! and goes on from where the new one stands. A rebuild that is cut off begins where it left off.

mod copy;
mod swap;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aihub_infrastructure::{
    database::{Database, KEPT_PLANS},
    event_store::{
        chain::ChainHead,
        reader,
        scan::{Scan, Stretch},
        subscription::{EventHandler, checkpoint},
        upcast::Upcasters,
    },
};
use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::{
    access_log, account_balance, credit_ledger, provider_health, request_status, usage_daily, usage_ledger,
    usage_monthly, video_status,
};

/// The class of the rebuilds' session locks: the ASCII text "aihr".
const LOCK_CLASS: i32 = 0x6169_6872;
/// So close behind the log, what is missing is applied while readers wait.
const CLOSE_ENOUGH: u64 = 2_000;
/// Between two attempts to take the place of a view that somebody reads.
const SWAP_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A view is a handler that can start again from nothing. Its name is that of the table that is read.
pub trait View: EventHandler {
    /// Everything that it writes, in the order in which it first touches them: whoever locks them waits in the same
    /// order.
    fn tables(&self) -> &'static [&'static str];

    /// The events that it is made from. It is given others too, and passes them over.
    fn event_types(&self) -> &'static [&'static str];
}

/// All of them.
pub fn views() -> Vec<Arc<dyn View>> {
    vec![
        Arc::new(access_log::View),
        Arc::new(account_balance::View),
        Arc::new(credit_ledger::View),
        Arc::new(provider_health::View),
        Arc::new(request_status::View),
        Arc::new(usage_daily::View),
        Arc::new(usage_ledger::View),
        Arc::new(usage_monthly::View),
        Arc::new(video_status::View),
    ]
}

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub position: u64,
    /// Of the log, when it was last looked at.
    pub head: u64,
    /// Positions that this run has passed.
    pub passed: u64,
    pub elapsed: Duration,
    /// Everything is applied, and only a reader keeps the new view from its place.
    pub waits_for_readers: bool,
}

impl Progress {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn per_second(&self) -> f64 {
        self.passed as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    /// `None` before anything has been passed.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn left(&self) -> Option<Duration> {
        let rate = self.per_second();
        (rate > 0.0).then(|| Duration::from_secs_f64(self.head.saturating_sub(self.position) as f64 / rate))
    }
}

/// A view that is filled anew.
pub struct Rebuild {
    view: Arc<dyn View>,
    scan: Scan,
    /// Finds tables in `read_next` first, holds the rebuild's lock, and applies.
    connection: PgConnection,
    /// Reads the log.
    log: PgConnection,
    checkpoint: ChainHead,
    head: u64,
    began: Instant,
    began_at: u64,
}

/// Under which the checkpoint of a view's rebuild is kept.
pub fn checkpoint_name(view: &dyn View) -> String {
    format!("{}+rebuild", view.name())
}

impl Rebuild {
    /// Begins a rebuild, or takes up one that was cut off.
    pub async fn begin(database: &Database, upcasters: Arc<Upcasters>, view: Arc<dyn View>) -> anyhow::Result<Self> {
        let settings = [("synchronous_commit", "off"), ("search_path", "read_next,public")];
        let settings = settings.into_iter().chain(KEPT_PLANS).map(|(name, value)| (name, value.to_owned()));
        let settings = settings.collect::<Vec<_>>();
        let mut connection = database.dedicated("aihub-rebuild", &settings).await?;
        let mut log = database.dedicated("aihub-rebuild-log", &settings).await?;
        let is_alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext($2))")
            .bind(LOCK_CLASS)
            .bind(view.name())
            .fetch_one(&mut connection)
            .await?;
        ensure!(is_alone, "{} is being rebuilt already", view.name());
        // In this order: the log goes on meanwhile, and the live view with it.
        let live = checkpoint::status(&mut connection, view.name()).await?.map_or(0, |live| live.position);
        let head = reader::head(&mut log).await?.position;
        ensure!(
            live <= head,
            "{} stands at position {live} and the log in this database ends at {head}: it is fed from elsewhere",
            view.name()
        );
        let scan = Scan::new(view.event_types(), upcasters);
        let checkpoint = copy::begin(&mut connection, &mut log, &*view).await?;
        let (began, began_at) = (Instant::now(), checkpoint.position);
        Ok(Self { view, scan, connection, log, checkpoint, head, began, began_at })
    }

    /// Fills the copy and puts it in the view's place. Returns the position that the new view is true at.
    pub async fn run(mut self, mut report: impl FnMut(Progress)) -> anyhow::Result<u64> {
        loop {
            self.catch_up(&mut report).await?;
            if let Some(position) = self.swap().await? {
                return Ok(position);
            }
            report(Progress { waits_for_readers: true, ..self.progress() });
            tokio::time::sleep(SWAP_AGAIN_AFTER).await;
        }
    }

    /// Applies the log until little of it is left.
    pub async fn catch_up(&mut self, report: &mut impl FnMut(Progress)) -> anyhow::Result<()> {
        self.head = reader::head(&mut self.log).await?.position;
        while self.head.saturating_sub(self.checkpoint.position) > CLOSE_ENOUGH {
            self.fill(report).await?;
            self.head = reader::head(&mut self.log).await?.position;
        }
        report(self.progress());
        Ok(())
    }

    /// Applies everything up to the head as it was last seen. One stretch is read while the one before is applied.
    async fn fill(&mut self, report: &mut impl FnMut(Progress)) -> anyhow::Result<()> {
        let (sender, mut stretches) = mpsc::channel::<Stretch>(1);
        let (scan, log, head) = (&self.scan, &mut self.log, self.head);
        let mut after = self.checkpoint.position;
        let reading = async move {
            while after < head {
                let stretch = scan.read(log, after, head).await?;
                after = stretch.to.position;
                if sender.send(stretch).await.is_err() {
                    break;
                }
            }
            anyhow::Ok(())
        };
        let (view, connection, checkpoint) = (&self.view, &mut self.connection, &mut self.checkpoint);
        let (began, began_at) = (self.began, self.began_at);
        let applying = async move {
            while let Some(stretch) = stretches.recv().await {
                apply(connection, &**view, *checkpoint, &stretch).await?;
                *checkpoint = stretch.to;
                let (position, passed) = (checkpoint.position, checkpoint.position - began_at);
                report(Progress { position, head, passed, elapsed: began.elapsed(), waits_for_readers: false });
            }
            anyhow::Ok(())
        };
        tokio::try_join!(reading, applying)?;
        Ok(())
    }

    fn progress(&self) -> Progress {
        let position = self.checkpoint.position;
        Progress {
            position,
            head: self.head.max(position),
            passed: position - self.began_at,
            elapsed: self.began.elapsed(),
            waits_for_readers: false,
        }
    }
}

/// One transaction: the events and the checkpoint.
async fn apply(
    connection: &mut PgConnection,
    view: &dyn View,
    from: ChainHead,
    stretch: &Stretch,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    view.apply(&mut transaction, &stretch.entries).await.with_context(|| {
        format!("{} stopped in positions {} to {}", view.name(), from.position + 1, stretch.to.position)
    })?;
    let moved = checkpoint::advance(&mut *transaction, &checkpoint_name(view), from, stretch.to).await?;
    ensure!(moved, "the checkpoint of the rebuild of {} was moved by somebody else", view.name());
    transaction.commit().await?;
    Ok(())
}
