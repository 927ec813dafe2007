//! `GET /api/reports/{usage|statement|holds|trial-balance|close|margin}` and `GET /api/usage`: the reports of finance.
//!
//! `month=2026-10` or `from=&to=` (days, included), `account=`, `user=`, `provider=`, `model=`, `groupBy=day,model`,
//! `asOf=` (a position or a time), `format=json|csv|parquet|focus|watermark`, `limit=` and `cursor=`. Whoever does not
//! read all reports reads what concerns themselves: their usage, and their account.

use std::sync::Arc;

use aihub_application::principal::{MissingCapability, Principal, Reports};
use aihub_projections::report::{
    Piece, Report, ReportError,
    format::Format,
    selection::{Fault, Name, Parameters, Selection},
};
use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Caller, access};
use crate::{hub::Hub, problem::Problem};

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

const POSITION: HeaderName = HeaderName::from_static("aihub-position");
const CHAIN_HASH: HeaderName = HeaderName::from_static("aihub-chain-hash");

pub async fn usage(state: State<Arc<Hub>>, caller: Caller, pairs: Pairs) -> Result<Response, Problem> {
    show(state, caller, Path(Name::Usage.as_str().to_owned()), pairs).await
}

pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(name): Path<String>,
    pairs: Pairs,
) -> Result<Response, Problem> {
    let name = Name::from_text(&name).ok_or_else(|| {
        let known = Name::ALL.map(Name::as_str).join(", ");
        Problem::not_found(format!("there is no report {name}; there are {known}"))
    })?;
    let Query(pairs) = pairs.map_err(|error| Problem::faulty("(query)", error.body_text()))?;
    let asked = pairs.clone();
    let (mut parameters, format) = read(pairs)?;
    let is_own = keep_to_own(&caller, name, &mut parameters).map_err(|missing| hub.forbidden(&caller, missing))?;
    let selection = Selection::of(name, parameters, hub.gateway.clock.now().date_naive())?;
    let report = Report::open(hub.reads.pool(), selection, format).await?;
    if !is_own {
        let asked = asked.iter().filter(|(field, _)| field != "token");
        let asked = asked.map(|(field, value)| (field.as_str(), Some(value.clone())));
        access::record(&hub, &caller, &format!("report.{}", name.as_str()), asked).await?;
    }
    let headers = headers(name, format, &report);
    let bytes = report.pieces().inspect_err(|error| tracing::warn!(error.message = %error, "a report broke off"));
    let bytes = bytes.try_filter_map(async |piece| {
        Ok(match piece {
            Piece::Bytes(bytes) => Some(bytes),
            Piece::Watermark(_) => None,
        })
    });
    Ok((headers, Body::from_stream(bytes)).into_response())
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
    if matches!(format, Format::Csv | Format::Focus | Format::Parquet) {
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
            error => Self::internal(&error),
        }
    }
}
