//! Usage in the columns of FOCUS 1.2, the `FinOps` Foundation's open cost and usage specification.
//!
//! A row is a day's usage of a user of an account of one model at one price, or a credit or debit note. Its costs are what the provider asks, in US
//! dollars, to the last digit: that is the money which is invoiced from outside. What the account pays for it is money of
//! ours, a virtual currency in the terms of the specification, and stands in the columns of the pricing currency.
//!
//! | FOCUS | here |
//! |---|---|
//! | `BilledCost`, `EffectiveCost`, `ListCost`, `ContractedCost` | the provider's cost by its price list; negotiated discounts are not known here |
//! | `BillingCurrency`, `PricingCurrency` | `USD`; `CREDITS` |
//! | `PricingCurrencyEffectiveCost` | credits charged |
//! | `BillingAccountId`, `BillingAccountName` | the account |
//! | `SubAccountId`, `SubAccountName`, `SubAccountType` | the user; `User` |
//! | `BillingPeriod…` | the accounting month |
//! | `ChargePeriod…` | the UTC day |
//! | `ChargeCategory`, `ChargeFrequency` | `Usage`, `Usage-Based`; of a credit note `Credit`, of a debit note `Adjustment`, and `One-Time` |
//! | `ChargeClass` | `Correction` where it belongs to a month that was closed before it came in |
//! | `ConsumedQuantity`, `PricingQuantity` | tokens in and out, those from and into caches included, unit `Tokens`; of videos, unit `Seconds` |
//! | `ProviderName`, `PublisherName`, `InvoiceIssuerName` | the AI provider; of a note `aihub` |
//! | `ServiceName`, `ServiceCategory` | the model, of a note `Credits`; `AI and Machine Learning` |
//! | `SkuId`, `SkuPriceId` | provider and model; the price that the charge names |
//! | `x_…` | what FOCUS has no column for: requests, tokens by kind, seconds of video, and the note's name |
//!
//! There is no `InvoiceId`, which FOCUS only recommends, as nothing here is invoiced; and no unit prices, for a model has one
//! for each kind of token.
//!
//! What nothing was asked for, a request that failed or a film that was never made, has no price and is no charge: a row of usage
//! must have a `SkuPriceId`. How many there were is in the other reports.
//!
//! A note changes what the account pays, and nothing of what a provider asks. So `PricingCurrencyEffectiveCost` adds up to
//! what was spent by the credit ledger, and the costs to the providers'. Notes are an account's: they stand in no report
//! that is asked for a user, a provider or a model.

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::Selection,
    watermark::Basis,
};

/// Usage, one row for each that is kept apart. Quantities are of a unit each, so that there is no sum of them.
const USAGE: &str = "SELECT 'Usage' AS category, usage_day AS day, accounting_month, corrects_month, account, user_id,
         provider, model, price_id, CASE WHEN kind = 'video' THEN 'Seconds' ELSE 'Tokens' END AS unit, NULL AS note,
         provider || '/' || model AS description, sum(cost_picousd) AS cost_picousd,
         sum(charged_microcredits) AS spent_microcredits,
         sum(input_tokens + cached_input_tokens + cache_write_tokens + cache_write_1h_tokens + output_tokens + video_seconds)
             AS quantity,
         sum(cache_write_1h_tokens) AS cache_write_1h_tokens, sum(cache_write_tokens) AS cache_write_tokens, sum(cached_input_tokens) AS cached_input_tokens,
         sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(requests) AS requests,
         sum(video_seconds) AS video_seconds";
const USAGE_KEYS: &str =
    "usage_day, accounting_month, corrects_month, account, user_id, provider, model, price_id, kind = 'video'";
/// The same of notes. They name no other month than a closed one.
const NOTES: &str = "SELECT CASE WHEN spent_change_microcredits < 0 THEN 'Credit' ELSE 'Adjustment' END, day,
         accounting_month, corrects_month, account, NULL, NULL, NULL, NULL, NULL, reference,
         reason, 0, spent_change_microcredits, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL";
/// Quantities are decimal numbers in FOCUS: whoever guesses the types of a CSV takes whole ones for integers.
const QUANTITY: &str = "quantity || '.0'";
/// The day that a note is booked on, as usage is: its own, or the first one of the month that was open.
const NOTE_DAY: &str = "greatest((happened_at AT TIME ZONE 'UTC')::date, accounting_month)";

