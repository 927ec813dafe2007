//! How the service ends: it leaves its work to others, takes no more, lets what runs come to its end for a while, and ends the rest.
//! Each step has a bound, whatever a client, a provider or the database does meanwhile.

use std::time::Duration;

use aihub_infrastructure::nodes;
use tokio::{
    join,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{App, housekeeping::write_down_refusals};
use crate::{
    config::duration_ms,
    router::router,
    server::{Bounds, serve},
};

/// How long the last commits may take after the drain's time is up. What is not written down by then is ended by another node.
const LAST_COMMITS: Duration = Duration::from_secs(15);
/// For the last frames and responses, and for what was refused last.
const LAST_WORDS: Duration = Duration::from_secs(3);
const LAST_WORK: Duration = Duration::from_secs(5);
const GOODBYES: Duration = Duration::from_secs(1);
/// The server that came along: what it has committed is safe however it ends.
const EMBEDDED: Duration = Duration::from_secs(10);
/// The longest that all of this takes after `drain_notice_ms` and `drain_ms`, but for the embedded database.
pub const END_WITHIN: Duration = Duration::from_secs(25);
const _: () = assert!(
    LAST_COMMITS.as_secs() + LAST_WORDS.as_secs() + LAST_WORK.as_secs() + GOODBYES.as_secs() < END_WITHIN.as_secs()
);

impl App {
    /// Serves until `shutdown`, then drains: it says so while it still takes whoever comes, then there is no new work, running
    /// answers get their time, the rest end typed and billed, and everything that was accepted has its end in the log before
    /// this returns, if the log takes it.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let gateway = self.hub.gateway.clone();
        let server = &self.config.server;
        let bounds =
            Bounds { max_connections: server.max_connections, head_timeout: duration_ms(server.head_timeout_ms) };
        let server = serve(self.listener, router(self.hub.clone()), bounds, gateway.draining.clone());
        let mut server = TaskTracker::new().spawn(server);
        let stop_embedded = CancellationToken::new();
        let embedded = self.embedded.map(|embedded| TaskTracker::new().spawn(embedded.keep(stop_embedded.clone())));

        shutdown.cancelled().await;
        let (notice, drain) = (self.config.drain_notice(), duration_ms(self.config.server.drain_ms));
        tracing::info!(drain.notice_ms = notice.as_millis(), drain.limit_ms = drain.as_millis(), "draining");
        self.hub.leaving.cancel();
        let handing_over = async {
            // Alone, or beside others that leave as well, this node goes on with it: nobody else would.
            nodes::leave_to_others(&self.hub.database, &gateway.settings.node).await;
            self.hand_over.cancel();
            self.hub.subscriptions.hand_over();
            tracing::info!("what one node at a time does is left to the others");
            std::future::pending::<()>().await;
        };
        let draining = async {
            sleep(notice).await;
            gateway.draining.cancel();
            gateway.tasks.close();
            if timeout(drain, gateway.tasks.wait()).await.is_err() {
                tracing::warn!(
                    requests.running = gateway.tasks.len(),
                    "the drain's time is up: ending what still runs"
                );
            }
            gateway.stopping.cancel();
            if timeout(LAST_COMMITS, gateway.tasks.wait()).await.is_err() {
                tracing::error!(requests.running = gateway.tasks.len(), "left to the expiry policy of another node");
            }
        };
        tokio::select! {
            () = draining => {}
            () = handing_over => {}
        }
        self.hub.sessions.close();
        let (frames, responses, ()) = join!(
            timeout(LAST_WORDS, self.hub.sessions.wait()),
            // It ends by itself when what was asked over HTTP is answered.
            timeout(LAST_WORDS, &mut server),
            // Whether it is done in time is seen by what is left.
            async { drop(timeout(LAST_WORDS, write_down_refusals(&gateway)).await) },
        );
        tracing::debug!(in_time = frames.is_ok(), "sockets closed");
        if responses.is_err() {
            tracing::warn!("some HTTP calls were not answered in time");
            server.abort();
        }
        if let Some(simulated) = &self.simulated {
            simulated.stop.cancel();
        }
        let lost = gateway.refusals.give_up();
        if lost > 0 {
            tracing::warn!(refusals.count = lost, "what was refused last is not in the log");
        }
        self.stop_workers.cancel();
        self.drivers.close();
        if timeout(LAST_WORK / 2, self.drivers.wait()).await.is_err() {
            tracing::warn!("what looks after videos and workflows did not stop in time");
        }
        self.log.close();
        self.workers.close();
        if timeout(LAST_WORK / 2, self.workers.wait()).await.is_err() {
            tracing::warn!("some workers did not stop in time");
        }
        // Connections that somebody still reads from end with the process.
        let goodbyes = async { join!(self.hub.reads.pool().close(), self.hub.database.pool().close()) };
        if timeout(GOODBYES, goodbyes).await.is_err() {
            tracing::warn!("some connections to the database were not closed in time");
        }
        stop_embedded.cancel();
        if let Some(embedded) = embedded {
            let stopping = async { anyhow::Ok(embedded.await?.stop().await?) };
            if let Ok(stopped) = timeout(EMBEDDED, stopping).await {
                stopped?;
            } else {
                tracing::warn!("the embedded PostgreSQL did not stop in time and is left to itself");
            }
        }
        tracing::info!("stopped");
        Ok(())
    }
}
