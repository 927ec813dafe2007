//! One small unit alone, through the same event log, on the same server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aihub_application::ports::event_log::EventLog;
use aihub_infrastructure::event_store::{PostgresEventLog, upcast::Upcasters, writer::WriterOptions};
use aihub_tests::log::lone_unit;
use tokio_util::task::TaskTracker;

use crate::processes::Bench;

/// A log beside the service's own.
pub struct Commits {
    log: PostgresEventLog,
    tracker: TaskTracker,
}

impl Commits {
    pub fn start(bench: &Bench) -> Self {
        let tracker = TaskTracker::new();
        let upcasters = Arc::new(Upcasters::default());
        let log = PostgresEventLog::start(bench.beside.clone(), WriterOptions::default(), upcasters, &tracker);
        Self { log, tracker }
    }

    /// How long one commit takes.
    pub async fn one(&self) -> Duration {
        let unit = lone_unit();
        let started = Instant::now();
        self.log.append(unit).await.unwrap();
        started.elapsed()
    }

    pub async fn stop(self) {
        self.log.close();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
