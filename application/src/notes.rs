//! Credit and debit notes. Each names charges of its account, gives back at most what is left of them, and belongs to their month.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::{
    account::{
        AccountError, AdjustmentKind,
        command::{AccountCommand, Adjustment, Corrected},
        event::AccountEvent,
    },
    money::Microcredits,
    period::{Month, Period},
};
use cqrs_es::Aggregate;
use thiserror::Error;

use crate::{
    accounts::{Accounts, ExecuteError},
    ports::{
        charges::{Charge, Charges, Note},
        clock::Clock,
        event_log::{EventLog, LoadError, Metadata},
    },
};

/// How often it is reckoned again because another note was faster.
const ATTEMPTS: usize = 5;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct NewNote {
    pub account: String,
    /// With the same one it is made once.
    pub key: String,
    pub kind: AdjustmentKind,
    pub amount: Microcredits,
    /// Ids of requests or jobs, or positions of events. A credit note gives back what is left of the first, then of the next.
    pub corrects: Vec<String>,
    pub reason: String,
    pub actor: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Now {
        available: Microcredits,
        /// The month that it corrects, where that is closed or over.
        corrects_month: Option<Month>,
    },
    Before,
}

#[derive(Debug, Error)]
pub enum NoteError {
    #[error(
        "account {account} was charged for nothing that is called {named}: name a request or video of its own that cost \
         something, or the position of its settlement"
    )]
    NoSuchCharge { account: String, named: String },
    #[error("{left} credits are left of what is named, so {required} cannot be given back of it")]
    MoreThanLeft { left: Microcredits, required: Microcredits },
    #[error("a debit note takes its credits for one charge: make one for each")]
    DebitOfSeveral,
    #[error("{named} is of {month}, and not of the month of the others: make a note for each month")]
    OtherMonth { named: String, month: Month },
    #[error("for {ATTEMPTS} times another note of the account was faster")]
    Contended,
    #[error(transparent)]
    Account(#[from] ExecuteError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Charges(anyhow::Error),
}

pub struct Notes {
    accounts: Arc<Accounts>,
    charges: Arc<dyn Charges>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
}

/// What is left of charges: what notes took on top, less what they gave back.
#[derive(Debug, Default)]
pub struct Corrections(BTreeMap<String, i128>);

impl Corrections {
    pub fn of<'a>(notes: impl IntoIterator<Item = &'a Note>) -> Self {
        let mut corrections = Self::default();
        for Note { kind, corrects, .. } in notes {
            for part in corrects {
                let amount = i128::from(part.amount_microcredits.0);
                let change = if *kind == AdjustmentKind::CreditNote { -amount } else { amount };
                *corrections.0.entry(part.charge.clone()).or_default() += change;
            }
        }
        corrections
    }

    /// Of a charge of so much; never below zero.
    pub fn left(&self, charge: &str, charged: Microcredits) -> Microcredits {
        let left = i128::from(charged.0) + self.0.get(charge).copied().unwrap_or_default();
        Microcredits(i64::try_from(left.max(0)).unwrap_or(i64::MAX))
    }
}

impl Notes {
    pub fn new(
        accounts: Arc<Accounts>,
        charges: Arc<dyn Charges>,
        log: Arc<dyn EventLog>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { accounts, charges, log, clock }
    }

    pub async fn make(&self, note: &NewNote, metadata: &Arc<Metadata>) -> Result<Made, NoteError> {
        for _ in 0..ATTEMPTS {
            match self.try_to_make(note, metadata).await {
                Err(NoteError::Account(ExecuteError::Refused(AccountError::NotesChanged))) => {}
                made => return made,
            }
        }
        Err(NoteError::Contended)
    }

    async fn try_to_make(&self, note: &NewNote, metadata: &Arc<Metadata>) -> Result<Made, NoteError> {
        if let Some((kind, amount)) = self.accounts.load(&note.account).await?.note(&note.key) {
            // What is left is less by itself.
            return if (kind, amount) == (note.kind, note.amount) {
                Ok(Made::Before)
            } else {
                let adjustment_id = note.key.clone();
                Err(ExecuteError::from(AccountError::AdjustmentConflict { adjustment_id, kind, amount }).into())
            };
        }
        let (charges, corrects_month) = self.charges_of(note).await?;
        let notes = self.charges.notes(&note.account).await.map_err(NoteError::Charges)?;
        let command = AccountCommand::AdjustCredits(Adjustment {
            adjustment_id: note.key.clone(),
            kind: note.kind,
            corrects: parts(note.kind, note.amount, charges, &Corrections::of(&notes))?,
            notes: notes.len(),
            corrects_month,
            reason: note.reason.clone(),
            actor: note.actor.clone(),
            adjusted_at: self.clock.now(),
        });
        let events = self.accounts.execute(&note.account, &command, &|_| Ok(vec![]), metadata).await?;
        let available = events.iter().find_map(|event| match event {
            AccountEvent::CreditsAdjusted { available_microcredits, .. } => Some(*available_microcredits),
            _ => None,
        });
        Ok(available.map_or(Made::Before, |available| Made::Now { available, corrects_month }))
    }

