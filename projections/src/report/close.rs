//! The close of a month with everything that belongs to it: what it states, what the ledgers come to, where these
//! differ, and line by line what was late, what was corrected, and what came later for this month.

use aihub_domain::period::Month;

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::Selection,
    watermark::Basis,
};

const FIGURES: [(&str, Kind); 14] = [
    ("requests", Kind::Count),
    ("input_tokens", Kind::Count),
    ("cached_input_tokens", Kind::Count),
    ("cache_write_tokens", Kind::Count),
    ("cache_write_1h_tokens", Kind::Count),
    ("output_tokens", Kind::Count),
    ("reasoning_tokens", Kind::Count),
    ("video_seconds", Kind::Count),
    ("charged_microcredits", Kind::Credits),
    ("cost_picousd", Kind::Usd),
    ("granted_microcredits", Kind::Credits),
    ("expired_microcredits", Kind::Credits),
    ("credit_notes_microcredits", Kind::Credits),
    ("debit_notes_microcredits", Kind::Credits),
];

/// The sections, in the order in which they stand: `stated` by the close, `ledger` as it comes to, `difference`,
/// `late_end` and `note` booked in this month, `later_end` and `later_note` that concern it and are booked in a later one, and
/// `stands`, which is what the month comes to with these, and without what was booked in it for one before: what months stand at
/// can be added up. `later_grant` is for grants, what was taken back of them, and what expired.
pub fn query(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let first = selection.days.unwrap_or_default().0;
    let month = query.bind(Bind::Day(Month::of_day(first).first_day()));
    let up_to = query.bind(Bind::Position(basis.position));
    query.columns = vec![
        Column::new("section", Kind::Text, "section"),
        Column::new("position", Kind::Count, "position"),
        Column::new("happened_at", Kind::Instant, "happened_at"),
        Column::new("booked_month", Kind::Text, "to_char(booked_month, 'YYYY-MM')"),
        Column::new("corrects_month", Kind::Text, "to_char(corrects_month, 'YYYY-MM')"),
        Column::new("account", Kind::Text, "account"),
        Column::new("reference", Kind::Text, "reference"),
        Column::new("actor", Kind::Text, "actor"),
        Column::new("reason", Kind::Text, "reason"),
    ];
    query.columns.extend(FIGURES.map(|(name, kind)| Column::new(output_name(name), kind, name)));
    let figures = FIGURES.map(|(name, _)| name).join(", ");
    let sums = FIGURES.map(|(name, _)| format!("coalesce(sum({name}), 0) AS {name}")).join(", ");
    let negated = FIGURES.map(|(name, _)| format!("-{name}")).join(", ");
    let grant = "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, granted_change_microcredits, expired_change_microcredits, 0, 0";
    let differences = FIGURES.map(|(name, _)| format!("s.{name} - l.{name}")).join(", ");
    let no_credits = "0, 0, 0, 0";
    let end = "requests, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens,
               reasoning_tokens, video_seconds, charged_microcredits, cost_picousd";
    let note = "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, greatest(-spent_change_microcredits, 0), greatest(spent_change_microcredits, 0)";
    let end_line = "position, ended_at, accounting_month, corrects_month, account, request_id, NULL, status";
    let note_line = "position, happened_at, accounting_month, corrects_month, account, reference, actor, reason";
    let nothing = "NULL::date, NULL, NULL, NULL, NULL";
    query.source = format!(
        "FROM (
            WITH stated AS (SELECT * FROM month_close_v1 WHERE month = {month} AND position <= {up_to}),
                 -- What the close states is true at its own watermark, and so is what it is compared with.
                 bound AS (SELECT coalesce((SELECT watermark FROM stated), {up_to}) AS position),
                 ends AS (SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(input_tokens), 0) AS input_tokens,
                                 coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
                                 coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens,
                                 coalesce(sum(cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
                                 coalesce(sum(output_tokens), 0) AS output_tokens,
                                 coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
                                 coalesce(sum(video_seconds), 0) AS video_seconds,
                                 coalesce(sum(charged_microcredits), 0) AS charged_microcredits,
                                 coalesce(sum(cost_picousd), 0) AS cost_picousd
                          FROM usage_ledger_v1
                          WHERE accounting_month = {month} AND position <= (SELECT position FROM bound)),
                 moves AS (SELECT coalesce(sum(granted_change_microcredits), 0) AS granted_microcredits,
                                  coalesce(sum(expired_change_microcredits), 0) AS expired_microcredits,
                                  coalesce(sum(greatest(-spent_change_microcredits, 0))
                                      FILTER (WHERE movement = 'adjust'), 0) AS credit_notes_microcredits,
                                  coalesce(sum(greatest(spent_change_microcredits, 0))
                                      FILTER (WHERE movement = 'adjust'), 0) AS debit_notes_microcredits
                           FROM credit_ledger_v1
                           WHERE accounting_month = {month} AND position <= (SELECT position FROM bound)),
                 ledger AS (SELECT * FROM ends, moves),
                 later (nth, part, section, position, happened_at, booked_month, corrects_month, account, reference, actor,
                        reason, {figures}) AS (
                     SELECT 6 AS nth, part, 'later_end' AS section, {end_line}, {end}, {no_credits} FROM usage_ledger_v1
                         WHERE corrects_month = {month} AND position <= {up_to}
                     UNION ALL SELECT 7, 0, 'later_note', {note_line}, {note} FROM credit_ledger_v1
                         WHERE corrects_month = {month} AND accounting_month > {month} AND movement = 'adjust'
                             AND position <= {up_to}
                     UNION ALL SELECT 8, 0, 'later_grant', {note_line}, {grant} FROM credit_ledger_v1
                         WHERE corrects_month = {month} AND accounting_month > {month}
                             AND movement IN ('grant', 'void', 'expire') AND position <= {up_to}),
                 -- What was booked in this month for one before belongs to that.
                 earlier ({figures}) AS (
                     SELECT {end}, {no_credits} FROM usage_ledger_v1
                         WHERE accounting_month = {month} AND corrects_month < {month} AND position <= {up_to}
                     UNION ALL SELECT {note} FROM credit_ledger_v1
                         WHERE accounting_month = {month} AND corrects_month < {month} AND movement = 'adjust'
                             AND position <= {up_to}
                     UNION ALL SELECT {grant} FROM credit_ledger_v1
                         WHERE accounting_month = {month} AND corrects_month < {month}
                             AND movement IN ('grant', 'void', 'expire') AND position <= {up_to})
            SELECT 1 AS nth, 0 AS part, 'stated' AS section, position, closed_at AS happened_at, month AS booked_month,
                   NULL::date AS corrects_month, NULL AS account, month::text AS reference, actor, NULL AS reason,
                   {figures}
                FROM stated
            UNION ALL SELECT 2, 0, 'ledger', b.position, NULL, {month}, {nothing}, {figures} FROM ledger, bound b
            UNION ALL SELECT 3, 0, 'difference', s.position, NULL, {month}, {nothing}, {differences} FROM stated s, ledger l
            UNION ALL SELECT 4, part, 'late_end', {end_line}, {end}, {no_credits} FROM usage_ledger_v1
                WHERE accounting_month = {month} AND corrects_month IS NOT NULL AND position <= {up_to}
            UNION ALL SELECT 5, 0, 'note', {note_line}, {note} FROM credit_ledger_v1
                WHERE accounting_month = {month} AND movement = 'adjust' AND position <= {up_to}
            UNION ALL SELECT * FROM later
            UNION ALL SELECT 9, 0, 'stands', {up_to}, NULL, {month}, {nothing}, {sums}
                FROM (SELECT {figures} FROM ledger UNION ALL SELECT {figures} FROM later
                      UNION ALL SELECT {negated} FROM earlier) month) pack"
    );
    query.order_by = vec!["nth", "position", "part"];
    query
}

fn output_name(name: &'static str) -> &'static str {
    match name {
        "charged_microcredits" => "charged_credits",
        "cost_picousd" => "provider_cost_usd",
        "granted_microcredits" => "granted_credits",
        "expired_microcredits" => "expired_credits",
        "credit_notes_microcredits" => "credit_notes_credits",
        "debit_notes_microcredits" => "debit_notes_credits",
        _ => name,
    }
}
