//! `aihub report`: the reports of finance, the same bytes as over HTTP.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_infrastructure::event_store::reader;
use aihub_projections::report::{
    self as library, Piece,
    format::{Format, watermark_of},
    selection::{Name, Parameters, Selection},
    watermark::Watermark,
};
use anyhow::Context;
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use futures::{StreamExt, pin_mut};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    access::Who,
    database::with_database,
    output::{is_terminal, remark},
};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub enum Report {
    /// Requests, tokens, seconds of video and money, by whatever you keep apart
    Usage(Asked<Usage>),
    /// What each account had, got, spent and has left
    Statement(Asked<Statement>),
    /// What is held for running requests and videos, and since when
    Holds(Asked<OfAccount>),
    /// Whether the books balance
    TrialBalance(Asked<OfAccount>),
    /// A month's close: what it states, what the ledgers come to, what was late or corrected
    Close(Asked<OfMonth>),
    /// The providers' cost against what was charged
    Margin(Asked<Margin>),
}

#[derive(Debug, Args)]
pub struct Asked<T: Args> {
    #[command(flatten)]
    what: T,
    /// As it was at a position of the log, or at a time like 2026-11-22T08:00:00Z
    #[arg(long, value_name = "TIME|POSITION")]
    as_of: Option<String>,
    #[arg(long, default_value = "csv", value_parser = PossibleValuesParser::new(Format::ALL.map(|(_, name)| name)))]
    format: String,
    /// Write it there; beside a table without room for it, the watermark goes to FILE.watermark.json
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
pub struct Days {
    /// The whole month, like 2026-10 [default: this month until today]
    #[arg(long, conflicts_with_all = ["from", "to"])]
    month: Option<String>,
    /// The first day
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// The last day, included
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
}

#[derive(Debug, Args)]
pub struct Filter {
    #[arg(long)]
    account: Option<String>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    provider: Option<String>,
    #[arg(long)]
    model: Option<String>,
}

#[derive(Debug, Args)]
pub struct Usage {
    #[command(flatten)]
    days: Days,
    #[command(flatten)]
    filter: Filter,
    /// Of day, month, account, user, provider and model, separated by commas
    #[arg(long, value_name = "LIST")]
    group_by: Option<String>,
}

#[derive(Debug, Args)]
pub struct Margin {
    #[command(flatten)]
    days: Days,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Args)]
pub struct Statement {
    #[command(flatten)]
    days: Days,
    #[arg(long)]
    account: Option<String>,
}

#[derive(Debug, Args)]
pub struct OfAccount {
    #[arg(long)]
    account: Option<String>,
}

#[derive(Debug, Args)]
pub struct OfMonth {
    /// Like 2026-10
    #[arg(long)]
    month: String,
}

impl From<Usage> for Parameters {
    fn from(Usage { days, filter, group_by }: Usage) -> Self {
        Self { group_by, ..Margin { days, filter }.into() }
    }
}

impl From<Margin> for Parameters {
    fn from(Margin { days: Days { month, from, to }, filter }: Margin) -> Self {
        let Filter { account, user, provider, model } = filter;
        Self { month, from, to, account, user, provider, model, ..Self::default() }
    }
}

impl From<Statement> for Parameters {
    fn from(Statement { days: Days { month, from, to }, account }: Statement) -> Self {
        Self { month, from, to, account, ..Self::default() }
    }
}

impl From<OfAccount> for Parameters {
    fn from(OfAccount { account }: OfAccount) -> Self {
        Self { account, ..Self::default() }
    }
}

impl From<OfMonth> for Parameters {
    fn from(OfMonth { month }: OfMonth) -> Self {
        Self { month: Some(month), ..Self::default() }
    }
}

impl Report {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Usage(asked) => asked.run(Name::Usage, config).await,
            Self::Statement(asked) => asked.run(Name::Statement, config).await,
            Self::Holds(asked) => asked.run(Name::Holds, config).await,
            Self::TrialBalance(asked) => asked.run(Name::TrialBalance, config).await,
            Self::Close(asked) => asked.run(Name::Close, config).await,
            Self::Margin(asked) => asked.run(Name::Margin, config).await,
        }
    }
}

