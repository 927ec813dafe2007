//! The node's one ear for the log: every append announces its last position.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, event_store::reader};

/// How long after a lost connection the next is tried. Runners look for themselves every second anyway.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Feeds `head` until shutdown. It never goes back.
pub async fn follow(database: Database, head: watch::Sender<u64>, shutdown: CancellationToken) {
    let listen_again = async {
        loop {
            if let Err(error) = listen(&database, &head).await {
                tracing::warn!(error = %error, "the log's announcements are not heard, only looked for");
            }
            sleep(RECONNECT_AFTER).await;
        }
    };
    shutdown.run_until_cancelled(listen_again).await;
}

async fn listen(database: &Database, head: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener: PgListener = database.listener().await?;
    listener.listen("events").await?;
    // What was appended before anyone listened.
    announce(head, reader::head(database.pool()).await?.position);
    while let Some(notification) = listener.try_recv().await? {
        if let Ok(position) = notification.payload().parse() {
            announce(head, position);
        }
    }
    Ok(())
}

fn announce(head: &watch::Sender<u64>, position: u64) {
    head.send_if_modified(|head| {
        let is_later = position > *head;
        *head = position.max(*head);
        is_later
    });
}
