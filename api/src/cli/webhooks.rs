//! `aihub webhooks`: what clients were told of their videos.

use aihub_infrastructure::webhooks::deliveries::{self, DeliveryFilter};
use anyhow::bail;
use clap::Subcommand;

use super::{access::Who, account::Ledger, output::out_line};
use crate::config::Config;

const MAX_LISTED: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// List deliveries, the latest first
    List {
        #[arg(long)]
        account: Option<String>,
        #[arg(long)]
        video: Option<String>,
        #[command(flatten)]
        who: Who,
    },
    /// Tell a video's end once more
    Redeliver { video_id: String },
}

impl Webhooks {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = self.act(&ledger).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn act(self, ledger: &Ledger) -> anyhow::Result<()> {
        let pool = ledger.database.pool();
        match self {
            Self::List { account, video, who } => {
                let asked = [("account", account.clone()), ("video", video.clone())];
                who.looks(&ledger.database, "webhooks.list", asked).await?;
                let filter = DeliveryFilter { video_id: video.as_deref(), account: account.as_deref(), state: None };
                for one in deliveries::list(pool, filter, MAX_LISTED).await? {
                    let last = one.last_status.map(|status| status.to_string()).or(one.last_error).unwrap_or_default();
                    out_line(format_args!(
                        "{}  {}  {}  {}  {} attempts  {last}",
                        one.delivery_id, one.video_id, one.event_type, one.state, one.attempts
                    ))?;
                }
                Ok(())
            }
            Self::Redeliver { video_id } => {
                if !deliveries::redeliver(pool, &video_id).await? {
                    bail!("video {video_id} has no end that is to be told, or it was over a month ago");
                }
                Ok(out_line(format_args!("the end of video {video_id} is told again, for up to a day"))?)
            }
        }
    }
}
