//! Who did what, when, with which model, at which price, and why something was refused: the events that have to do with a
//! request or a video, an account or a user, in words. It goes by what stands in the events, whichever they are, so that it knows
//! events that came later as well.
//!
//! What was refused before anything was accepted (no credits, no such model) is told as it was counted, see
//! `application/src/refusals.rs`.

use std::fmt::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use crate::{
    contents::named::is_name,
    event_store::reader::{self, RecordedEvent},
};

/// How many events are read at once.
pub const BATCH: usize = 500;

/// What the trail is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrailOf {
    /// Or a video.
    Request(String),
    Account(String),
    /// Takes a pass over the stretch.
    User(String),
}

/// An event in the trail.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub position: u64,
    pub at: DateTime<Utc>,
    /// As the event's metadata name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub event: String,
    /// What the event says; content is only named in it.
    pub data: Value,
}

/// The positions of the trail's events from `from` to `to`.
pub async fn positions(
    connection: &mut PgConnection,
    of: &TrailOf,
    from: u64,
    to: u64,
) -> Result<Vec<i64>, sqlx::Error> {
    let (from, to) = (from.cast_signed(), to.cast_signed());
    match of {
        // A request or a video and its reservation begin together and end together; in between only the reservation may
        // grow.
        TrailOf::Request(id) => {
            sqlx::query_scalar!(
                r#"WITH own AS (
                       SELECT position, payload -> event_type ->> 'account' AS account FROM events
                       WHERE aggregate_type IN ('request', 'video') AND aggregate_id = $1 AND position BETWEEN $2 AND $3)
                   SELECT position AS "position!" FROM own
                   UNION
                   SELECT e.position FROM events e
                   WHERE e.aggregate_type = 'account' AND e.aggregate_id IN (SELECT account FROM own)
                     AND e.position BETWEEN greatest($2, (SELECT min(position) - 1000 FROM own))
                         AND least($3, CASE WHEN (SELECT count(*) FROM own) > 1
                                            THEN (SELECT max(position) + 1000 FROM own) ELSE $3 END)
                     AND e.payload -> e.event_type ->> 'reservation_id' = $1
                   ORDER BY 1"#,
                id,
                from,
                to
            )
            .fetch_all(connection)
            .await
        }
        TrailOf::Account(id) => {
            sqlx::query_scalar!(
                r#"WITH own AS (
                       SELECT position, payload -> event_type ->> 'reservation_id' AS request_id
                       FROM events WHERE aggregate_type = 'account' AND aggregate_id = $1 AND position BETWEEN $2 AND $3)
                   SELECT position AS "position!" FROM own
                   UNION
                   SELECT e.position FROM events e JOIN (SELECT DISTINCT request_id FROM own) AS r
                       ON e.aggregate_type IN ('request', 'video') AND e.aggregate_id = r.request_id
                   WHERE e.position BETWEEN $2 AND $3
                   UNION
                   SELECT position FROM events
                   WHERE aggregate_type = 'subject' AND aggregate_id = $1 AND position BETWEEN $2 AND $3
                   UNION
                   -- Their streams are named `account:…`; what begins so may be another account, with a colon in its name.
                   SELECT position FROM events
                   WHERE aggregate_type = 'refusal' AND aggregate_id >= $1 || ':' AND aggregate_id < $1 || ';'
                     AND position BETWEEN $2 AND $3 AND payload -> event_type ->> 'account' = $1
                   ORDER BY 1"#,
                id,
                from,
                to
            )
            .fetch_all(connection)
            .await
        }
        TrailOf::User(name) => {
            sqlx::query_scalar!(
                r#"WITH own AS (
                       SELECT position, aggregate_type, aggregate_id FROM events
                       WHERE position BETWEEN $2 AND $3 AND (metadata ->> 'actor' = $1
                           OR payload -> event_type ->> 'user' = $1 OR payload -> event_type ->> 'actor' = $1))
                   SELECT position AS "position!" FROM own
                   UNION
                   SELECT e.position FROM events e JOIN (
                       SELECT DISTINCT aggregate_type, aggregate_id FROM own
                       WHERE aggregate_type IN ('request', 'video')) AS r
                       ON e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id
                   WHERE e.position BETWEEN $2 AND $3
                   ORDER BY 1"#,
                name,
                from,
                to
            )
            .fetch_all(connection)
            .await
        }
    }
}

