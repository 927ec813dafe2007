//! The views by name, and how one is filled anew, beside the one that is read. The tables that the service works with are
//! views in this sense too.
//!
//! A copy of the view's tables is made in the schema `read_next` and filled from the log's beginning, in large batches,
//! under a checkpoint of its own. When it has caught up, it takes the place of the live tables: one transaction locks
//! them, applies what is still missing, drops them, and moves the copy and the live checkpoint. Readers see the old view
//! up to that instant and the new one from then on; a runner of the live view that was further along is caught up with,
//! and goes on from where the new one stands. A rebuild that is cut off begins where it left off.
//!
//! Nothing is replaced by a copy that does not stand at its position with its rows: each transaction sees that the tables that
//! it fills are those that were made as copies, which the last one requires again, together with the checkpoint and with rows
//! where events were applied that leave some.

mod copy;
mod swap;
mod working;

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
    leases::Lease,
};
use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use self::copy::Copies;

use crate::{
    access_log, account_balance, credit_ledger, provider_health, request_status, usage_daily, usage_ledger,
    usage_monthly, video_status,
};

/// So close behind the log, what is missing is applied while readers wait.
const CLOSE_ENOUGH: u64 = 2_000;
/// Between two attempts to take the place of a view that somebody reads.
const SWAP_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A view is a handler that can start again from nothing.
pub trait View: EventHandler {
    /// Where its tables are.
    fn schema(&self) -> &'static str {
        "read"
    }

    /// Whether every event that it is made from leaves a row behind, so that it is never empty after the first of them.
    fn keeps_rows(&self) -> bool {
        true
    }

    /// Everything that it writes, in the order in which it first touches them: whoever locks them waits in the same
    /// order.
    fn tables(&self) -> &'static [&'static str];

    /// The events that it is made from. It is given others too, and passes them over.
    fn event_types(&self) -> &'static [&'static str];
}

/// All that are read. The name of each is that of its table.
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

pub use working::working_tables;

/// How far a rebuild has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub position: u64,
    /// Of the log, when it was last looked at.
    pub head: u64,
    /// Positions that this run has passed.
    pub passed: u64,
    pub elapsed: Duration,
    /// Everything is applied, and only these readers keep the new view from its place.
    pub waits_for: Option<Vec<String>>,
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
    /// Has the rebuild's lease, and applies.
    connection: PgConnection,
    lease: Lease,
    copies: Copies,
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
        let settings = [("synchronous_commit", "off")].into_iter().chain(KEPT_PLANS);
        let settings = settings.map(|(name, value)| (name, value.to_owned()));
        let settings = settings.collect::<Vec<_>>();
        let mut connection = database.dedicated("aihub-rebuild", &settings).await?;
        let mut log = database.dedicated("aihub-rebuild-log", &settings).await?;
        let lease = Lease::new(format!("rebuild {}", view.name()));
        ensure!(lease.take(&mut connection).await?, "{} is being rebuilt already", view.name());
        // In this order: the log goes on meanwhile, and the live view with it.
        let live = checkpoint::status(&mut connection, view.name()).await?.map_or(0, |live| live.position);
        let head = reader::head(&mut log).await?.position;
        ensure!(
            live <= head,
            "{} stands at position {live} and the log in this database ends at {head}: it is fed from elsewhere",
            view.name()
        );
        let scan = Scan::new(view.event_types(), upcasters);
        let (copies, checkpoint) = Copies::begin(&mut connection, &mut log, &*view).await?;
        let (began, began_at) = (Instant::now(), checkpoint.position);
        Ok(Self { view, scan, connection, lease, copies, log, checkpoint, head, began, began_at })
    }

    /// Fills the copy and puts it in the view's place. Returns the position that the new view is true at.
    pub async fn run(mut self, mut report: impl FnMut(Progress)) -> anyhow::Result<u64> {
        loop {
            self.catch_up(&mut report).await?;
            if let Some(position) = self.swap().await? {
                return Ok(position);
            }
            let waits_for = Some(swap::readers(&mut self.connection, &*self.view).await?);
            report(Progress { waits_for, ..self.progress() });
            tokio::time::sleep(SWAP_AGAIN_AFTER).await;
            ensure!(self.lease.keep(&mut self.connection).await?, "another rebuild of {} has begun", self.view.name());
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
        let (lease, copies) = (&self.lease, &self.copies);
        let (began, began_at) = (self.began, self.began_at);
        let applying = async move {
            while let Some(stretch) = stretches.recv().await {
                apply(connection, &**view, (lease, copies), *checkpoint, &stretch).await?;
                *checkpoint = stretch.to;
                let (position, passed) = (checkpoint.position, checkpoint.position - began_at);
                report(Progress { position, head, passed, elapsed: began.elapsed(), waits_for: None });
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
            waits_for: None,
        }
    }
}

/// One transaction: the events, their number and the checkpoint.
async fn apply(
    connection: &mut PgConnection,
    view: &dyn View,
    (lease, copies): (&Lease, &Copies),
    from: ChainHead,
    stretch: &Stretch,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    ensure!(lease.keep(&mut *transaction).await?, "another rebuild of {} has begun", view.name());
    copies.name(&mut transaction, view).await?;
    copies.count(&mut transaction, view, stretch.entries.len()).await?;
    view.apply(&mut transaction, &stretch.entries).await.with_context(|| {
        format!("{} stopped in positions {} to {}", view.name(), from.position + 1, stretch.to.position)
    })?;
    let moved = checkpoint::advance(&mut *transaction, &checkpoint_name(view), from, stretch.to).await?;
    ensure!(moved, "the checkpoint of the rebuild of {} was moved by somebody else", view.name());
    transaction.commit().await?;
    Ok(())
}
