//! News of jobs, from the handlers that read the log, on whichever node, to whoever waits for them on this one.

use std::time::Duration;

use aihub_application::ports::jobs::{JobKind, News};
use sqlx::PgExecutor;
use tokio::{sync::broadcast::Sender, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::database::Database;

/// The channel on which nodes hear of jobs: `<kind> <id> <account>` where one changed, `nudge <id>` where one is to be looked at.
const CHANNEL: &str = "jobs";
/// News that are kept for a node's listeners; one that is further behind looks at everything anyway.
const KEPT_NEWS: usize = 1_024;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

pub fn channel() -> Sender<News> {
    Sender::new(KEPT_NEWS)
}

/// Hears of jobs, for whoever has subscribed to `news`, until `stop`.
pub async fn follow(database: Database, news: Sender<News>, stop: CancellationToken) {
    let listening = async {
        loop {
            if let Err(error) = listen(&database, &news).await {
                tracing::warn!(error = %error, "news of the jobs are not heard; listening again");
            }
            sleep(RECONNECT_AFTER).await;
        }
    };
    stop.run_until_cancelled(listening).await;
}

async fn listen(database: &Database, news: &Sender<News>) -> Result<(), sqlx::Error> {
    let mut listener = database.listener().await?;
    listener.listen(CHANNEL).await?;
    // Nobody may be waiting.
    let _ = news.send(News::Missed);
    loop {
        // None: the connection was lost and made again.
        let told = listener.try_recv().await?;
        let _ = news.send(told.and_then(|told| parse(told.payload())).unwrap_or(News::Missed));
    }
}

fn parse(told: &str) -> Option<News> {
    let (what, rest) = told.split_once(' ')?;
    if what == "nudge" {
        return Some(News::Nudged { video_id: rest.to_owned() });
    }
    let (id, account) = rest.split_once(' ')?;
    Some(News::Changed { kind: JobKind::parse(what)?, id: id.to_owned(), account: account.to_owned() })
}

pub(crate) fn changed(kind: JobKind, id: &str, account: &str) -> String {
    format!("{kind} {id} {account}")
}

pub(crate) fn nudge(video_id: &str) -> String {
    format!("nudge {video_id}")
}

/// Told when the transaction is committed.
pub(crate) async fn tell(executor: impl PgExecutor<'_>, news: &[String]) -> Result<(), sqlx::Error> {
    let tell = sqlx::query!("SELECT pg_notify($1, news) FROM unnest($2::text[]) AS told (news)", CHANNEL, news);
    tell.execute(executor).await.map(drop)
}
