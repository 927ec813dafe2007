//! Views in another database, fed from Kafka: a reading side on its own machine.
//!
//! The views need the events in the order of their positions, and those stand in many partitions. So one process reads
//! all of them and merges them; others of the same database stand by. Which one it is, is decided by a lease in the
//! database that the views are in, and not by Kafka's group protocol, which would spread the partitions over the
//! members, and could give a partition away while the transaction is still open that its events are applied in. Whoever
//! holds the lock on the connection that it applies on cannot apply anything without it. There are no rebalances to
//! survive then: partitions that are added are noticed, and everything is read on from the offsets in the database.
//!
//! What the views have applied is said by their checkpoints alone, position and chain hash. The offsets stand beside
//! them, moved by the same transaction, and only say where to look for the next position: were they lost, everything
//! would be read from the beginning and passed over up to there. They are shown to Kafka as well, as those of a consumer
//! group, so that its lag can be watched with the tools that there are for it.
//!
//! Every event is checked before it is applied: that its content has the hash it claims, and that it is chained to the
//! one before. What stops a view stops all, where it is: reports from one database agree.

mod merge;
mod partitions;
mod target;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    merge::{HELD, Merge},
    partitions::{Client, Partitions, Read, Survey},
    target::{Offset, Target, TargetError},
};
use super::{cluster::Cluster, reachability::Reachability};
use crate::{
    database::Database,
    event_store::{reader::ReadLimit, subscription::EventHandler, upcast::Upcasters},
};

/// Messages that are read before what has its turn is applied.
const READ_AT_ONCE: usize = 2_048;

/// How often the lock is tried for, and the connection that holds it looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the partitions are counted, and the group's offsets shown.
const SURVEY_EVERY: Duration = Duration::from_secs(10);
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How long a position may be missing from topics that are read to their end.
const MISSING_FOR: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// What feeds the views of one database.
pub struct Projector {
    pub cluster: Cluster,
    /// Under which its offsets are kept, and shown to Kafka.
    pub group: String,
    /// Has the schema of a hub, and an empty log.
    pub database: Database,
    pub views: Vec<Arc<dyn EventHandler>>,
    pub upcasters: Arc<Upcasters>,
    pub reachability: Reachability,
}

/// A turn that ended without an error.
enum Turn {
    Shutdown,
    /// Everything is to be read on from the offsets: partitions were added, or something has to be read again.
    Again,
    /// This position was not found behind the offsets: everything is to be read from the beginning.
    LookFor(u64),
}

