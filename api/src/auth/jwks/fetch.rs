//! One GET of the key set, with a limit on everything.

use std::{net::IpAddr, time::Duration};

use chrono::TimeDelta;
use http::{HeaderMap, header::CACHE_CONTROL};
use reqwest::{Client, Url, redirect};

use super::keys::KeySet;
use crate::auth::error::AuthSettingsError;

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a set is fresh if the answer does not say, and the bounds within which it may say.
const DEFAULT_MAX_AGE: TimeDelta = TimeDelta::minutes(10);
const MIN_MAX_AGE: TimeDelta = TimeDelta::minutes(1);
const MAX_MAX_AGE: TimeDelta = TimeDelta::hours(1);

/// Where the key set is.
pub struct Source {
    url: Url,
    client: Client,
}

impl Source {
    /// The URL must be https, or http to a loopback address, for whoever can change the answer can sign tokens.
    pub fn new(url: &str) -> Result<Self, AuthSettingsError> {
        let url = Url::parse(url).map_err(|error| AuthSettingsError::JwksUrl(error.to_string()))?;
        let loopback = url.host_str().is_some_and(is_loopback);
        if !(url.scheme() == "https" || url.scheme() == "http" && loopback) {
            return Err(AuthSettingsError::JwksUrl(format!("its scheme is {}", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AuthSettingsError::JwksUrl("it has credentials".to_owned()));
        }
        // Fails if the process has chosen its TLS provider already, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        // A redirect could lead to http or into the network; the settings name where the keys are.
        let client = Client::builder().redirect(redirect::Policy::none()).timeout(TIMEOUT);
        let client = if loopback { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| AuthSettingsError::JwksClient(error.to_string()))?;
        Ok(Self { url, client })
    }

    /// The key set, and for how long it is fresh.
    pub async fn fetch(&self) -> anyhow::Result<(KeySet, TimeDelta)> {
        // The URL can hold a key to the identity provider, so it is not part of the error.
        let mut response = self.client.get(self.url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        anyhow::ensure!(response.status() == http::StatusCode::OK, "the answer's status is {}", response.status());
        let max_age = max_age(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            anyhow::ensure!(body.len() + chunk.len() <= MAX_BODY_BYTES, "it has more than {MAX_BODY_BYTES} bytes");
            body.extend_from_slice(&chunk);
        }
        let keys = KeySet::parse(&body).map_err(anyhow::Error::msg)?;
        Ok((keys, max_age))
    }
}

/// `localhost` is not asked of the resolver: it is a loopback address by RFC 6761.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn max_age(headers: &HeaderMap) -> TimeDelta {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in values.flat_map(|value| value.split(',')).map(|one| one.trim().to_ascii_lowercase()) {
        if directive == "no-store" || directive == "no-cache" {
            return MIN_MAX_AGE;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|text| text.trim_matches('"').parse().ok()) {
            return TimeDelta::try_seconds(seconds).unwrap_or(MAX_MAX_AGE).clamp(MIN_MAX_AGE, MAX_MAX_AGE);
        }
    }
    DEFAULT_MAX_AGE
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_https_and_loopback_are_trusted_with_the_keys() {
        for url in
            ["https://id.example.com/jwks", "http://127.0.0.1:1/jwks", "http://[::1]/jwks", "http://localhost/jwks"]
        {
            assert!(Source::new(url).is_ok(), "{url}");
        }
        for url in [
            "http://id.example.com/jwks",
            "http://10.0.0.1/jwks",
            "http://127.0.0.1.example.com/jwks",
            "http://localhost.example.com/jwks",
            "http://0.0.0.0/jwks",
            "https://ann:secret@id.example.com/jwks",
            "file:///etc/jwks.json",
            "data:application/json,{}",
            "jwks",
            "",
        ] {
            assert!(matches!(Source::new(url), Err(AuthSettingsError::JwksUrl(_))), "{url}");
        }
    }

    #[test]
    fn the_answers_max_age_is_honoured_within_bounds() {
        let age =
            |value| max_age(&[(CACHE_CONTROL, HeaderValue::from_static(value))].into_iter().collect()).num_seconds();
        assert_eq!(max_age(&HeaderMap::new()).num_seconds(), 600);
        assert_eq!(age("public, Max-Age=900, must-revalidate"), 900);
        assert_eq!(age("max-age=\"900\""), 900);
        assert_eq!(age("max-age=0"), 60);
        assert_eq!(age("max-age=-1"), 60);
        assert_eq!(age("no-store"), 60);
        assert_eq!(age("max-age=31536000"), 3_600);
        assert_eq!(age("max-age=9223372036854775807"), 3_600);
        assert_eq!(age("max-age=99999999999999999999999"), 600);
        assert_eq!(age("max-age=soon"), 600);
        assert_eq!(age("s-maxage=900"), 600);
    }
}
