//! Whose pages may call this service out of a browser: over HTTP, where the browser asks and keeps to the answer, and on sockets,
//! where it leaves that to us.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::problem::Problem;

/// How long a browser need not ask again.
const REMEMBERED: Duration = Duration::from_mins(10);

/// The origins of `server.allowed_origins`, each as a browser writes it: `https://app.example`.
#[derive(Debug, Clone)]
pub struct Origins(Arc<[String]>);

impl Origins {
    pub fn new(allowed: &[String]) -> Self {
        Self(allowed.into())
    }

    /// Whether it is one that a browser can name.
    pub fn is_origin(text: &str) -> bool {
        let Some((scheme, authority)) = text.split_once("://") else { return text == "*" };
        let is_scheme =
            !scheme.is_empty() && scheme.bytes().all(|c| c.is_ascii_lowercase() || b"+-.0123456789".contains(&c));
        let is_authority = authority.parse::<http::uri::Authority>().is_ok_and(|parsed| !parsed.host().is_empty());
        // Browsers leave out what goes without saying.
        let is_default =
            [("https", ":443"), ("http", ":80")].iter().any(|(of, port)| scheme == *of && authority.ends_with(port));
        is_scheme
            && is_authority
            && !is_default
            && !authority.contains('@')
            && !authority.bytes().any(|c| c.is_ascii_uppercase())
    }

    fn allows(&self, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let is_own = || {
            let host = host.and_then(|host| host.to_str().ok());
            origin.split_once("://").is_some_and(|(_, authority)| host == Some(authority))
        };
        self.0.iter().any(|known| known == origin || known == "*") || is_own()
    }

    /// For an upgrade, which a browser makes from any page. Whoever is no browser names no origin.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match headers.get(header::ORIGIN) {
            Some(origin) if !self.allows(origin, headers.get(header::HOST)) => {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let message =
                    format!("pages of {origin} may not use this service: server.allowed_origins has no such origin");
                Err(Problem::new("FORBIDDEN", message))
            }
            _ => Ok(()),
        }
    }

    /// What answers a browser that asks.
    pub fn layer(&self) -> CorsLayer {
        let origins = self.clone();
        let allows =
            AllowOrigin::predicate(move |origin, request| origins.allows(origin, request.headers.get(header::HOST)));
        CorsLayer::new()
            .allow_origin(allows)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                header::RANGE,
                HeaderName::from_static("idempotency-key"),
            ])
            .expose_headers([
                HeaderName::from_static("aihub-chain-hash"),
                HeaderName::from_static("aihub-incomplete"),
                HeaderName::from_static("aihub-position"),
                header::ACCEPT_RANGES,
                header::CONTENT_DISPOSITION,
                header::CONTENT_LENGTH,
                header::CONTENT_RANGE,
                header::ETAG,
                header::LOCATION,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
            ])
            .max_age(REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_says() {
        for origin in
            ["https://app.example", "http://127.0.0.1:8080", "http://[::1]:8080", "chrome-extension://abc", "*"]
        {
            assert!(Origins::is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example:443",
            "https://App.example",
            "https://a@b",
            "https://",
            "https://a b",
        ] {
            assert!(!Origins::is_origin(other), "{other}");
        }
    }

    #[test]
    fn others_than_those_listed_and_ourselves_are_refused_and_who_names_none_is_no_browser() {
        let origins = Origins::new(&["https://app.example".to_owned()]);
        let check = |origins: &Origins, origin: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("hub.example:3003"))]);
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            origins.check(&headers)
        };
        for good in [None, Some("https://app.example"), Some("http://hub.example:3003")] {
            assert!(check(&origins, good).is_ok(), "{good:?}");
        }
        for bad in ["https://evil.example", "https://app.example:444", "http://hub.example", "null", ""] {
            let refused = check(&origins, Some(bad)).unwrap_err();
            assert!(refused.code == "FORBIDDEN" && refused.message.contains(bad), "{bad}");
            assert!(check(&Origins::new(&["*".to_owned()]), Some(bad)).is_ok());
        }
    }
}
