//! `GET /api/usage?from=2026-11-01&to=2026-11-30&groupBy=day,model`: what was used and charged, by UTC day of the end.
//! One's own, or anybody's for those who read all reports (`account=`, `user=`).

use std::sync::Arc;

use aihub_application::principal::Reports;
use aihub_domain::money::Microcredits;
use aihub_projections::usage_daily::{self, Dimension, ReportError, UsageFilter, UsageRow};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use chrono::{Datelike, NaiveDate};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Caller;
use crate::{hub::Hub, problem::Problem};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Parameters {
    /// The first day; left out, the first of this month.
    from: Option<NaiveDate>,
    /// The last day, included; left out, today.
    to: Option<NaiveDate>,
    /// `day`, `account`, `user`, `provider`, `model`, separated by commas; left out, one row.
    #[serde(default)]
    group_by: String,
    account: Option<String>,
    user: Option<String>,
    /// The authentication has read it.
    #[serde(rename = "token")]
    _token: Option<String>,
}

pub async fn report(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(parameters) = parameters.map_err(|error| Problem::faulty("(query)", error.body_text()))?;
    let (mut account, mut user) = (parameters.account, parameters.user);
    if caller.capabilities.require_reports(Reports::All).is_err() {
        caller.capabilities.require_reports(Reports::Own)?;
        let is_own = account.as_ref().is_none_or(|account| *account == caller.account)
            && user.as_ref().is_none_or(|user| *user == caller.user);
        if !is_own {
            caller.capabilities.require_reports(Reports::All)?;
        }
        (account, user) = (Some(caller.account.clone()), Some(caller.user.clone()));
    }
    let today = hub.gateway.clock.now().date_naive();
    let to = parameters.to.unwrap_or(today);
    let from = parameters.from.unwrap_or_else(|| to.with_day(1).unwrap_or(to));
    if from > to {
        return Err(Problem::faulty("from", format!("{from} is after {to}")));
    }
    let keep_apart = dimensions(&parameters.group_by)?;
    let filter = UsageFilter { from, to, account, user };
    let view = match usage_daily::report(hub.reads.pool(), &filter, &keep_apart).await {
        Ok(view) => view,
        Err(ReportError::TooManyRows) => return Err(Problem::faulty("groupBy", ReportError::TooManyRows.to_string())),
        Err(ReportError::Database(error)) => return Err(Problem::internal(&error)),
    };
    let rows: Vec<Value> = view.value.iter().map(row_json).collect();
    Ok(Json(json!({ "from": from, "to": to, "groupBy": keep_apart, "rows": rows, "position": view.position })))
}

fn dimensions(group_by: &str) -> Result<Vec<Dimension>, Problem> {
    let names = group_by.split(',').map(str::trim).filter(|name| !name.is_empty());
    let parsed = names.map(|name| {
        serde_json::from_value(Value::from(name))
            .map_err(|_| Problem::faulty("groupBy", format!("{name} is none of day, account, user, provider, model")))
    });
    parsed.collect()
}

fn row_json(row: &UsageRow) -> Value {
    let usage = &row.usage;
    let prompt_tokens = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens;
    let mut json = json!({
        "requests": usage.requests,
        "failed": usage.failed,
        "estimated": usage.estimated,
        "promptTokens": prompt_tokens,
        "cachedPromptTokens": usage.cached_input_tokens,
        "cacheWriteTokens": usage.cache_write_tokens,
        "completionTokens": usage.output_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "totalTokens": prompt_tokens + usage.output_tokens,
        "credits": Microcredits(usage.charged_microcredits).as_credits(),
        // Too large for a JSON number that everybody reads alike.
        "providerCostPicousd": usage.cost_picousd.to_string(),
    });
    let dimensions = [
        ("day", row.day.map(|day| day.to_string())),
        ("account", row.account.clone()),
        ("user", row.user.clone()),
        ("provider", row.provider.clone()),
        ("model", row.model.clone()),
    ];
    for (name, value) in dimensions {
        if let Some(value) = value {
            json[name] = Value::from(value);
        }
    }
    json
}
