//! `aihub reconcile openai usage.json`: what the provider says it has counted beside what we have charged.

use std::{path::PathBuf, str::FromStr};

use aihub_domain::period::Month;
use aihub_projections::{
    reconciliation::{Difference, Export, Tolerance, Vendor, differences, ours},
    report::selection::last_day,
};
use anyhow::Context;
use chrono::NaiveDate;
use clap::{Args, ValueEnum};
use rust_decimal::{Decimal, prelude::ToPrimitive};

use super::{
    access::Who,
    database::with_database,
    output::{out, remark},
};
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Reconcile {
    /// Whose export it is
    vendor: VendorName,
    /// The answer of the provider's usage API, grouped by model, all pages
    file: PathBuf,
    /// Only this month, like 2026-10 [default: the days that the export has]
    #[arg(long, conflicts_with_all = ["from", "to"])]
    month: Option<Month>,
    /// The first day
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// The last day, included
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
    /// How far a day's tokens of a model may be from what the provider says
    #[arg(long, default_value = "0.5%")]
    tolerance: Percent,
    /// What the provider is called in the configuration; may be given several times [default: openai or claude]
    #[arg(long)]
    provider: Vec<String>,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VendorName {
    Openai,
    Anthropic,
}

#[derive(Debug, Clone, Copy)]
struct Percent(Tolerance);

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let percent = Decimal::from_str_exact(text.strip_suffix('%').unwrap_or(text)).ok();
        let ppm = percent.and_then(|percent| percent.checked_mul(10_000.into())).filter(|ppm| ppm.fract().is_zero());
        let ppm = ppm.and_then(|ppm| ppm.to_u32()).filter(|ppm| *ppm <= 1_000_000);
        ppm.map(|ppm| Self(Tolerance { ppm })).ok_or("must be 0% to 100% with at most four decimals")
    }
}

impl Reconcile {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let (vendor, default) = match self.vendor {
            VendorName::Openai => (Vendor::OpenAi, "openai"),
            VendorName::Anthropic => (Vendor::Anthropic, "claude"),
        };
        let providers = if self.provider.is_empty() { vec![default.to_owned()] } else { self.provider };
        let text = std::fs::read(&self.file).with_context(|| format!("{} cannot be read", self.file.display()))?;
        let mut export = Export::read(vendor, &text).with_context(|| self.file.display().to_string())?;
        let (from, to) = match self.month {
            Some(month) => (month.first_day(), last_day(month)),
            None => (self.from.unwrap_or(export.days.0), self.to.unwrap_or(export.days.1)),
        };
        anyhow::ensure!(from <= to, "{from} is after {to}");
        export.figures.retain(|(day, _), _| (from..=to).contains(day));

        let (known, basis) = with_database(config, async |database| {
            let asked = [
                ("provider", Some(providers.join(","))),
                ("from", Some(from.to_string())),
                ("to", Some(to.to_string())),
            ];
            self.who.looks(database, "reconcile", asked).await?;
            Ok(ours(database.pool(), &providers, (from, to)).await?)
        })
        .await?;
        let found = differences(&known, &export.figures, vendor, self.tolerance.0);
        out(table(&found))?;
        let beyond = found.iter().filter(|found| found.is_beyond).count();
        let (ours, theirs) = (known.len(), export.figures.len());
        remark(format_args!(
            "{from} to {to}: {ours} days x models of ours at position {}, {theirs} of theirs, {} figures differ",
            basis.position,
            found.len()
        ))?;
        anyhow::ensure!(beyond == 0, "{beyond} figures differ by more than is tolerated");
        Ok(())
    }
}

fn table(found: &[Difference]) -> String {
    let lines = found.iter().map(|Difference { day, model, figure, ours, theirs, is_beyond }| {
        let difference = i128::from(*ours) - i128::from(*theirs);
        let verdict = if *is_beyond { "BEYOND" } else { "tolerated" };
        format!("{day}  {model:<32} {figure:<20} ours {ours:>14}  theirs {theirs:>14}  {difference:>+14}  {verdict}\n")
    });
    lines.collect::<Vec<_>>().concat()
}
