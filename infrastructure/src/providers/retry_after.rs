//! How long a provider asks to be left alone.

use std::time::Duration;

use chrono::DateTime;
use http::{HeaderMap, header};

/// No provider is believed beyond this, since a wish for hours (daily limits) would take it out for as long even if
/// its limits were raised meanwhile: after ten minutes it is asked again.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// The wait that a refusal asks for, at most ten minutes: the first that is there of `retry-after-ms`, `retry-after`,
/// the "Please try again in 1.2s" of OpenAI's messages, and `x-ratelimit-reset-*` of a limit with nothing remaining.
pub(super) fn retry_after(headers: &HeaderMap, message: &str) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    text("retry-after-ms")
        .and_then(|ms| seconds(ms.parse::<f64>().ok()? / 1000.0))
        .or_else(|| text("retry-after").and_then(|value| seconds_or_date(value, headers)))
        .or_else(|| durations(message.split_once("try again in ")?.1))
        .or_else(|| {
            ["requests", "tokens"]
                .into_iter()
                .filter(|limit| text(&format!("x-ratelimit-remaining-{limit}")) == Some("0"))
                .filter_map(|limit| durations(text(&format!("x-ratelimit-reset-{limit}"))?))
                .max()
        })
        .map(|wait| wait.min(MAX_RETRY_AFTER))
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `1.5`, or a date. A date is measured against the answer's own `date`, whose clock it was made with.
fn seconds_or_date(value: &str, headers: &HeaderMap) -> Option<Duration> {
    if let Ok(number) = value.parse() {
        return seconds(number);
    }
    let now = headers.get(header::DATE)?.to_str().ok()?;
    let wait = DateTime::parse_from_rfc2822(value).ok()? - DateTime::parse_from_rfc2822(now).ok()?;
    Some(wait.to_std().unwrap_or_default())
}

/// Durations as Go prints them, at the start of `text`: `174ms`, `1.2s`, `6m0s`, `7h12m`. Reads as far as it can.
fn durations(mut text: &str) -> Option<Duration> {
    let mut total = None;
    loop {
        let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let rest = &text[number.len()..];
        let unit = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return total,
        };
        let Some(part) = number.parse::<f64>().ok().and_then(|number| seconds(number * unit_seconds)) else {
            return total;
        };
        total = Some(total.unwrap_or_default() + part);
        text = &rest[unit.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&'static str, &'static str)], message: &str) -> Option<u128> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        retry_after(&headers, message).map(|wait| wait.as_millis())
    }

    #[test]
    fn each_way_to_ask_for_a_wait_is_read() {
        assert_eq!(with(&[("retry-after-ms", "250.4"), ("retry-after", "9")], ""), Some(250));
        assert_eq!(with(&[("retry-after", "1.5")], ""), Some(1500));
        assert_eq!(with(&[("retry-after", "0")], ""), Some(0));
        let at = ("retry-after", "Mon, 11 Nov 2024 23:44:10 GMT");
        assert_eq!(with(&[at, ("date", "Mon, 11 Nov 2024 23:43:50 GMT")], ""), Some(20_000));
        assert_eq!(with(&[at, ("date", "Mon, 11 Nov 2024 23:44:50 GMT")], ""), Some(0), "it is over");
        assert_eq!(with(&[at], ""), None, "a date that nothing can be compared to");
        for (message, wait_ms) in [("174ms. Visit", 174), ("1.2s.", 1_200), ("6m0s.", 360_000), ("20s. V", 20_000)] {
            assert_eq!(with(&[], &format!("Limit 3. Please try again in {message}")), Some(wait_ms));
        }
        let none_left = ("x-ratelimit-remaining-requests", "0");
        let resets = [("x-ratelimit-reset-requests", "8.64s"), ("x-ratelimit-reset-tokens", "2m")];
        assert_eq!(with(&[none_left, resets[0], resets[1]], ""), Some(8_640));
        assert_eq!(with(&resets, ""), None, "no limit was hit");
    }

    #[test]
    fn nonsense_is_no_wait_and_hours_are_cut() {
        for nonsense in ["-1", "nan", "inf", "soon", ""] {
            assert_eq!(with(&[("retry-after", nonsense)], ""), None, "{nonsense}");
        }
        assert_eq!(with(&[], "Please try again in a while"), None);
        assert_eq!(with(&[("retry-after", "86400")], ""), Some(600_000));
        assert_eq!(with(&[], "try again in 7h12m"), Some(600_000));
    }
}
