//! Where media are kept: a folder, or a bucket at Amazon's, Google's, Microsoft's, or whoever speaks S3.

use std::{env, fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc};

use anyhow::Context;
use object_store::{
    ObjectStore,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
    signer::Signer,
};
use thiserror::Error;
use url::Url;

use super::mark;
use crate::providers::proxy::is_here;

/// Ends a request of which nothing is heard any more.
const IDLE_TIMEOUT: &str = "60s";
/// Of names and of addresses.
const EVERYTHING: &str = "*,0.0.0.0/0,::/0";
/// In place of `object_store`'s 30 s for a whole request: a client may take that long to watch.
const REQUEST_TIMEOUT: &str = "24h";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Folder(PathBuf),
    /// `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    Bucket(Service, Url),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    S3,
    Google,
    Azure,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LocationError {
    #[error("is not a URL: file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")]
    NotAUrl,
    #[error("names no folder on this machine: file:///an/absolute/path")]
    Folder,
    #[error("names no bucket")]
    Bucket,
    #[error("must end with its path: credentials belong into `media.options`")]
    Credentials,
}

/// A store that is open.
pub(super) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    pub signer: Option<Arc<dyn Signer>>,
    pub prefix: Path,
    pub folder: Option<PathBuf>,
    pub identity: String,
    /// Where a bucket is reached, but for a proxy that is configured.
    pub endpoint: Option<Url>,
    /// Variables of the environment that ended in white space, which was left out.
    pub trimmed: Vec<String>,
}

impl Location {
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let url = Url::parse(text).map_err(|_| LocationError::NotAUrl)?;
        // `az://container@account` is no user's name.
        let user = !url.username().is_empty() && url.scheme() != "az";
        if user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(LocationError::Credentials);
        }
        let service = match url.scheme() {
            "file" => return url.to_file_path().map(Self::Folder).map_err(|()| LocationError::Folder),
            "s3" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            _ => return Err(LocationError::NotAUrl),
        };
        if url.host_str().is_none_or(str::is_empty) || Path::from_url_path(url.path()).is_err() {
            return Err(LocationError::Bucket);
        }
        Ok(Self::Bucket(service, url))
    }

    /// Whether `object_store` has an option of this name for the place.
    pub fn has_option(&self, name: &str) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Bucket(Service::S3, _) => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Self::Bucket(Service::Google, _) => name.parse::<GoogleConfigKey>().is_ok(),
            Self::Bucket(Service::Azure, _) => name.parse::<AzureConfigKey>().is_ok(),
        }
    }

    /// With the customary variables of the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), and `options` above them. A folder is
    /// made; a bucket is not looked at before it is needed.
    pub(super) fn open(&self, options: &[(String, String)]) -> anyhow::Result<Opened> {
        // reqwest takes the process's TLS provider, see `providers::http`.
        let _ = rustls::crypto::ring::default_provider().install_default();
        /// The builders have the same methods, and no trait that says so.
        macro_rules! bucket {
            ($builder:ty, $key:ty, $url:expr, $prefix:literal, $endpoint:expr, $customary:literal) => {{
                let defaults = [("read_timeout", IDLE_TIMEOUT), ("timeout", REQUEST_TIMEOUT)];
                let named = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let mut builder = <$builder>::from_env().with_url($url.as_str());
                let mut trimmed = Vec::new();
                for (name, value) in ending_in_white_space($prefix) {
                    if let Ok(key) = name.to_ascii_lowercase().parse::<$key>() {
                        builder = builder.with_config(key, value.trim_end());
                        trimmed.push(name);
                    }
                }
                for (name, value) in defaults.into_iter().chain(named) {
                    builder = builder.with_config(name.parse::<$key>()?, value);
                }
                let proxy = "proxy_url".parse::<$key>()?;
                // Where one is configured it is meant.
                let endpoint = match builder.get_config_value(&proxy) {
                    Some(_) => None,
                    None => {
                        let configured = $endpoint.iter().find_map(|key| builder.get_config_value(key));
                        configured.unwrap_or($customary.to_owned()).parse::<Url>().ok()
                    }
                };
                if let Some(here) = endpoint.as_ref().filter(|url| is_here(url)) {
                    // There is no other way to say that there is to be none: a proxy that everything is excepted from.
                    builder = builder.with_config(proxy, here.as_str());
                    builder = builder.with_config("proxy_excludes".parse::<$key>()?, EVERYTHING);
                }
                let store = Arc::new(builder.build()?);
                let (store, signer): (Arc<dyn ObjectStore>, Arc<dyn Signer>) = (store.clone(), store);
                let (signer, prefix) = (Some(signer), Path::from_url_path($url.path())?);
                Opened { store, signer, prefix, folder: None, identity: identity($url, options), endpoint, trimmed }
            }};
        }
        Ok(match self {
            Self::Folder(folder) => {
                // What people had made is theirs alone; a folder that is there is left as it is.
                let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
                made.with_context(|| format!("{}", folder.display()))?;
                // What the log says is kept is there after a power failure too.
                let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true).with_automatic_cleanup(true);
                let mark = mark::of(folder).with_context(|| format!("{}", folder.display()))?;
                let (store, folder, identity) = (Arc::new(store), Some(folder.clone()), format!("folder {mark}"));
                let prefix = Path::default();
                Opened { store, signer: None, prefix, folder, identity, endpoint: None, trimmed: vec![] }
            }
            Self::Bucket(Service::S3, url) => {
                use AmazonS3ConfigKey as Key;
                bucket!(AmazonS3Builder, Key, url, "AWS_", [Key::S3Endpoint, Key::Endpoint], "https://s3.amazonaws.com")
            }
            Self::Bucket(Service::Google, url) => {
                use GoogleConfigKey as Key;
                bucket!(
                    GoogleCloudStorageBuilder,
                    Key,
                    url,
                    "GOOGLE_",
                    [Key::BaseUrl],
                    "https://storage.googleapis.com"
                )
            }
            Self::Bucket(Service::Azure, url) => {
                use AzureConfigKey as Key;
                bucket!(MicrosoftAzureBuilder, Key, url, "AZURE_", [Key::Endpoint], "https://blob.core.windows.net")
            }
        })
    }
}