/// The entries at these positions, at most [`BATCH`] of them.
pub async fn entries(connection: &mut PgConnection, positions: &[i64]) -> Result<Vec<Entry>, sqlx::Error> {
    Ok(reader::events_at(connection, positions).await?.iter().map(Entry::of).collect())
}

impl Entry {
    pub fn of(event: &RecordedEvent) -> Self {
        let metadata: Value = serde_json::from_str(&event.metadata).unwrap_or_default();
        let said = |name: &str| metadata.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut payload: Value = serde_json::from_str(&event.payload).unwrap_or_default();
        let data = match payload.get_mut(&event.event_type) {
            Some(said) => said.take(),
            None => payload,
        };
        Self {
            position: event.position,
            at: event.recorded_at,
            actor: said("actor"),
            correlation_id: said("correlationId"),
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
            event: event.event_type.clone(),
            data,
        }
    }
}

/// `#41 2026-11-22T18:00:01.123Z ann · request 0199… · accepted: account acme, model gpt-6-luna, reserved 0.051`
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let actor = self.actor.as_deref().unwrap_or("-");
        let mut event = String::new();
        for char in self.event.chars() {
            if char.is_ascii_uppercase() && !event.is_empty() {
                event.push(' ');
            }
            event.push(char.to_ascii_lowercase());
        }
        write!(f, "#{} {at} {actor} · {} {} · {event}", self.position, self.aggregate_type, self.aggregate_id)?;
        let mut facts = Vec::new();
        if let Value::Object(fields) = &self.data {
            gather(fields, &self.aggregate_id, &mut facts);
        }
        if facts.is_empty() { Ok(()) } else { write!(f, ": {}", facts.join(", ")) }
    }
}

/// The log's own time tells when something happened. What is counted happened between two.
fn is_time(name: &str) -> bool {
    !["first_at", "last_at"].contains(&name) && ["_at", "_until", "_from"].iter().any(|end| name.ends_with(end))
}

/// What a person wants to know: no times beside the log's own, no content, nothing that is nought.
fn gather(fields: &Map<String, Value>, own_id: &str, facts: &mut Vec<String>) {
    for (name, value) in fields {
        match value {
            Value::Object(inner) if inner.is_empty() || is_name(inner) => {}
            Value::Object(inner) if name == "per_second" => {
                let prices = inner
                    .iter()
                    .map(|(of, price)| amount(&format!("{of}_picousd"), price.as_i64().unwrap_or_default()));
                facts.push(format!("per second ({})", prices.collect::<Vec<_>>().join(" ")));
            }
            // What was asked for has the same names as what came, and so has one file as another.
            Value::Object(inner)
                if ["asked", "parameters"].contains(&name.as_str()) || inner.contains_key("sha256") =>
            {
                facts.push(format!("{} ({})", name, within(inner, own_id)));
            }
            Value::Object(inner) => gather(inner, own_id, facts),
            Value::Array(items) => {
                for item in items {
                    let item = match item {
                        Value::Object(fields) => within(fields, own_id),
                        other => plain(other),
                    };
                    facts.push(format!("{} ({item})", name.trim_end_matches('s').replace('_', " ")));
                }
            }
            Value::Null | Value::Bool(false) => {}
            _ if is_time(name) => {}
            Value::String(text) if text.is_empty() || text == own_id => {}
            Value::Number(number) if number.as_i64() == Some(0) => {}
            Value::Number(number) => facts.push(amount(name, number.as_i64().unwrap_or_default())),
            other => facts.push(format!("{} {}", name.replace('_', " "), plain(other))),
        }
    }
}