pub fn query(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let text = |name, sql: &str| Column::new(name, Kind::Text, sql);
    let count = |name, sql: &str| Column::new(name, Kind::Count, sql).totalled();
    let cost = |name| Column::new(name, Kind::Usd, "cost_picousd").totalled();
    let midnight = |name, day: &str| Column::new(name, Kind::Instant, format!("({day})::timestamp AT TIME ZONE 'UTC'"));
    let provider = "coalesce(provider, 'aihub')";
    query.columns = vec![
        cost("BilledCost"),
        text("BillingAccountId", "account"),
        text("BillingAccountName", "account"),
        text("BillingCurrency", "'USD'"),
        midnight("BillingPeriodEnd", "accounting_month + interval '1 month'"),
        midnight("BillingPeriodStart", "accounting_month"),
        text("ChargeCategory", "category"),
        text("ChargeClass", "CASE WHEN corrects_month IS NOT NULL THEN 'Correction' END"),
        text("ChargeDescription", "description || coalesce(', of ' || to_char(corrects_month, 'YYYY-MM'), '')"),
        text("ChargeFrequency", "CASE category WHEN 'Usage' THEN 'Usage-Based' ELSE 'One-Time' END"),
        midnight("ChargePeriodEnd", "day + 1"),
        midnight("ChargePeriodStart", "day"),
        text("ConsumedQuantity", QUANTITY),
        text("ConsumedUnit", "unit"),
        cost("ContractedCost"),
        cost("EffectiveCost"),
        text("InvoiceIssuerName", provider),
        cost("ListCost"),
        text("PricingCategory", "CASE category WHEN 'Usage' THEN 'Standard' END"),
        text("PricingCurrency", "'CREDITS'"),
        Column::new("PricingCurrencyEffectiveCost", Kind::Credits, "spent_microcredits").totalled(),
        text("PricingQuantity", QUANTITY),
        text("PricingUnit", "unit"),
        text("ProviderName", provider),
        text("PublisherName", provider),
        text("ServiceCategory", "'AI and Machine Learning'"),
        text("ServiceName", "coalesce(model, 'Credits')"),
        text("ServiceSubcategory", "'Generative AI'"),
        text("SkuId", "provider || '/' || model"),
        text("SkuPriceId", "price_id"),
        text("SubAccountId", "user_id"),
        text("SubAccountName", "user_id"),
        text("SubAccountType", "CASE category WHEN 'Usage' THEN 'User' END"),
        count("x_CacheWriteHourTokens", "cache_write_1h_tokens"),
        count("x_CacheWriteTokens", "cache_write_tokens"),
        count("x_CachedInputTokens", "cached_input_tokens"),
        count("x_InputTokens", "input_tokens"),
        text("x_NoteId", "note"),
        count("x_OutputTokens", "output_tokens"),
        count("x_Requests", "requests"),
        count("x_VideoSeconds", "video_seconds"),
    ];
    let (from, to) = selection.days.unwrap_or_default();
    let (from, to) = (query.bind(Bind::Day(from)), query.bind(Bind::Day(to)));
    let up_to = query.bind(Bind::Position(basis.position));
    let names = query.names(selection);
    let months = format!(
        "accounting_month BETWEEN date_trunc('month', {from})::date AND date_trunc('month', {to})::date
         AND position <= {up_to}{names}"
    );
    let is_of_accounts = selection.user.is_none() && selection.provider.is_none() && selection.model.is_none();
    let notes = is_of_accounts.then(|| {
        format!(
            "UNION ALL {NOTES} FROM (SELECT *, {NOTE_DAY} AS day FROM credit_ledger_v1
                                     WHERE movement = 'adjust' AND {months}) notes
             WHERE day BETWEEN {from} AND {to}"
        )
    });
    query.source = format!(
        "FROM ({USAGE} FROM usage_ledger_v1
               WHERE usage_day BETWEEN {from} AND {to} AND {months} AND price_id IS NOT NULL
               GROUP BY {USAGE_KEYS} {}) charges",
        notes.unwrap_or_default()
    );
    query.order_by = vec![
        "ChargePeriodStart",
        "BillingAccountId",
        "SubAccountId",
        "ProviderName",
        "ServiceName",
        "SkuPriceId",
        "ChargeDescription",
        "ConsumedUnit",
        "x_NoteId",
    ];
    query
}