impl Projector {
    /// Until `shutdown`, or until a view or the chain stops it.
    pub async fn run(&self, shutdown: &CancellationToken) -> Result<(), TargetError> {
        let mut backoff = FIRST_BACKOFF;
        let mut looked_for = None;
        loop {
            match self.turn(shutdown, looked_for, &mut backoff).await {
                Ok(Turn::Shutdown) => return Ok(()),
                Ok(Turn::Again) => {}
                Ok(Turn::LookFor(position)) => looked_for = Some(position),
                Err(stopped @ TargetError::Stopped { .. }) => return Err(stopped),
                Err(TargetError::Lost(error)) => {
                    tracing::warn!(error.message = format!("{error:#}"), "begins again");
                    if shutdown.run_until_cancelled(sleep(backoff)).await.is_none() {
                        return Ok(());
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
    }

    async fn turn(
        &self,
        shutdown: &CancellationToken,
        looked_for: Option<u64>,
        backoff: &mut Duration,
    ) -> Result<Turn, TargetError> {
        let mut target = Target::connect(&self.database, &self.views, self.upcasters.clone(), &self.group).await?;
        let mut stands_by = false;
        while !target.begin().await? {
            if !stands_by {
                tracing::info!("stands by: another process feeds this database");
                stands_by = true;
            }
            if shutdown.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return Ok(Turn::Shutdown);
            }
        }
        let client = partitions::connect(&self.cluster, &self.group).map_err(lost)?;
        let survey = partitions::survey(client.clone(), &self.cluster);
        let Some(survey) = shutdown.run_until_cancelled(survey).await else { return Ok(Turn::Shutdown) };
        let (cluster_id, names) = survey.map_err(anyhow::Error::from).flatten().map_err(lost)?;
        let next = target.head().position + 1;
        let offsets = if looked_for == Some(next) { HashMap::new() } else { target.offsets(&cluster_id).await? };
        let partitions = Partitions::assign(client.clone(), names, &offsets).map_err(lost)?;
        tracing::info!(position = next, partitions = partitions.names().len(), "reads Kafka from this position on");
        let merge = Merge::new(next, partitions.first_offsets().iter().copied(), HELD);
        let reading = Reading {
            projector: self,
            client,
            merge,
            heard: vec![false; partitions.names().len()],
            partitions: &partitions,
            cluster_id: &cluster_id,
            survey: None,
            surveyed_at: Instant::now(),
            unshown: None,
            shown_at: Instant::now(),
            looked_at: Instant::now(),
            missing_since: Instant::now(),
        };
        let turn = reading.run(&mut target, shutdown, looked_for, backoff).await;
        // It waits for its threads, and for the broker.
        let _ = spawn_blocking(move || drop(partitions)).await;
        turn
    }
}

/// A turn's reading.
struct Reading<'a> {
    projector: &'a Projector,
    client: Arc<Client>,
    merge: Merge,
    /// By partition: whether anything came out of its own queue.
    heard: Vec<bool>,
    partitions: &'a Partitions,
    cluster_id: &'a str,
    survey: Option<Survey>,
    surveyed_at: Instant,
    /// What was applied and not shown yet.
    unshown: Option<Vec<Offset>>,
    shown_at: Instant,
    looked_at: Instant,
    /// Since when the next position has not been at hand.
    missing_since: Instant,
}

impl Reading<'_> {
    async fn run(
        mut self,
        target: &mut Target,
        shutdown: &CancellationToken,
        looked_for: Option<u64>,
        backoff: &mut Duration,
    ) -> Result<Turn, TargetError> {
        while !shutdown.is_cancelled() {
            let has_read = self.read().map_err(lost)?;
            let run = self.merge.take_run(ReadLimit::default());
            if !run.is_empty() {
                let offsets = self.partitions.named(self.merge.offsets());
                target.apply(&run, self.cluster_id, &offsets).await?;
                *backoff = FIRST_BACKOFF;
                self.missing_since = Instant::now();
                self.unshown = Some(offsets);
            }
            if self.shown_at.elapsed() >= SHOW_EVERY
                && let Some(offsets) = self.unshown.take()
            {
                self.partitions.show(&offsets);
                self.shown_at = Instant::now();
            }
            if self.merge.must_read_again() || self.has_other_partitions().await {
                return Ok(Turn::Again);
            }
            if self.missing_since.elapsed() >= MISSING_FOR && self.is_missing() {
                let position = self.merge.next();
                if looked_for != Some(position) {
                    tracing::warn!(position, "not found where it should be: everything is looked through again");
                    return Ok(Turn::LookFor(position));
                }
                self.missing_since = Instant::now();
                target.miss(position).await?;
            }
            if self.looked_at.elapsed() >= LOOK_EVERY {
                target.look().await?;
                self.looked_at = Instant::now();
            }
            if !has_read {
                // Called or not, it is time to look.
                let _ = shutdown.run_until_cancelled(timeout(LOOK_EVERY, self.partitions.more())).await;
            }
        }
        Ok(Turn::Shutdown)
    }

    /// Whether anything came.
    fn read(&mut self) -> anyhow::Result<bool> {
        for (source, read) in self.partitions.serve() {
            match read {
                Read::Message(offset, event) => {
                    // It was fetched before all that is in the partition's own queue. An end that was read there is later
                    // and stays; it will not be told again.
                    let has_ended = self.heard[source] && self.merge.has_ended(source);
                    self.merge.offer(source, offset, event.map(|event| *event));
                    if has_ended {
                        self.merge.ends(source);
                    }
                }
                Read::End => self.merge.ends(source),
                Read::Nothing => {}
            }
        }
        for nth in 0..READ_AT_ONCE {
            if !self.read_one()? {
                return Ok(nth > 0);
            }
        }
        Ok(true)
    }

    fn read_one(&mut self) -> anyhow::Result<bool> {
        for source in self.merge.by_position() {
            loop {
                match self.partitions.read(source)? {
                    Read::Message(offset, event) => {
                        self.heard[source] = true;
                        self.merge.offer(source, offset, event.map(|event| *event));
                        return Ok(true);
                    }
                    Read::End => {
                        self.heard[source] = true;
                        self.merge.ends(source);
                    }
                    Read::Nothing => break,
                }
            }
        }
        Ok(false)
    }

    /// The topics were read to their end, or as far as there is room, and have later positions than the next.
    fn is_missing(&self) -> bool {
        self.merge.lowest_held().is_some() && (self.merge.is_at_end() || self.merge.is_well_filled())
    }

    async fn has_other_partitions(&mut self) -> bool {
        match self.survey.take() {
            None if self.surveyed_at.elapsed() >= SURVEY_EVERY => {
                self.survey = Some(partitions::survey(self.client.clone(), &self.projector.cluster));
                false
            }
            Some(survey) if survey.is_finished() => {
                self.surveyed_at = Instant::now();
                let reachability = &self.projector.reachability;
                match survey.await.map_err(anyhow::Error::from).flatten() {
                    Ok((cluster_id, names)) => {
                        reachability.answers();
                        cluster_id != self.cluster_id || names != self.partitions.names()
                    }
                    Err(error) => {
                        reachability.is_silent(&format!("{error:#}"));
                        false
                    }
                }
            }
            running => {
                self.survey = running;
                false
            }
        }
    }
}

fn lost(error: anyhow::Error) -> TargetError {
    TargetError::Lost(error)
}