fn within(fields: &Map<String, Value>, own_id: &str) -> String {
    let mut facts = Vec::new();
    gather(fields, own_id, &mut facts);
    facts.join(" ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Microcredits as credits and 10⁻¹² dollars as dollars, exactly.
fn amount(name: &str, amount: i64) -> String {
    let decimal = |digits: u32| {
        let unit = 10_u64.pow(digits);
        let (whole, part) = (amount.unsigned_abs() / unit, amount.unsigned_abs() % unit);
        let mut text = String::from(if amount < 0 { "-" } else { "" });
        // Writing to a string cannot fail.
        let _ = write!(text, "{whole}.{part:0width$}", width = digits as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if let Some(name) = name.strip_suffix("_microcredits") {
        format!("{} {} credits", name.replace('_', " "), decimal(6))
    } else if let Some(name) = name.strip_suffix("_picousd") {
        format!("{} ${}", name.replace('_', " "), decimal(12))
    } else {
        format!("{} {amount}", name.replace('_', " "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(event: &str, data: &Value) -> String {
        let event = RecordedEvent {
            position: 41,
            recorded_at: DateTime::UNIX_EPOCH,
            aggregate_type: "request".to_owned(),
            aggregate_id: "r".to_owned(),
            sequence: 1,
            event_type: event.to_owned(),
            event_version: "1.0".to_owned(),
            payload: json!({ event: data }).to_string(),
            metadata: r#"{"actor":"ann"}"#.to_owned(),
            command_id: None,
            leaf_hash: [0; 32],
            chain_hash: [0; 32],
        };
        Entry::of(&event).to_string()
    }

    #[test]
    fn an_event_is_told_in_a_line_with_amounts_and_reasons_and_without_content() {
        let accepted = json!({
            "account": "acme", "model": "gpt-6-luna", "reserved_microcredits": 51_000, "price_id": "p@1",
            "input_tokens": 0, "accepted_at": "2026", "prompt": { "keep": "sealed", "hash": "ab", "pieces": 1 },
        });
        assert_eq!(
            entry("RequestAccepted", &accepted),
            "#41 1970-01-01T00:00:00.000Z ann · request r · request accepted: account acme, model gpt-6-luna, \
             price id p@1, reserved 0.051 credits"
        );
        let failed = json!({ "code": "ALL_PROVIDERS_FAILED", "outcome": {
            "attempts": [{ "provider": "openai", "failure": "rate_limited", "status": 429 }],
            "charge": { "cost_picousd": 1_500_000_000_000_i64 },
        } });
        let told = entry("RequestFailed", &failed);
        assert!(told.ends_with(
            "request failed: code ALL_PROVIDERS_FAILED, attempt (failure rate_limited provider openai status 429), cost $1.5"
        ), "{told}");
    }

    #[test]
    fn what_was_refused_is_told_with_how_often_and_what_it_was_decided_on() {
        let refused = json!({
            "account": "acme", "user": "ann", "reasons": [{
                "code": "INSUFFICIENT_CREDITS", "count": 17,
                "first_at": "2026-11-22T18:00:01Z", "last_at": "2026-11-22T18:00:09Z",
                "because": { "credits": { "available_microcredits": 500_000, "required_microcredits": 3_000_000 } },
            }],
        });
        let told = entry("RequestsRefused", &refused);
        assert!(
            told.ends_with(
                "requests refused: account acme, reason (available 0.5 credits required 3 credits code \
                 INSUFFICIENT_CREDITS count 17 first at 2026-11-22T18:00:01Z last at 2026-11-22T18:00:09Z), user ann"
            ),
            "{told}"
        );
    }

    #[test]
    fn a_video_is_told_with_who_could_make_it_at_which_price_and_what_came() {
        let requested = json!({
            "account": "acme", "user": "ann", "provider": "auto", "model": null, "seconds": 8, "resolution": "720p",
            "offers": [{ "provider": "veo", "model": "veo-4", "upstream_model": "veo-4-001", "price": {
                "id": "veo/veo-4@1", "per_second": { "720p": 400_000_000_000_i64 }, "valid_from": "2026", "source": "list",
            } }],
            "reserved_microcredits": 3_200_000, "queued_until": "2026", "content": { "keep": "sealed", "hash": "ab", "pieces": 1 },
        });
        let told = entry("VideoRequested", &requested);
        for fact in [
            "video requested: account acme",
            "user ann",
            "provider auto",
            "seconds 8",
            "reserved 3.2 credits",
            "offer (model veo-4 id veo/veo-4@1 per second (720p $0.4) source list provider veo upstream model veo-4-001)",
        ] {
            assert!(told.contains(fact), "{fact}: {told}");
        }
        assert!(!told.contains("2026"), "{told}");
        let refused = json!({ "submission": 1, "provider": "veo", "failure": "rate_limited", "status": 429 });
        let told = entry("SubmissionRefused", &refused);
        assert!(told.ends_with("failure rate_limited, provider veo, status 429, submission 1"), "{told}");
        let completed = json!({
            "asked": { "account": "acme", "user": "ann", "provider": "veo", "model": "veo-4", "seconds": 8 },
            "outcome": { "provider": "veo", "model": "veo-4", "seconds": 5, "charge": { "amount_microcredits": 2_000_000 } },
        });
        let told = entry("VideoCompleted", &completed);
        assert!(
            told.ends_with(
                "asked (account acme model veo-4 provider veo seconds 8 user ann), amount 2 credits, model veo-4, \
             provider veo, seconds 5"
            ),
            "{told}"
        );
    }
}
