//! Credit and debit notes.

use super::*;
use crate::account::repricing::Repricing;

#[test]
fn a_credit_note_gives_back_at_most_what_was_spent() {
    let account = after([grant_until("g", 5, at(20)), reserve("r", 3), settle("r", 3)]);
    assert_eq!(
        account.decide(note("n", AdjustmentKind::CreditNote, 4)),
        Err(AccountError::MoreThanSpent { spent: credits(3), required: credits(4) })
    );
    let mut account = account;
    for command in [note("n", AdjustmentKind::CreditNote, 2), note("n", AdjustmentKind::CreditNote, 2)] {
        for event in account.decide(command).unwrap() {
            account.evolve(&event);
        }
    }
    assert_eq!((account.available(), account.spent()), (credits(4), credits(1)));
    // What was given back does not go with the grant that it came from.
    assert_eq!(expired_of(&account, expire("g", 20)), Some((credits(2), credits(0))));
    assert_eq!(
        account.decide(note("n", AdjustmentKind::DebitNote, 2)),
        Err(AccountError::AdjustmentConflict {
            adjustment_id: "n".into(),
            kind: AdjustmentKind::CreditNote,
            amount: credits(2)
        })
    );
}

#[test]
fn a_debit_note_takes_what_is_available_and_nothing_beyond() {
    let account = after([grant("g", 5), reserve("r", 3)]);
    assert_eq!(
        account.decide(note("n", AdjustmentKind::DebitNote, 3)),
        Err(AccountError::InsufficientCredits { available: credits(2), required: credits(3) })
    );
    let account = after([grant("g", 5), reserve("r", 3), note("n", AdjustmentKind::DebitNote, 2)]);
    assert_eq!((account.available(), account.held(), account.spent()), (credits(0), credits(3), credits(2)));
}

#[test]
fn a_month_is_repriced_by_the_notes_of_one_key_whatever_a_view_says() {
    let repricing = |month: &str, key: &str| Repricing { month: month.parse().unwrap(), key: key.to_owned() };
    let first = repricing("2026-10", "a:b");
    assert_eq!((Repricing::of_note(&first.note(12)), first.nth(&first.note(12))), (Some(first.clone()), Some(12)));
    assert_eq!(Repricing::of_note("reprice:2026-10:by-hand"), None);
    let debit = |notes, id: &str| note_after(notes, id, AdjustmentKind::DebitNote, 1);
    let account = after([grant("g", 50), debit(0, "by-hand"), debit(1, &first.note(1))]);
    for (id, is_taken) in [
        (first.note(2), true),
        (repricing("2026-11", "c").note(1), true),
        ("another".to_owned(), true),
        (repricing("2026-10", "a").note(1), false),
    ] {
        let decided = account.decide(debit(2, &id));
        let refused = AccountError::RepricedAlready { month: first.month, note: first.note(1) };
        assert_eq!(decided.err(), (!is_taken).then_some(refused), "{id}");
    }
}

#[test]
fn a_note_that_corrects_nothing_is_refused() {
    let AccountCommand::AdjustCredits(mut nothing) = note("n", AdjustmentKind::DebitNote, 1) else { unreachable!() };
    nothing.corrects.clear();
    let refused = after([grant("g", 5)]).decide(AccountCommand::AdjustCredits(nothing));
    assert_eq!(refused, Err(AccountError::NothingCorrected));
}

#[test]
fn no_charge_is_given_back_beyond_what_is_left_of_it_and_what_is_left_is_reckoned_with_all_notes() {
    let account = after([grant("g", 9), reserve("r", 9), settle("r", 9)]);
    let with = |notes: usize, parts: &[(&str, i64, i64)]| {
        let AccountCommand::AdjustCredits(note) = note_after(notes, "n", AdjustmentKind::CreditNote, 1) else {
            panic!()
        };
        let part = |&(charge, amount, left): &(&str, i64, i64)| Corrected {
            charge: charge.into(),
            amount: credits(amount),
            left: credits(left),
        };
        account.decide(AccountCommand::AdjustCredits(Adjustment { corrects: parts.iter().map(part).collect(), ..note }))
    };
    let events = with(0, &[("r", 2, 3), ("s", 1, 1)]).unwrap();
    let AccountEvent::CreditsAdjusted { amount_microcredits, corrects, .. } = &events[0] else { panic!() };
    assert_eq!((*amount_microcredits, corrects.len(), &*corrects[1].charge), (credits(3), 2, "s"));
    for (parts, required) in [(&[("r", 4, 3)][..], 4), (&[("r", 2, 3), ("r", 2, 3)], 4)] {
        let left = credits(3);
        let refused = AccountError::MoreThanLeft { charge: "r".into(), left, required: credits(required) };
        assert_eq!(with(0, parts), Err(refused));
    }
    assert_eq!(with(1, &[("r", 1, 3)]), Err(AccountError::NotesChanged));
}