/// Secrets from a file often do.
fn ending_in_white_space(prefix: &str) -> impl Iterator<Item = (String, String)> {
    let texts = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(move |(name, value)| name.starts_with(prefix) && value.trim_end().len() < value.len())
}

/// A bucket is where it is reached and what it is called there.
fn identity(url: &Url, options: &[(String, String)]) -> String {
    let endpoint = options.iter().find(|(name, _)| name.ends_with("endpoint")).map_or("", |(_, value)| value);
    format!("{url} {endpoint}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket_and_nothing_else() {
        assert_eq!(Location::parse("file:///var/lib/my%20media"), Ok(Location::Folder("/var/lib/my media".into())));
        for (url, service) in [
            ("s3://bucket", Service::S3),
            ("gs://bucket/videos", Service::Google),
            ("az://container@account/videos/of/ours", Service::Azure),
        ] {
            assert!(matches!(Location::parse(url), Ok(Location::Bucket(found, _)) if found == service), "{url}");
        }
        for (url, error) in [
            ("/var/lib/media", LocationError::NotAUrl),
            ("ftp://host/media", LocationError::NotAUrl),
            ("file://other-machine/media", LocationError::Folder),
            ("s3:///prefix", LocationError::Bucket),
            ("s3://key:secret@bucket", LocationError::Credentials),
            ("s3://bucket?region=x", LocationError::Credentials),
        ] {
            assert_eq!(Location::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn an_option_that_the_service_has_not_is_known_as_such() {
        let s3 = Location::parse("s3://bucket").unwrap();
        assert!(s3.has_option("aws_endpoint") && s3.has_option("allow_http") && !s3.has_option("endpiont"));
        assert!(Location::parse("gs://bucket").unwrap().has_option("google_service_account"));
        assert!(Location::parse("az://container").unwrap().has_option("azure_storage_account_name"));
        assert!(!Location::parse("file:///media").unwrap().has_option("aws_endpoint"));
    }
}
