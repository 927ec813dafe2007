//! Files, from where a provider says that they are: at the provider itself, or somewhere else over HTTPS.

use std::sync::Arc;

use aihub_application::ports::{provider::ProviderError, video_provider::Download};
use futures::StreamExt;
use http::{HeaderMap, header};
use reqwest::{Client, Response, Url};
use tokio::time::Instant;

use crate::{
    providers::{
        errors,
        http::{self as provider_http, Http, InvalidProviderSettings, Place, ProviderHttp},
    },
    webhooks::address::{PublicResolver, SystemResolver, check_url},
};

/// Google sends one. More would be a chase.
const MAX_REDIRECTS: usize = 1;

/// Fetches files. The provider's key goes to the provider only.
#[derive(Debug)]
pub(super) struct Files {
    /// Has none of the provider's headers.
    elsewhere: Client,
}

impl Files {
    pub(super) fn new(settings: &ProviderHttp) -> Result<Self, InvalidProviderSettings> {
        let client = |tls| {
            let builder =
                provider_http::builder(settings.connect_timeout, HeaderMap::new(), Place { tls, is_here: false });
            builder.dns_resolver(Arc::new(PublicResolver(Arc::new(SystemResolver)))).no_proxy().build()
        };
        // A machine without CA certificates can have a local provider, which keeps its files itself.
        Ok(Self { elsewhere: client(true).or_else(|_| client(false))? })
    }

    pub(super) async fn fetch(&self, http: &Http, url: &str) -> Result<Download, ProviderError> {
        let deadline = Instant::now() + http.first_byte_timeout;
        let mut url = Url::parse(url).map_err(|_| errors::malformed(&"the provider's file has no usable URL"))?;
        for _ in 0..=MAX_REDIRECTS {
            let request = self.client(http, &url)?.get(url.clone());
            let response = provider_http::status(request, deadline).await.map_err(|unanswered| unanswered.error)?;
            match target(&response, &url) {
                Some(elsewhere) => url = elsewhere,
                None => return Ok(download(http.successful(response).await?, http)),
            }
        }
        Err(errors::malformed(&"the provider's file is redirected more than once"))
    }

    fn client<'a>(&'a self, http: &'a Http, url: &Url) -> Result<&'a Client, ProviderError> {
        if url.origin() == http.base_url().origin() {
            return Ok(http.client());
        }
        // A provider must not reach through us what only we can reach.
        match check_url(url.as_str(), false) {
            Ok(_) => Ok(&self.elsewhere),
            Err(refused) => Err(errors::malformed(&format_args!("the provider's file is elsewhere, and {refused}"))),
        }
    }
}

/// Where a redirect points to.
fn target(response: &Response, url: &Url) -> Option<Url> {
    if !response.status().is_redirection() {
        return None;
    }
    url.join(response.headers().get(header::LOCATION)?.to_str().ok()?).ok()
}

fn download(response: Response, http: &Http) -> Download {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Download {
        content_type: content_type.map(Into::into),
        content_length: response.content_length(),
        content: provider_http::chunks_within(response, http.idle_timeout).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::tests::replay::{Recorded, Server};

    #[tokio::test]
    async fn the_key_stays_with_the_provider() {
        let mut server = Server::one(Recorded::json(200, "{}")).await;
        let headers = [("authorization", "Bearer sk-test".to_owned())];
        let provider = Http::new(&ProviderHttp::new("https://provider.example/v1", None), &headers).unwrap();
        let files = Files::new(&server.settings()).unwrap();
        let client = |url: &str| files.client(&provider, &Url::parse(url).unwrap());

        let is_elsewhere = |url| std::ptr::eq(client(url).unwrap(), &raw const files.elsewhere);
        assert!(!is_elsewhere("https://provider.example/download/1"));
        for url in ["https://cdn.example/1", "https://provider.example:444/1", "https://provider.example.evil.example/"]
        {
            assert!(is_elsewhere(url), "{url}");
        }
        for url in [
            "http://cdn.example/1",
            "http://provider.example/1",
            "file:///etc/passwd",
            "ftp://provider.example/",
            "https://127.0.0.1:8443/x",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "https://localhost/x",
        ] {
            assert!(client(url).is_err(), "{url}");
        }
        files.elsewhere.get(&server.base_url).send().await.unwrap();
        assert_eq!(server.seen().await.headers.get("authorization"), None);
        let by_name = server.base_url.replace("127.0.0.1", "localhost");
        assert!(files.elsewhere.get(by_name).send().await.is_err(), "a name that means this machine");
    }
}
