//! `aihub reprice --month 2026-10 --prices corrected.toml`: what a month would have cost at corrected prices. With
//! `--apply` the difference is given back or taken, in credit and debit notes that name the requests they correct.

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use aihub_application::ports::clock::Clock as _;
use aihub_domain::{
    account::{
        AdjustmentKind,
        command::{AccountCommand, Adjustment, Corrected},
        repricing::Repricing,
    },
    money::Microcredits,
    period::Month,
};
use aihub_projections::{
    report::format::{Format, Heading, Writer},
    repricing::{self, BookedMonth, Comparison, OfModels, Prices, Repriced},
};
use anyhow::Context;
use clap::{Args, builder::PossibleValuesParser};
use futures::{TryStreamExt, pin_mut};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    access::Who,
    account::{Ledger, metadata},
    output::remark,
    reason::Reason,
};
use crate::{
    config::{Config, prices::PriceSettings, videos::VideoPriceSettings},
    month_close::caught_up,
};

/// The most charges that one note names.
const CHARGES_PER_NOTE: usize = 500;

#[derive(Debug, Args)]
pub struct Reprice {
    /// Like 2026-10
    #[arg(long)]
    month: Month,
    /// Corrected prices, as `[[openai."gpt-6-luna"]]`, or for a model that makes videos `[[videos.veo."veo-3.1-generate-001"]]`, with the
    /// fields of a model's prices in the configuration
    #[arg(long, value_name = "FILE")]
    prices: PathBuf,
    #[arg(long, default_value = "csv", value_parser = PossibleValuesParser::new(["csv", "json"]))]
    format: String,
    /// Make notes for the difference; the month has to be closed
    #[arg(long, requires_all = ["actor", "reason"])]
    apply: bool,
    /// Who corrects, or looks [default for looking: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<Reason>,
    /// A name for this correction: with the same one it is made once [default: made of the month and the prices]
    #[arg(long)]
    key: Option<String>,
}

/// A charge that is being corrected: of all that was paid for, one after another.
struct Reckoned {
    charge: String,
    left: i64,
    correction: i64,
}

/// Of an account.
#[derive(Clone, Copy, Default)]
struct Notes {
    all: usize,
    /// The number of the last one of this correction.
    last_own: usize,
}

/// What becomes of the corrections.
struct Corrector<'a> {
    ledger: &'a Ledger,
    repricing: Repricing,
    actor: String,
    reason: String,
    account: String,
    reckoned: Option<Reckoned>,
    credits: Vec<Corrected>,
    debits: Vec<Corrected>,
    /// Of the account.
    notes: Notes,
    made: usize,
    refused: usize,
}

