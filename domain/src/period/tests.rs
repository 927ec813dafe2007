use chrono::TimeZone;

use super::{command::PeriodCommand, event::MonthTotals, *};
use crate::money::{MicrocreditsSum, PicoUsdSum};

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn close(of: &str, first_open: &str, closed_at: DateTime<Utc>) -> PeriodCommand {
    PeriodCommand::CloseMonth {
        month: month(of),
        first_open: month(first_open),
        position: 7,
        chain_hash: "00ff".into(),
        totals: Box::new(MonthTotals {
            requests: 3,
            charged_microcredits: MicrocreditsSum(5),
            cost_picousd: PicoUsdSum(i128::from(i64::MAX) * 2),
            ..MonthTotals::default()
        }),
        actor: "ada".into(),
        closed_at,
    }
}

fn november(day: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, day, 0, 0, 0).unwrap()
}

#[test]
fn a_month_that_is_over_is_closed_once() {
    let mut period = Period::default();
    let events = period.decide(close("2026-10", "2026-10", november(1))).unwrap();
    insta::assert_json_snapshot!(events);
    for event in &events {
        let read: PeriodEvent = serde_json::from_value(serde_json::to_value(event).unwrap()).unwrap();
        assert_eq!(read, *event);
        period.evolve(event);
    }
    let again = close("2026-10", "2026-11", november(2));
    assert_eq!(period.decide(again), Err(PeriodError::AlreadyClosed(month("2026-10"))));
}

#[test]
fn a_month_that_runs_or_follows_an_open_one_is_not_closed() {
    let decide = |command| Period::default().decide(command).unwrap_err();
    assert_eq!(
        decide(close("2026-11", "2026-11", november(30))),
        PeriodError::NotOver { month: month("2026-11"), ends_at: Utc.with_ymd_and_hms(2026, 12, 1, 0, 0, 0).unwrap() }
    );
    let (of, first_open) = (month("2026-10"), month("2026-09"));
    assert_eq!(
        decide(close("2026-10", "2026-09", november(1))),
        PeriodError::EarlierMonthOpen { month: of, first_open }
    );
    let first_open = month("2026-11");
    assert_eq!(decide(close("2026-10", "2026-11", november(1))), PeriodError::BeforeTheLog { month: of, first_open });
}

#[test]
fn a_month_is_written_as_year_and_month() {
    assert_eq!(month("2026-12").next().to_string(), "2027-01");
    assert_eq!(Month::of(november(30)), month("2026-11"));
    for wrong in ["2026-13", "2026-1", "2026", "26-10", "2026-10-01", ""] {
        assert!(wrong.parse::<Month>().is_err(), "{wrong}");
    }
}
