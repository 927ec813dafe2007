//! `GET /api/credits[?account=A]`: what an account has. One's own, or anybody's for those who read all reports.

use std::{sync::Arc, time::Duration};

use aihub_application::error::GatewayError;
use aihub_domain::money::Microcredits;
use aihub_projections::account_balance;
use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Caller, access, parameters::Query};
use crate::{hub::Hub, problem::Problem};

/// How long it is waited for an account's first row.
const OPENING: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    account: Option<String>,
    /// The authentication has read it.
    #[serde(rename = "token")]
    _token: Option<String>,
}

pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Problem> {
    let account = parameters.account.unwrap_or_else(|| caller.account.clone());
    caller.require_reports_on(&account).map_err(|missing| hub.forbidden(&caller, missing))?;
    let find =
        || async { account_balance::find(hub.reads.pool(), &account).await.map_err(|error| Problem::internal(&error)) };
    let mut view = find().await?;
    if view.value.is_none() && account == caller.account && hub.gateway.settings.welcome_credits.is_some() {
        // Whoever asks for the first time has them from now on.
        hub.gateway.available(&caller).await?;
        let give_up_at = Instant::now() + OPENING;
        while view.value.is_none() {
            if Instant::now() > give_up_at {
                return Err(GatewayError::unavailable().into());
            }
            sleep(LOOK_EVERY).await;
            view = find().await?;
        }
    }
    let Some(balance) = view.value else {
        return Err(Problem::not_found(format!("account {account} is not open")));
    };
    if account != caller.account {
        access::record(&hub, &caller, "account.show", [("account", Some(account.clone()))]).await?;
    }
    let credits = |microcredits| Microcredits(microcredits).as_credits();
    Ok(Json(json!({
        "account": account,
        "granted": credits(balance.granted_microcredits),
        "available": credits(balance.available_microcredits),
        "held": credits(balance.held_microcredits),
        "spent": credits(balance.spent_microcredits),
        "expired": credits(balance.expired_microcredits),
        "limits": {
            "daily": balance.daily_limit_microcredits.map(credits),
            "monthly": balance.monthly_limit_microcredits.map(credits),
        },
        "position": view.position,
    })))
}
