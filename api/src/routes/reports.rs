//! `GET /api/reports/{usage|statement|holds|trial-balance|close|margin}` and `GET /api/usage`: the reports of finance.
//!
//! `month=2026-10` or `from=&to=` (days, included), `account=`, `user=`, `provider=`, `model=`, `groupBy=day,model`,
//! `asOf=` (a position or a time), `format=json|csv|parquet|xlsx|focus|watermark`, `limit=` and `cursor=`. Whoever does not
//! read all reports reads what concerns themselves: their usage, and their account.

use std::{future::ready, sync::Arc, time::Duration};

use aihub_application::{
    error::GatewayError,
    principal::{MissingCapability, Principal, Reports},
    shares::Scope,
};
use aihub_projections::report::{
    Piece, Report, ReportError,
    format::{Format, FormatError},
    selection::{Fault, Name, Parameters, Selection},
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use tokio::time::timeout;

use super::{
    Caller, access,
    parameters::{Path, Query},
    spool::spool,
};
use crate::{
    doors::{self, Client},
    hub::Hub,
    problem::Problem,
};

/// How long a report waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

type Pairs = Query<Vec<(String, String)>>;

const POSITION: HeaderName = HeaderName::from_static("aihub-position");
/// Why the report is not complete.
const INCOMPLETE: HeaderName = HeaderName::from_static("aihub-incomplete");
const CHAIN_HASH: HeaderName = HeaderName::from_static("aihub-chain-hash");

pub async fn usage(state: State<Arc<Hub>>, caller: Caller, client: Client, pairs: Pairs) -> Result<Response, Problem> {
    show(state, caller, client, Path(Name::Usage.as_str().to_owned()), pairs).await
}

pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    client: Client,
    Path(name): Path<String>,
    pairs: Pairs,
) -> Result<Response, Problem> {
    let name = Name::from_text(&name).ok_or_else(|| {
        let known = Name::ALL.map(Name::as_str).join(", ");
        Problem::not_found(format!("there is no report {name}; there are {known}"))
    })?;
    let Query(pairs) = pairs;
    let asked = pairs.clone();
    let (mut parameters, format) = read(pairs)?;
    let is_own = keep_to_own(&caller, name, &mut parameters).map_err(|missing| hub.forbidden(&caller, missing))?;
    let selection = Selection::of(name, parameters, hub.gateway.clock.now().date_naive())?;
    client.hold(doors::take(&hub, &hub.doors.reports, &caller, 1)?);
    let on_disk = doors::take(&hub, &hub.doors.report_bytes, &caller, 0)?;
    let turn = timeout(TURN_TIMEOUT, hub.doors.report_turns.acquire()).await.map_err(|_| no_turn())?;
    let report = Report::open(hub.reads.pool(), selection, format).await?;
    if !is_own {
        let asked = asked.iter().filter(|(field, _)| field != "token");
        let asked = asked.map(|(field, value)| (field.as_str(), Some(value.clone())));
        access::record(&hub, &caller, &format!("report.{}", name.as_str()), asked).await?;
    }
    let mut headers = headers(name, format, &report);
    let bytes = report.pieces().try_filter_map(|piece| {
        ready(Ok(match piece {
            Piece::Bytes(bytes) => Some(bytes),
            Piece::Watermark(_) => None,
        }))
    });
    // However slowly it is read: whoever has the next turn does not wait for that.
    let (body, length, on_disk) = spool(&hub.settings.reports_folder, on_disk, bytes).await?;
    drop(turn);
    client.hold(on_disk);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok((headers, body).into_response())
}

fn no_turn() -> Problem {
    let (what, limit) = ("reports that wait to be made", doors::REPORT_TURNS as u64);
    GatewayError::RateLimitExceeded { what, scope: Scope::Node, limit, retry_after: Duration::from_secs(5) }.into()
}

/// A report on more than one's own is for those who read all, and is on record: then this is false.
fn keep_to_own(caller: &Principal, name: Name, parameters: &mut Parameters) -> Result<bool, MissingCapability> {
    if caller.capabilities.require_reports(Reports::All).is_ok() {
        return Ok(false);
    }
    caller.capabilities.require_reports(Reports::Own)?;
    let is = |asked: &Option<String>, own: &str| asked.as_ref().is_none_or(|asked| asked == own);
    let is_own = match name {
        Name::Usage => is(&parameters.account, &caller.account) && is(&parameters.user, &caller.user),
        Name::Statement | Name::Holds => is(&parameters.account, &caller.account),
        Name::TrialBalance | Name::Close | Name::Margin => false,
    };
    if !is_own {
        caller.capabilities.require_reports(Reports::All)?;
    }
    parameters.account = Some(caller.account.clone());
    if name == Name::Usage {
        parameters.user = Some(caller.user.clone());
    }
    Ok(true)
}

fn read(pairs: Vec<(String, String)>) -> Result<(Parameters, Format), Problem> {
    let (mut parameters, mut format) = (Parameters::default(), None);
    for (name, value) in pairs {
        let field = match name.as_str() {
            "month" => &mut parameters.month,
            "from" => &mut parameters.from,
            "to" => &mut parameters.to,
            "account" => &mut parameters.account,
            "user" => &mut parameters.user,
            "provider" => &mut parameters.provider,
            "model" => &mut parameters.model,
            "groupBy" => &mut parameters.group_by,
            "asOf" => &mut parameters.as_of,
            "limit" => &mut parameters.limit,
            "cursor" => &mut parameters.cursor,
            "format" => &mut format,
            // The authentication has read it.
            "token" => continue,
            _ => return Err(Problem::faulty(&name, "no report has such a parameter")),
        };
        if field.replace(value).is_some() {
            return Err(Problem::faulty(&name, "it is given twice"));
        }
    }
    let format = format.map(|text| {
        Format::from_text(&text).ok_or_else(|| {
            let known = Format::ALL.map(|(_, name)| name).join(", ");
            Problem::faulty("format", format!("{text} is none of {known}"))
        })
    });
    Ok((parameters, format.transpose()?.unwrap_or(Format::Json)))
}

fn headers(name: Name, format: Format, report: &Report) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(POSITION, HeaderValue::from(report.basis().position));
    if let Ok(hash) = HeaderValue::try_from(&report.basis().chain_hash) {
        headers.insert(CHAIN_HASH, hash);
    }
    if !report.standing().is_empty() {
        let standing = report.standing().join(", ");
        headers.extend(HeaderValue::try_from(standing).ok().map(|standing| (INCOMPLETE, standing)));
    }
    if matches!(format, Format::Csv | Format::Focus | Format::Parquet | Format::Xlsx) {
        let file = format!("attachment; filename=\"{}.{}\"", name.as_str(), format.extension());
        headers.extend(HeaderValue::try_from(file).ok().map(|file| (header::CONTENT_DISPOSITION, file)));
    }
    headers
}

impl From<Fault> for Problem {
    fn from(Fault { field, reason }: Fault) -> Self {
        Self::faulty(field, reason)
    }
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Fault(fault) => fault.into(),
            ReportError::Format(error @ FormatError::TooManyRows { .. }) => Self::faulty("format", error.to_string()),
            error => Self::internal(&error),
        }
    }
}
