//! `aihub close 2026-10`: closes an accounting month for good.

use aihub_application::ports::clock::{Clock as _, SystemClock};
use aihub_domain::period::{Month, event::PeriodEvent};
use aihub_infrastructure::{audit::checkpoint, database_clock::DatabaseClock, event_store::upcast::Upcasters};
use clap::Args;

use super::{
    database::with_database,
    output::{out, remark},
};
use crate::{
    bootstrap::signing_key,
    config::Config,
    month_close::{Closed, close_month},
};

#[derive(Debug, Args)]
pub struct Close {
    /// The month, like 2026-10; it has to be over, and those before it closed
    month: Month,
    /// Who closes it
    #[arg(long)]
    actor: String,
}

impl Close {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let closed = with_database(config, async |database| {
            // Whether the month is over is the database's to say.
            let clock = DatabaseClock::read(database, SystemClock).await?;
            let closed = close_month(database, &Upcasters::default(), self.month, &self.actor, clock.now()).await?;
            // What the month was is signed at once, where this machine can.
            if let Ok(key) = signing_key(config)
                && let Err(error) = checkpoint::make(database, &key, &clock).await
            {
                remark(format_args!("no checkpoint was signed: {error}"))?;
            }
            Ok(closed)
        })
        .await?;
        Ok(out(describe(&closed))?)
    }
}

fn describe(Closed { position, event }: &Closed) -> String {
    let PeriodEvent::MonthClosed { month, position: watermark, chain_hash, totals, .. } = event;
    let tokens = [
        totals.input_tokens,
        totals.cached_input_tokens,
        totals.cache_write_tokens,
        totals.cache_write_1h_tokens,
        totals.output_tokens,
    ];
    let tokens: u64 = tokens.into_iter().sum();
    let lines: [(&str, &dyn std::fmt::Display); 12] = [
        ("watermark", watermark),
        ("chain hash", chain_hash),
        ("closed at position", position),
        ("requests", &totals.requests),
        ("tokens", &tokens),
        ("seconds of video", &totals.video_seconds),
        ("charged credits", &totals.charged_microcredits),
        ("provider cost, pico-USD", &totals.cost_picousd.0),
        ("granted credits", &totals.granted_microcredits),
        ("expired credits", &totals.expired_microcredits),
        ("credit notes", &totals.credit_notes_microcredits),
        ("debit notes", &totals.debit_notes_microcredits),
    ];
    let lines = lines.map(|(name, value)| format!("{name:<24}{value}\n"));
    format!("{month} is closed\n{}", lines.concat())
}
