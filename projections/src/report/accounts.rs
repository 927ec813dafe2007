//! What credit accounts come to: statements, open holds and the trial balance.

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::Selection,
    watermark::Basis,
};

/// What an account had when the first month began, what moved, and what it had when the last one ended. It adds up twice:
/// `opening_available + granted - held + released - expired + credit_notes - debit_notes = closing_available` and
/// `opening_held + held - released - settled = closing_held`.
pub fn statement(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let (from, to) = selection.days.unwrap_or_default();
    let (from, to) = (query.bind(Bind::Day(from)), query.bind(Bind::Day(to)));
    let up_to = query.bind(Bind::Position(basis.position));
    let names = query.names(selection);
    let before = format!("accounting_month < {from}");
    let during = format!("accounting_month >= {from}");
    let sum = |what: &str, when: &str| format!("coalesce(sum({what}) FILTER (WHERE {when}), 0)");
    let moved = |what: &str, movement: &str| sum(what, &format!("{during} AND {movement}"));
    let holds = "movement IN ('reserve', 'extend')";
    let ends = "movement IN ('settle', 'release')";
    let credits = [
        ("opening_available_credits", sum("available_change_microcredits", &before)),
        ("opening_held_credits", sum("held_change_microcredits", &before)),
        ("granted_credits", moved("granted_change_microcredits", "movement IN ('grant', 'void')")),
        ("held_credits", moved("held_change_microcredits", holds)),
        ("settled_credits", moved("spent_change_microcredits", "movement = 'settle'")),
        ("released_credits", moved("available_change_microcredits", ends)),
        ("expired_credits", moved("expired_change_microcredits", "movement = 'expire'")),
        (
            "credit_notes_credits",
            moved("-spent_change_microcredits", "movement = 'adjust' AND spent_change_microcredits < 0"),
        ),
        (
            "debit_notes_credits",
            moved("spent_change_microcredits", "movement = 'adjust' AND spent_change_microcredits > 0"),
        ),
        ("closing_available_credits", "sum(available_change_microcredits)".to_owned()),
        ("closing_held_credits", "sum(held_change_microcredits)".to_owned()),
    ];
    query.columns.push(Column::new("account", Kind::Text, "account"));
    query.columns.extend(credits.into_iter().map(|(name, sql)| Column::new(name, Kind::Credits, sql).totalled()));
    query.source =
        format!("FROM credit_ledger_v1 WHERE accounting_month <= {to} AND position <= {up_to}{names} GROUP BY account");
    query.order_by = vec!["account"];
    query
}

/// One row per hold that was open then; its age is that at the watermark.
pub fn holds(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let up_to = query.bind(Bind::Position(basis.position));
    let at = query.bind(Bind::Instant(basis.recorded_at));
    let names = query.names(selection);
    let at = format!("coalesce({at}, (SELECT max(recorded_at) FROM credit_ledger_v1 WHERE position <= {up_to}))");
    let since = "min(happened_at) FILTER (WHERE movement = 'reserve')";
    query.columns = vec![
        Column::new("account", Kind::Text, "account"),
        Column::new("request_id", Kind::Text, "reference"),
        Column::new("held_since", Kind::Instant, since),
        Column::new("age_seconds", Kind::Count, format!("greatest(0, floor(extract(epoch FROM {at} - {since})))")),
        Column::new("extensions", Kind::Count, "count(*) FILTER (WHERE movement = 'extend')"),
        Column::new("held_credits", Kind::Credits, "sum(held_change_microcredits)").totalled(),
    ];
    query.source = format!(
        "FROM credit_ledger_v1
         WHERE position <= {up_to} AND movement IN ('reserve', 'extend', 'settle', 'release'){names}
         GROUP BY account, reference HAVING bool_and(movement IN ('reserve', 'extend'))"
    );
    query.order_by = vec!["account", "request_id"];
    query
}

/// What the movements of each account come to, beside what the requests say: every difference is zero.
pub fn trial_balance(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let up_to = query.bind(Bind::Position(basis.position));
    let names = query.names(selection);
    let zero = |name: &str| format!("coalesce({name}, 0)");
    let difference = "coalesce(granted - available - held - spent - expired, 0)";
    let credits = [
        ("granted_credits", zero("granted")),
        ("available_credits", zero("available")),
        ("held_credits", zero("held")),
        ("spent_credits", zero("spent")),
        ("expired_credits", zero("expired")),
        ("difference_credits", difference.to_owned()),
        ("settled_credits", zero("settled")),
        ("notes_credits", zero("noted")),
        ("usage_charged_credits", zero("charged")),
        ("usage_difference_credits", "coalesce(settled, 0) - coalesce(charged, 0)".to_owned()),
        ("uncovered_credits", zero("uncovered")),
    ];
    query.columns.push(Column::new("account", Kind::Text, "account"));
    query.columns.extend(credits.into_iter().map(|(name, sql)| Column::new(name, Kind::Credits, sql).totalled()));
    query.columns.push(Column::new("provider_cost_usd", Kind::Usd, zero("used_cost")).totalled());
    let cost = "coalesce(settled_cost, 0) - coalesce(used_cost, 0)";
    query.columns.push(Column::new("cost_difference_usd", Kind::Usd, cost).totalled());
    query.source = format!(
        "FROM (SELECT account, sum(granted_change_microcredits) AS granted,
                      sum(available_change_microcredits) AS available, sum(held_change_microcredits) AS held,
                      sum(spent_change_microcredits) AS spent, sum(expired_change_microcredits) AS expired,
                      sum(spent_change_microcredits) FILTER (WHERE movement = 'settle') AS settled,
                      sum(spent_change_microcredits) FILTER (WHERE movement = 'adjust') AS noted,
                      sum(uncovered_microcredits) AS uncovered, sum(cost_picousd) AS settled_cost
               FROM credit_ledger_v1 WHERE position <= {up_to}{names} GROUP BY account) moved
         FULL JOIN (SELECT account, sum(charged_microcredits) AS charged, sum(cost_picousd) AS used_cost
                    FROM usage_ledger_v1 WHERE position <= {up_to}{names} GROUP BY account) used USING (account)"
    );
    query.order_by = vec!["account"];
    query
}
