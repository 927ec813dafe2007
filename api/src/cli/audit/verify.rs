use std::{path::PathBuf, time::Instant};

use aihub_infrastructure::{
    audit::verify::{Line, Progress, Scope, Verdict, verify},
    database::Database,
};
use aihub_projections::account_balance;
use clap::Args;

use super::{Finding, Keys};
use crate::{
    cli::{
        access::Who,
        output::{out_line, progress, progress_done, remark},
    },
    config::Config,
};

#[derive(Debug, Args)]
pub struct Verify {
    /// The first position; what lies in front is taken for granted
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// The last position [default: the log's last]
    #[arg(long)]
    to: Option<u64>,
    /// A checkpoint that was saved elsewhere: the log has to be the one that it was, and go on from there
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Leave out the prompts and answers that events name: most of what there is to read
    #[arg(long)]
    without_content: bool,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    who: Who,
}

impl Verify {
    pub async fn run(self, config: &Config, database: &Database) -> anyhow::Result<()> {
        let saved = self.checkpoint.map(std::fs::read_to_string).transpose();
        let saved = saved.map_err(|error| Finding::Unreadable(format!("the saved checkpoint: {error}")))?;
        let scope = Scope {
            from: self.from,
            to: self.to,
            saved,
            keys: self.keys.known(config)?,
            balances: account_balance::AUDITED,
            contents: !self.without_content,
        };
        let began = Instant::now();
        let show = |now: Progress| {
            let rate = per_second(now.position - scope.from.min(now.position), began);
            progress(format_args!("{} of {}, {rate} events/s", now.position, now.last));
        };
        let report = verify(database, &scope, show).await;
        progress_done();
        let report = report.map_err(Finding::from)?;
        for Line { what, text } in &report.lines {
            out_line(format_args!("{what:<17} {text}"))?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let rate = per_second(report.events, began);
        out_line(format_args!("{:<17} {} events in {seconds:.1} s, {rate}/s", "read", report.events))?;
        let finding = match report.verdict {
            Verdict::Intact => {
                let asked = [("from", Some(self.from.to_string())), ("to", self.to.map(|to| to.to_string()))];
                self.who.looks(database, "audit.verify", asked).await?;
                return Ok(out_line("intact")?);
            }
            Verdict::Tampered(fault) => Finding::Tampered(fault.to_string()),
            Verdict::Incomplete(what) => Finding::Incomplete(what),
        };
        // What was found is found again: to a log that lost its end, one more event is another end.
        remark("this use is not in the access log: a log that is not whole is left as it is")?;
        Err(finding.into())
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a figure for a person"
)]
fn per_second(events: u64, since: Instant) -> u64 {
    (events as f64 / since.elapsed().as_secs_f64().max(0.001)) as u64
}
