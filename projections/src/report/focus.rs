//! Usage in the columns of FOCUS 1.2, the `FinOps` Foundation's open cost and usage specification.
//!
//! A row is a day's usage of a user of an account of one model at one price. Its costs are what the provider asks, in US
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
//! | `ChargeCategory`, `ChargeFrequency` | `Usage`, `Usage-Based` |
//! | `ChargeClass` | `Correction` where the usage belongs to a month that was closed before it came in |
//! | `ConsumedQuantity`, `PricingQuantity` | tokens in and out, those from and into caches included, unit `Tokens`; of videos, unit `Seconds` |
//! | `ProviderName`, `PublisherName`, `InvoiceIssuerName` | the AI provider |
//! | `ServiceName`, `ServiceCategory` | the model; `AI and Machine Learning` |
//! | `SkuId`, `SkuPriceId` | provider and model; the price that the charge names |
//! | `x_…` | what FOCUS has no column for: requests, tokens by kind, and seconds of video |

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::Selection,
    watermark::Basis,
};

const KEYS: &str =
    "usage_day, accounting_month, corrects_month, account, user_id, provider, model, price_id, kind = 'video'";
/// Of a unit each, so that there is no sum of them.
const QUANTITY: &str = "sum(input_tokens + cached_input_tokens + cache_write_tokens + output_tokens + video_seconds)";
const UNIT: &str = "CASE WHEN kind = 'video' THEN 'Seconds' ELSE 'Tokens' END";

pub fn query(selection: &Selection, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let text = |name, sql: &str| Column::new(name, Kind::Text, sql);
    let count = |name, sql: &str| Column::new(name, Kind::Count, sql).totalled();
    let cost = |name| Column::new(name, Kind::Usd, "sum(cost_picousd)").totalled();
    let midnight = |name, day: &str| Column::new(name, Kind::Instant, format!("({day})::timestamp AT TIME ZONE 'UTC'"));
    query.columns = vec![
        cost("BilledCost"),
        text("BillingAccountId", "account"),
        text("BillingAccountName", "account"),
        text("BillingCurrency", "'USD'"),
        midnight("BillingPeriodEnd", "accounting_month + interval '1 month'"),
        midnight("BillingPeriodStart", "accounting_month"),
        text("ChargeCategory", "'Usage'"),
        text("ChargeClass", "CASE WHEN corrects_month IS NOT NULL THEN 'Correction' END"),
        text(
            "ChargeDescription",
            "provider || '/' || model || coalesce(', of ' || to_char(corrects_month, 'YYYY-MM'), '')",
        ),
        text("ChargeFrequency", "'Usage-Based'"),
        midnight("ChargePeriodEnd", "usage_day + 1"),
        midnight("ChargePeriodStart", "usage_day"),
        Column::new("ConsumedQuantity", Kind::Count, QUANTITY),
        text("ConsumedUnit", UNIT),
        cost("ContractedCost"),
        cost("EffectiveCost"),
        text("InvoiceIssuerName", "provider"),
        cost("ListCost"),
        text("PricingCategory", "'Standard'"),
        text("PricingCurrency", "'CREDITS'"),
        Column::new("PricingCurrencyEffectiveCost", Kind::Credits, "sum(charged_microcredits)").totalled(),
        Column::new("PricingQuantity", Kind::Count, QUANTITY),
        text("PricingUnit", UNIT),
        text("ProviderName", "provider"),
        text("PublisherName", "provider"),
        text("ServiceCategory", "'AI and Machine Learning'"),
        text("ServiceName", "model"),
        text("ServiceSubcategory", "'Generative AI'"),
        text("SkuId", "provider || '/' || model"),
        text("SkuPriceId", "price_id"),
        text("SubAccountId", "user_id"),
        text("SubAccountName", "user_id"),
        text("SubAccountType", "'User'"),
        count("x_CacheWriteTokens", "sum(cache_write_tokens)"),
        count("x_CachedInputTokens", "sum(cached_input_tokens)"),
        count("x_InputTokens", "sum(input_tokens)"),
        count("x_OutputTokens", "sum(output_tokens)"),
        count("x_Requests", "count(*)"),
        count("x_VideoSeconds", "sum(video_seconds)"),
    ];
    let (from, to) = selection.days.unwrap_or_default();
    let (from, to) = (query.bind(Bind::Day(from)), query.bind(Bind::Day(to)));
    let up_to = query.bind(Bind::Position(basis.position));
    let names = query.names(selection);
    query.source = format!(
        "FROM usage_ledger_v1
         WHERE accounting_month BETWEEN date_trunc('month', {from})::date AND date_trunc('month', {to})::date
             AND usage_day BETWEEN {from} AND {to} AND position <= {up_to}{names}
         GROUP BY {KEYS}"
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
    ];
    query
}
