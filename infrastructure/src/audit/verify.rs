//! Everything that can be checked with the database at hand, in one snapshot and one pass, from the stored rows.

mod witness;

use std::{collections::BTreeMap, fmt, mem};

use sqlx::{PgConnection, PgTransaction};

use self::witness::Witnesses;
use super::{
    AuditError, Fault,
    balances::{BalanceView, Balances},
    contents::{Contents, Group},
    hex,
    merkle::MerkleTree,
    note::VerifierKey,
    scan,
    signers::Signers,
    streams,
};
use crate::{
    database::Database,
    event_store::chain::{ChainHead, ChainVerifier},
};

/// How many events lie between two looks at the progress.
const PROGRESS_EVERY: u64 = 8_192;

/// What to verify.
#[derive(Debug, Clone)]
pub struct Scope {
    /// From 1. Later, the event in front is taken for granted, and balances and roots are not computed.
    pub from: u64,
    /// Left out, everything that there is.
    pub to: Option<u64>,
    /// A note that was saved elsewhere; its signer is to be one of `keys`.
    pub saved: Option<String>,
    /// Who may have signed checkpoints. With none, signatures are not checked.
    pub keys: Vec<VerifierKey>,
    pub balances: BalanceView,
    /// Whether the content that events name is looked at too, which is most of what there is to read.
    pub contents: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub position: u64,
    pub last: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// What was checked, in order; behind a fault, nothing more.
    pub lines: Vec<Line>,
    pub verdict: Verdict,
    pub events: u64,
    /// The end of what was verified.
    pub head: ChainHead,
}

/// One thing that was checked: `chain: tip 9f3c…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub what: &'static str,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Intact,
    Tampered(Fault),
    /// Something is not there that should be.
    Incomplete(String),
}

/// Why the check ended before its time.
enum Stop {
    Fault(Fault),
    Missing(String),
    Error(AuditError),
}

struct Verification<'a> {
    scope: &'a Scope,
    lines: Vec<Line>,
    chain: ChainVerifier,
    tree: MerkleTree,
    balances: Balances,
    events: u64,
    witnesses: Witnesses,
    contents: Contents,
}

/// Verifies the log. An error means that there is no verdict.
pub async fn verify(
    database: &Database,
    scope: &Scope,
    progress: impl FnMut(Progress) + Send,
) -> Result<Report, AuditError> {
    let mut connection = scan::connect(database).await?;
    let mut snapshot = scan::snapshot(&mut connection).await?;
    // The log is copied out of the other one meanwhile.
    let mut beside = scan::connect(database).await?;
    let mut verification = Verification {
        scope,
        lines: Vec::new(),
        chain: ChainVerifier::after(ChainHead::GENESIS),
        tree: MerkleTree::default(),
        balances: Balances::default(),
        events: 0,
        witnesses: Witnesses::default(),
        contents: Contents::default(),
    };
    let verdict = match verification.run(&mut snapshot, &mut beside, progress).await {
        Ok(()) => Verdict::Intact,
        Err(Stop::Fault(fault) | Stop::Error(AuditError::Tampered(fault))) => Verdict::Tampered(fault),
        Err(Stop::Missing(what)) => Verdict::Incomplete(what),
        Err(Stop::Error(error)) => return Err(error),
    };
    let Verification { lines, chain, events, .. } = verification;
    Ok(Report { lines, verdict, events, head: chain.head() })
}