impl Reprice {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&self.prices)
            .with_context(|| format!("{} cannot be read", self.prices.display()))?;
        let prices = prices(&text).with_context(|| self.prices.display().to_string())?;
        let ledger = Ledger::open(config).await?;
        let done = self.reprice(&ledger, &text, &prices, config).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn reprice(self, ledger: &Ledger, text: &str, prices: &Prices, config: &Config) -> anyhow::Result<()> {
        let (pool, rate) = (ledger.database.pool(), config.credits.per_usd.0);
        if self.apply {
            // What was corrected by the last event is known, or nothing is.
            caught_up(&ledger.database, &repricing::VIEWS).await?;
        }
        let mut month = BookedMonth::of(pool, self.month).await?;
        let basis = month.basis.clone();
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{} {} {text}", self.month, rate.0).as_bytes());
        let key = self.key.unwrap_or_else(|| digest.simple().to_string());
        let repricing = Repricing { month: self.month, key };
        let asked = [("month", Some(self.month.to_string())), ("apply", self.apply.then(|| "true".to_owned()))];
        if self.apply {
            anyhow::ensure!(month.is_closed, "{} is open: prices are corrected when it is closed", self.month);
            // Accounts refuse it each for itself; here it is refused before the first of them has got anything.
            if let Some(other) = repricing.other_in(month.notes.iter().map(|note| &note.reference)) {
                anyhow::bail!("{} has been repriced already, see the note {other}", self.month);
            }
        }
        Who { actor: self.actor.clone() }.looks(&ledger.database, "reprice", asked).await?;
        let key = repricing.to_string();
        let mut notes: BTreeMap<String, Notes> =
            month.notes_of.iter().map(|(account, all)| (account.clone(), Notes { all: *all, last_own: 0 })).collect();
        for note in &month.notes {
            if let (Some(nth), Some(known)) = (repricing.nth(&note.reference), notes.get_mut(&note.account)) {
                known.last_own = known.last_own.max(nth);
            }
        }
        let own = repricing.clone();
        let mut corrector = match (self.apply, self.actor, self.reason) {
            (true, Some(actor), Some(reason)) => Some(Corrector::new(ledger, repricing, actor, reason.into())),
            _ => None,
        };
        let mut comparison = Comparison::default();
        {
            let requests = month.requests(prices, rate, &own);
            pin_mut!(requests);
            while let Some(request) = requests.try_next().await? {
                comparison.add(&request);
                if let Some(corrector) = &mut corrector {
                    corrector.add(&request, &notes).await?;
                }
            }
        }
        let heading = Heading {
            report: "reprice",
            parameters: json!({ "month": self.month, "key": key, "prices": text, "creditsPerUsd": rate.0 }),
            columns: Comparison::columns(),
        };
        let position = basis.position;
        let watermark = comparison.watermark(basis);
        let mut writer =
            Writer::begin(Format::from_text(&self.format).context("a format that is not known")?, heading)?;
        for row in comparison.rows() {
            writer.row(row)?;
        }
        writer.end(&watermark, None)?;
        std::io::stdout().write_all(&writer.take()?)?;
        remark(format_args!("{} models of accounts, true at position {position}", watermark.rows))?;
        if month.passed_over > 0 {
            let passed_over = month.passed_over;
            remark(format_args!(
                "{passed_over} videos keep what they cost: these prices have none for their resolution"
            ))?;
        }
        for (provider, model) in comparison.unknown(prices) {
            remark(format_args!(
                "nothing was charged for {provider}/{model} in {}: is it spelt as in reports, and valid then?",
                self.month
            ))?;
        }
        match corrector {
            None => Ok(remark("nothing was changed; --apply makes notes for the corrections")?),
            Some(mut corrector) => {
                corrector.flush().await?;
                let Corrector { made, refused, .. } = corrector;
                remark(format_args!("{made} notes made, those made before left as they are (key {key})"))?;
                anyhow::ensure!(refused == 0, "{refused} notes were refused");
                Ok(())
            }
        }
    }
}

impl<'a> Corrector<'a> {
    fn new(ledger: &'a Ledger, repricing: Repricing, actor: String, reason: String) -> Self {
        let (reckoned, credits, debits) = (None, vec![], vec![]);
        let account = String::new();
        let (notes, made, refused) = (Notes::default(), 0, 0);
        Self { ledger, repricing, actor, reason, account, reckoned, credits, debits, notes, made, refused }
    }

    /// Requests come account by account. Those that a note of this correction names already are passed over, so that it can be
    /// made again from where it was left. `notes` are those that each account has.
    async fn add(&mut self, request: &Repriced, notes: &BTreeMap<String, Notes>) -> anyhow::Result<()> {
        let entry = &request.entry;
        if self.account != entry.account {
            self.flush().await?;
            self.account.clone_from(&entry.account);
            self.notes = notes.get(&entry.account).copied().unwrap_or_default();
        }
        if request.is_corrected {
            return Ok(());
        }
        // One for which several providers were paid comes several times, one after another.
        if self.reckoned.as_ref().is_none_or(|reckoned| reckoned.charge != entry.request_id) {
            self.reckon().await?;
        }
        let charge = entry.request_id.clone();
        // What notes made of it is counted with its first part.
        let (left, charged) = (request.left.0, entry.charged_microcredits);
        match &mut self.reckoned {
            Some(reckoned) => {
                reckoned.left += charged;
                reckoned.correction += request.correction();
            }
            none => *none = Some(Reckoned { charge, left, correction: request.correction() }),
        }
        Ok(())
    }