    /// What is named, each once, and its month where that is closed or over.
    async fn charges_of(&self, note: &NewNote) -> Result<(Vec<Charge>, Option<Month>), NoteError> {
        let (mut charges, mut month_of_all) = (Vec::<Charge>::new(), None);
        for named in &note.corrects {
            let found = self.charges.find(&note.account, named).await.map_err(NoteError::Charges)?;
            let Some(charge) = found.filter(|charge| charge.charged > Microcredits::ZERO) else {
                return Err(NoteError::NoSuchCharge { account: note.account.clone(), named: named.clone() });
            };
            let month = Month::of(charge.settled_at);
            // It has one event, its close.
            let is_closed = !self.log.load(Period::TYPE, &month.to_string(), 0).await?.is_empty();
            // Its own month needs no word, as long as that is open: the note is booked there itself.
            let other = (is_closed || month != Month::of(self.clock.now())).then_some(month);
            if *month_of_all.get_or_insert(other) != other {
                return Err(NoteError::OtherMonth { named: named.clone(), month });
            }
            if charges.iter().all(|known| known.id != charge.id) {
                charges.push(charge);
            }
        }
        Ok((charges, month_of_all.flatten()))
    }
}

/// The note's part for each charge.
fn parts(
    kind: AdjustmentKind,
    amount: Microcredits,
    charges: Vec<Charge>,
    corrections: &Corrections,
) -> Result<Vec<Corrected>, NoteError> {
    let charges = charges.into_iter().map(|Charge { id, charged, .. }| (corrections.left(&id, charged), id));
    let charges: Vec<(Microcredits, String)> = charges.collect();
    if kind == AdjustmentKind::DebitNote {
        let Ok([(left, charge)]) = <[_; 1]>::try_from(charges) else { return Err(NoteError::DebitOfSeveral) };
        return Ok(vec![Corrected { charge, amount, left }]);
    }
    let (mut parts, mut rest) = (Vec::new(), amount);
    for (left, charge) in charges {
        let amount = left.min(rest);
        rest = rest.minus(amount);
        if amount > Microcredits::ZERO {
            parts.push(Corrected { charge, amount, left });
        }
    }
    if rest > Microcredits::ZERO {
        return Err(NoteError::MoreThanLeft { left: amount.minus(rest), required: amount });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use aihub_domain::account::event::Correction;
    use chrono::DateTime;

    use super::*;

    fn charge(id: &str, charged: i64) -> Charge {
        Charge { id: id.to_owned(), charged: Microcredits(charged), settled_at: DateTime::UNIX_EPOCH }
    }

    fn made(kind: AdjustmentKind, charge: &str, amount: i64) -> Note {
        let part = Correction { charge: charge.to_owned(), amount_microcredits: Microcredits(amount) };
        Note { adjustment_id: "n".to_owned(), kind, corrects: vec![part] }
    }

    #[test]
    fn a_credit_note_gives_back_what_is_left_of_the_first_charge_and_then_of_the_next() {
        let corrections = Corrections::of(&[
            made(AdjustmentKind::CreditNote, "a", 6),
            made(AdjustmentKind::DebitNote, "a", 1),
            made(AdjustmentKind::CreditNote, "gone", 5),
        ]);
        let named = || vec![charge("a", 10), charge("gone", 5), charge("b", 3)];
        let credit = |amount| parts(AdjustmentKind::CreditNote, Microcredits(amount), named(), &corrections);
        let told =
            |parts: Vec<Corrected>| parts.into_iter().map(|part| (part.charge, part.amount.0)).collect::<Vec<_>>();
        assert_eq!(told(credit(4).unwrap()), [("a".to_owned(), 4)]);
        assert_eq!(told(credit(8).unwrap()), [("a".to_owned(), 5), ("b".to_owned(), 3)]);
        assert!(matches!(credit(9), Err(NoteError::MoreThanLeft { left: Microcredits(8), required: Microcredits(9) })));
    }

    #[test]
    fn a_debit_note_is_for_one_charge() {
        let debit = |named| parts(AdjustmentKind::DebitNote, Microcredits(90), named, &Corrections::default());
        assert_eq!(debit(vec![charge("a", 10)]).unwrap()[0].amount, Microcredits(90));
        assert!(matches!(debit(vec![charge("a", 10), charge("b", 10)]), Err(NoteError::DebitOfSeveral)));
    }
}