impl Verification<'_> {
    async fn run(
        &mut self,
        snapshot: &mut PgTransaction<'_>,
        beside: &mut PgConnection,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<(), Stop> {
        let head = sqlx::query_scalar!("SELECT max(position) FROM events").fetch_one(&mut **snapshot).await?;
        let head = head.unwrap_or(0).cast_unsigned();
        let last = self.scope.to.unwrap_or(head);
        let signed = self.witnesses.add_signed(snapshot, self.scope).await?;
        let changes = Signers::of_log(&mut **snapshot).await?.changes();
        let saved = self.witnesses.add_saved(self.scope)?;
        let views = self.witnesses.add_handlers(snapshot).await?;
        if self.scope.from > 1 {
            self.start_behind(snapshot).await?;
        }
        self.scan(snapshot, beside, last, &views, progress).await?;
        self.require_complete(head)?;

        let (from, ChainHead { position: to, chain_hash }) = (self.scope.from, self.chain.head());
        self.say("positions", format!("{from} to {to}, contiguous"));
        self.say("payloads", format!("{} events have the hashes that were recorded", self.events));
        self.say("chain", format!("each follows the one before; tip {}", hex(&chain_hash)));
        self.say("checkpoints", signed);
        if let Some(changes) = changes {
            self.say("keys", changes);
        }
        if let Some(saved) = saved {
            self.say("saved checkpoint", saved);
        }
        match streams::check(snapshot, from, to).await? {
            Ok(streams) => self.say("streams", format!("{streams}, each without a hole and in order")),
            Err(fault) => return Err(Stop::Fault(fault)),
        }
        self.tell_contents()?;
        self.compare_balances(snapshot, &views).await
    }

    fn tell_contents(&mut self) -> Result<(), Stop> {
        let tally = self.contents.tally.clone();
        if !self.scope.contents {
            self.say("contents", "not looked at".to_owned());
        } else if tally.missing > 0 {
            return Err(Stop::Missing(format!("of the content that events name {tally}")));
        } else {
            self.say("contents", tally.to_string());
        }
        Ok(())
    }

    fn say(&mut self, what: &'static str, text: String) {
        self.lines.push(Line { what, text });
    }

    /// Takes the event in front for granted.
    async fn start_behind(&mut self, snapshot: &mut PgConnection) -> Result<(), Stop> {
        let before = self.scope.from - 1;
        let mut events = scan::events(snapshot, before, Some(before)).await?;
        let Some(event) = events.next().await? else {
            return Err(Stop::Missing(format!("there is no event at position {before}, in front of the first")));
        };
        self.chain = ChainVerifier::after(ChainHead { position: before, chain_hash: event.chain_hash });
        // A copy has to be read to its end.
        while events.next().await?.is_some() {}
        Ok(())
    }

    async fn scan(
        &mut self,
        snapshot: &mut PgConnection,
        beside: &mut PgConnection,
        last: u64,
        views: &BTreeMap<String, u64>,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<(), Stop> {
        let balances_until = views.get(self.scope.balances.name).copied().unwrap_or(0);
        let mut events = scan::events(snapshot, self.scope.from, self.scope.to).await?;
        let mut group = Group::default();
        while let Some(event) = events.next().await? {
            self.chain.check(&event).map_err(|error| Stop::Fault(error.into()))?;
            let is_whole = self.scope.from <= 1;
            if is_whole {
                self.tree.push(&event.chain_hash);
                if event.position <= balances_until {
                    self.balances.add(&event).map_err(Stop::Fault)?;
                }
            }
            self.witnesses.hear(&event, is_whole.then_some(&self.tree)).map_err(Stop::Fault)?;
            self.events += 1;
            if event.position % PROGRESS_EVERY == 0 {
                progress(Progress { position: event.position, last });
            }
            if self.scope.contents && group.push(event) {
                self.contents.of(beside, &mem::take(&mut group)).await?;
            }
        }
        self.contents.of(beside, &group).await?;
        progress(Progress { position: self.chain.head().position, last });
        Ok(())
    }

    /// That the log reaches as far as was asked, and as far as anybody has seen it.
    fn require_complete(&self, head: u64) -> Result<(), Stop> {
        let reached = self.chain.head().position;
        if let Some(to) = self.scope.to.filter(|to| *to > reached) {
            return Err(Stop::Missing(format!("the log ends at position {reached}, and {to} was asked for")));
        }
        match self.witnesses.beyond(head) {
            Some((who, position)) => {
                Err(Stop::Missing(format!("the log ends at position {head}, and {who} is of position {position}")))
            }
            None => Ok(()),
        }
    }

    async fn compare_balances(
        &mut self,
        snapshot: &mut PgConnection,
        views: &BTreeMap<String, u64>,
    ) -> Result<(), Stop> {
        let view = self.scope.balances;
        let position = views.get(view.name).copied().unwrap_or(0);
        if self.scope.from > 1 || position > self.chain.head().position || position == 0 {
            let reason = if position == 0 { "the view has applied nothing yet" } else { "they need the whole log" };
            self.say("balances", format!("not compared with {}: {reason}", view.name));
            return Ok(());
        }
        match mem::take(&mut self.balances).compare(snapshot, view, position).await? {
            Ok(accounts) => {
                self.say("balances", format!("{accounts} accounts, as {} has them at position {position}", view.name));
            }
            Err(fault) => return Err(Stop::Fault(fault)),
        }
        Ok(())
    }
}

impl From<AuditError> for Stop {
    fn from(error: AuditError) -> Self {
        Self::Error(error)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Error(error.into())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intact => f.write_str("intact"),
            Self::Tampered(fault) => write!(f, "TAMPERED: {fault}"),
            Self::Incomplete(what) => write!(f, "INCOMPLETE: {what}"),
        }
    }
}