    /// Puts what one charge comes to into a note.
    async fn reckon(&mut self) -> anyhow::Result<()> {
        let Some(Reckoned { charge, left, correction }) = self.reckoned.take() else { return Ok(()) };
        let part = |amount| Corrected { charge, amount: Microcredits(amount), left: Microcredits(left) };
        match correction {
            ..0 => self.credits.push(part(-correction)),
            0 => {}
            1.. => self.debits.push(part(correction)),
        }
        // What is given back is there for what is taken.
        if self.credits.len().max(self.debits.len()) >= CHARGES_PER_NOTE {
            self.make(AdjustmentKind::CreditNote).await?;
        }
        if self.debits.len() >= CHARGES_PER_NOTE {
            self.make(AdjustmentKind::DebitNote).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.reckon().await?;
        self.make(AdjustmentKind::CreditNote).await?;
        self.make(AdjustmentKind::DebitNote).await
    }

    async fn make(&mut self, kind: AdjustmentKind) -> anyhow::Result<()> {
        let filled = if kind == AdjustmentKind::CreditNote { &mut self.credits } else { &mut self.debits };
        let corrects = std::mem::take(filled);
        if corrects.is_empty() {
            return Ok(());
        }
        self.notes.last_own += 1;
        let adjustment_id = self.repricing.note(self.notes.last_own);
        let metadata = metadata(&self.actor, &adjustment_id);
        let command = AccountCommand::AdjustCredits(Adjustment {
            adjustment_id,
            kind,
            corrects,
            notes: self.notes.all,
            corrects_month: Some(self.repricing.month),
            reason: self.reason.clone(),
            actor: self.actor.clone(),
            adjusted_at: self.ledger.clock.now(),
        });
        let account = &self.account;
        match self.ledger.accounts.execute(account, &command, &|_| Ok(vec![]), &metadata).await {
            Ok(events) if events.is_empty() => {}
            Ok(_) => (self.made, self.notes.all) = (self.made + 1, self.notes.all + 1),
            Err(error) => {
                self.refused += 1;
                remark(format_args!("{account}: {error}"))?;
            }
        }
        Ok(())
    }
}

/// A file of prices. A provider of texts cannot be called `videos` in it.
#[derive(Deserialize)]
struct PriceFile {
    #[serde(default)]
    videos: OfModels<VideoPriceSettings>,
    #[serde(flatten)]
    tokens: OfModels<PriceSettings>,
}

fn prices(text: &str) -> anyhow::Result<Prices> {
    let PriceFile { videos, tokens } = toml::from_str(text)?;
    Ok(Prices {
        tokens: checked(tokens, PriceSettings::overlaps, PriceSettings::price)?,
        videos: checked(videos, VideoPriceSettings::overlaps, |price, _, _| price.price())?,
    })
}

fn checked<S, P>(
    settings: OfModels<S>,
    overlaps: impl Fn(&S, &S) -> bool,
    price: impl Fn(&S, &str, &str) -> P,
) -> anyhow::Result<OfModels<P>> {
    let mut checked = OfModels::<P>::new();
    for (provider, models) in settings {
        for (model, prices) in models {
            let clash =
                prices.iter().enumerate().any(|(nth, one)| prices[..nth].iter().any(|other| overlaps(one, other)));
            anyhow::ensure!(!clash, "two prices of {provider}/{model} are valid on the same day");
            let prices = prices.iter().map(|settings| price(settings, &provider, &model)).collect();
            checked.entry(provider.clone()).or_default().insert(model, prices);
        }
    }
    Ok(checked)
}
