//! Credit and debit notes: corrections of charges, each of which names what it corrects.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use super::{
    Account, AccountError, AdjustmentKind, check,
    command::{Adjustment, Corrected},
    event::{AccountEvent, Correction},
    repricing::Repricing,
};
use crate::money::Microcredits;

impl Account {
    pub(super) fn decide_adjustment(&self, adjustment: Adjustment) -> Result<Vec<AccountEvent>, AccountError> {
        let Adjustment { adjustment_id, kind, corrects, notes, corrects_month, reason, actor, adjusted_at } =
            adjustment;
        if corrects.is_empty() {
            return Err(AccountError::NothingCorrected);
        }
        let mut amount = Microcredits::ZERO;
        for part in &corrects {
            check(part.amount)?;
            amount = amount.plus(part.amount);
            check(amount)?;
        }
        match self.note(&adjustment_id) {
            Some(made) if made == (kind, amount) => return Ok(vec![]),
            Some((kind, amount)) => return Err(AccountError::AdjustmentConflict { adjustment_id, kind, amount }),
            None => {}
        }
        self.require_open()?;
        if let Some(repricing) = Repricing::of_note(&adjustment_id)
            && let Some(other) = repricing.other_in(self.adjustments.keys())
        {
            return Err(AccountError::RepricedAlready { month: repricing.month, note: other.clone() });
        }
        if notes != self.notes() {
            return Err(AccountError::NotesChanged);
        }
        let available = self.available();
        let available_microcredits = match kind {
            AdjustmentKind::CreditNote => {
                require_left(&corrects)?;
                if amount > self.spent {
                    return Err(AccountError::MoreThanSpent { spent: self.spent, required: amount });
                }
                available.plus(amount)
            }
            AdjustmentKind::DebitNote if amount > available => {
                return Err(AccountError::InsufficientCredits { available, required: amount });
            }
            AdjustmentKind::DebitNote => available.minus(amount),
        };
        let corrections = corrects.into_iter();
        Ok(vec![AccountEvent::CreditsAdjusted {
            adjustment_id,
            kind,
            amount_microcredits: amount,
            available_microcredits,
            corrects: corrections
                .map(|Corrected { charge, amount, .. }| Correction { charge, amount_microcredits: amount })
                .collect(),
            corrects_month,
            reason,
            actor,
            adjusted_at,
        }])
    }
}

/// That no charge is given back beyond what is left of it, whatever part of the note names it.
fn require_left(corrects: &[Corrected]) -> Result<(), AccountError> {
    let mut given_back = std::collections::BTreeMap::<&str, Microcredits>::new();
    for Corrected { charge, amount, left } in corrects {
        let required = given_back.entry(charge).or_default();
        *required = required.plus(*amount);
        if *required > *left {
            return Err(AccountError::MoreThanLeft { charge: charge.clone(), left: *left, required: *required });
        }
    }
    Ok(())
}