impl<T: Args + Into<Parameters>> Asked<T> {
    async fn run(self, name: Name, config: &Config) -> anyhow::Result<()> {
        let Self { what, as_of, format: format_name, output, who } = self;
        let format = Format::from_text(&format_name).context("a format that is not known")?;
        if matches!(format, Format::Parquet | Format::Xlsx) && output.is_none() && is_terminal() {
            anyhow::bail!("{format_name} is nothing for a terminal: name a file with --output");
        }
        let parameters = Parameters { as_of, ..what.into() };
        let asked = asked(&parameters).into_iter().chain([("format", Some(format_name))]).collect::<Vec<_>>();
        let selection = Selection::of(name, parameters, SystemClock.now().date_naive())?;
        with_database(config, async |database| {
            let is_latest = selection.as_of.is_none();
            let report = library::Report::open(database.pool(), selection, format).await?;
            // Where the log ends that the report was asked of: the use itself comes behind.
            let head = reader::head(database.pool()).await?.position;
            who.looks(database, &format!("report.{}", name.as_str()), asked).await?;
            make(report, is_latest.then_some(head), format, output.as_deref()).await
        })
        .await
    }
}

/// As over HTTP.
fn asked(parameters: &Parameters) -> [(&'static str, Option<String>); 9] {
    let Parameters { month, from, to, account, user, provider, model, group_by, as_of, limit: _, cursor: _ } =
        parameters;
    [
        ("month", month),
        ("from", from),
        ("to", to),
        ("account", account),
        ("user", user),
        ("provider", provider),
        ("model", model),
        ("groupBy", group_by),
        ("asOf", as_of),
    ]
    .map(|(name, value)| (name, value.clone()))
}

/// `head` is where the log ended, if the report is to be the latest.
async fn make(report: library::Report, head: Option<u64>, format: Format, output: Option<&Path>) -> anyhow::Result<()> {
    let heading = report.heading();
    let mut hash = Sha256::new();
    let mut target: Box<dyn Write + Send> = match output {
        // In full or not at all: what is half written has another name.
        Some(path) => Box::new(std::fs::File::create(beside(path, "part")).context("the output cannot be written")?),
        None => Box::new(io::stdout()),
    };
    let mut watermark = None;
    let pieces = report.pieces();
    pin_mut!(pieces);
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Bytes(bytes) => {
                hash.update(&bytes);
                target.write_all(&bytes)?;
            }
            Piece::Watermark(end) => watermark = Some(end),
        }
    }
    target.flush()?;
    let watermark = watermark.context("the report has no end")?;
    if let Some(path) = output {
        std::fs::rename(beside(path, "part"), path)?;
        if !format.has_watermark_inside() {
            let mut json = watermark_of(heading.report, &heading.parameters, &watermark);
            json["file"] = json!(path.file_name().map(|name| name.to_string_lossy()));
            json["sha256"] =
                json!(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat());
            std::fs::write(beside(path, "watermark.json"), format!("{json:#}\n"))?;
        }
    }
    tell(&watermark, output)?;
    if let Some(head) = head
        && heading.parameters.get("to").is_none()
        && head > watermark.basis.position
    {
        let behind = head - watermark.basis.position;
        remark(format_args!(
            "the log has {behind} more events: a running service or `aihub projections` takes them in"
        ))?;
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// For the person, on stderr: the report itself may go through a pipe.
fn tell(watermark: &Watermark, output: Option<&Path>) -> io::Result<()> {
    let totals: Vec<_> = watermark.totals.iter().map(|(name, sum)| format!("{name} {sum}")).collect();
    let file = output.map(|path| format!(" in {}", path.display())).unwrap_or_default();
    let hash = watermark.basis.chain_hash.get(..12).unwrap_or_default();
    let (rows, position) = (watermark.rows, watermark.basis.position);
    let unit = if rows == 1 { "row" } else { "rows" };
    remark(format_args!("{rows} {unit}{file}, true at position {position}, chain {hash}…"))?;
    for standing in &watermark.standing {
        remark(format_args!("NOT COMPLETE: {standing}, see `aihub projections status`"))?;
    }
    if totals.is_empty() { Ok(()) } else { remark(totals.join(", ")) }
}
