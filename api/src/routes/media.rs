//! `GET /media/{key}`: what is kept, for whoever has a URL of ours that has not expired. The signature is the authorisation, so that
//! a player, a browser or the edge of a CDN needs no token. Ranges, validators and cache headers are those of RFC 9110 and 9111.

#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use aihub_application::ports::media_store::MediaError;
use aihub_infrastructure::media::{
    KeptMedia,
    serve::{Allowed, KeptFile},
    signature::UrlFault,
};
use axum::{
    body::Body,
    extract::{
        FromRef, Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
};
use headers::{
    AcceptRanges, ContentLength, ContentRange, ETag, HeaderMapExt, IfModifiedSince, IfNoneMatch, IfRange, LastModified,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_range_header::parse_range_header;
use serde::Deserialize;
use serde_json::json;

use crate::{hub::Hub, problem::Problem};

/// What the route needs of the hub.
#[derive(Clone)]
pub struct Media(pub Arc<KeptMedia>);

impl FromRef<Arc<Hub>> for Media {
    fn from_ref(hub: &Arc<Hub>) -> Self {
        Self(hub.settings.media.clone())
    }
}

/// An edge may add parameters of its own.
#[derive(Debug, Deserialize)]
pub struct Signed {
    expires: u64,
    signature: String,
}

pub async fn show(
    State(Media(media)): State<Media>,
    key: Result<Path<String>, PathRejection>,
    signed: Result<Query<Signed>, QueryRejection>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let served = match (key, signed) {
        (Ok(Path(key)), Ok(Query(signed))) => serve(&media, &key, &signed, &method, &headers).await,
        _ => Err(refused(UrlFault::Forged)),
    };
    served.unwrap_or_else(|problem| {
        let mut response = problem.into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    })
}

async fn serve(
    media: &KeptMedia,
    key: &str,
    signed: &Signed,
    method: &Method,
    asked: &HeaderMap,
) -> Result<Response, Problem> {
    let allowed = media.allowed(key, signed.expires, &signed.signature).map_err(refused)?;
    let gone = || {
        let what = if media.is_in_a_folder() {
            "this node does not have this file: it is kept no longer, or by another node"
        } else {
            "this file is kept no longer"
        };
        Problem::not_found(what)
    };
    let file = media.find(key).await.map_err(unavailable)?.ok_or_else(gone)?;
    let validators = Validators::of(&file);
    let mut response = StatusCode::OK.into_response();
    if validators.are_met(asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        validators.write(response.headers_mut());
        response.headers_mut().insert(header::CACHE_CONTROL, cache_control(allowed));
        return Ok(response);
    }
    let stretch = match validators.part(method, asked, file.bytes) {
        Part::Whole => 0..file.bytes,
        Part::Stretch(stretch) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if let Ok(range) = ContentRange::bytes(stretch.clone(), file.bytes) {
                response.headers_mut().typed_insert(range);
            }
            stretch
        }
        Part::Beyond => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().typed_insert(ContentRange::unsatisfied_bytes(file.bytes));
            return Ok(response);
        }
    };
    let headers = response.headers_mut();
    validators.write(headers);
    headers.typed_insert(AcceptRanges::bytes());
    headers.typed_insert(ContentLength(stretch.end - stretch.start));
    let texts = [
        (header::CONTENT_TYPE, HeaderValue::try_from(&file.content_type)),
        (header::CONTENT_DISPOSITION, HeaderValue::try_from(&file.disposition)),
    ];
    headers.extend(texts.into_iter().filter_map(|(name, value)| Some((name, value.ok()?))));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, cache_control(allowed));
    if method != Method::HEAD {
        let content = media.read(&file, stretch).await.map_err(unavailable)?.ok_or_else(gone)?;
        *response.body_mut() = Body::from_stream(content);
    }
    Ok(response)
}

/// What tells one state of a file from another.
struct Validators {
    e_tag: Option<ETag>,
    modified: LastModified,
}

enum Part {
    Whole,
    Stretch(Range<u64>),
    Beyond,
}

impl Validators {
    fn of(file: &KeptFile) -> Self {
        let e_tag = file.e_tag.as_ref().and_then(|tag| tag.parse().ok());
        Self { e_tag, modified: LastModified::from(std::time::SystemTime::from(file.modified)) }
    }

    fn write(&self, headers: &mut HeaderMap) {
        if let Some(e_tag) = self.e_tag.clone() {
            headers.typed_insert(e_tag);
        }
        headers.typed_insert(self.modified);
    }

    /// Whether the client has it already.
    fn are_met(&self, asked: &HeaderMap) -> bool {
        match (asked.typed_get::<IfNoneMatch>(), &self.e_tag) {
            (Some(none_of), Some(e_tag)) => !none_of.precondition_passes(e_tag),
            (Some(_), None) => false,
            (None, _) => {
                asked.typed_get::<IfModifiedSince>().is_some_and(|since| !since.is_modified(self.modified.into()))
            }
        }
    }

    /// A range that nobody can read is none, several are answered with the whole, and so is one of another state.
    fn part(&self, method: &Method, asked: &HeaderMap, bytes: u64) -> Part {
        let range = asked.get(header::RANGE).filter(|_| method == Method::GET).and_then(|range| range.to_str().ok());
        let Some(Ok(range)) = range.map(parse_range_header) else { return Part::Whole };
        let of_this_state = match asked.typed_try_get::<IfRange>() {
            Ok(Some(state)) => !state.is_modified(self.e_tag.as_ref(), Some(&self.modified)),
            Ok(None) => true,
            Err(_) => false,
        };
        if range.len() != 1 || !of_this_state {
            return Part::Whole;
        }
        match range.validate(bytes).as_deref() {
            Ok([range]) => Part::Stretch(*range.start()..*range.end() + 1),
            Ok(_) => Part::Whole,
            Err(_) => Part::Beyond,
        }
    }
}

/// Until the URL expires, for the file under a key stays what it is.
fn cache_control(allowed: Allowed) -> HeaderValue {
    let Allowed { seconds_left, shared } = allowed;
    let scope = if shared { "public" } else { "private" };
    HeaderValue::try_from(format!("{scope}, max-age={seconds_left}, immutable"))
        .unwrap_or(HeaderValue::from_static("no-store"))
}

fn refused(fault: UrlFault) -> Problem {
    let (reason, remedy) = match fault {
        UrlFault::Forged => ("signature", "take it as it stands in the video's status"),
        UrlFault::Expired => ("expired", "the video's status has a fresh one"),
    };
    Problem::new("FORBIDDEN", format!("{fault}: {remedy}")).with_details(json!({ "reason": reason }))
}

fn unavailable(error: MediaError) -> Problem {
    tracing::warn!(error.message = format!("{:#}", anyhow::Error::new(error)), "a file that is kept could not be read");
    Problem::new("UNAVAILABLE", "the media store does not answer")
}
