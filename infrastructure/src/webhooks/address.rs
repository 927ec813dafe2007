//! Which addresses a webhook may go to. A client chooses the URL, and must not reach through us what only we can reach:
//! ourselves, our neighbours, the cloud's metadata.
//!
//! The URL is checked at the door and again before each call. What a name resolves to is checked where the connection is
//! made, so that a name cannot mean one address to the check and another to the call.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use thiserror::Error;

const MAX_URL_BYTES: usize = 2_048;

/// Why a URL is no address for a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RefusedUrl {
    #[error("it has more than {MAX_URL_BYTES} bytes")]
    TooLong,
    #[error("it is not a URL with a host")]
    Unreadable,
    #[error("it has to begin with https://")]
    NotHttps,
    #[error("it must not have a user name or a password in it")]
    Userinfo,
    #[error("its address is not a public one")]
    Private,
}

/// The URL, if a webhook may go there as far as it tells by itself; what its name means is not looked up.
/// `allow_private` also allows addresses that are not public, and plain HTTP.
pub fn check_url(url: &str, allow_private: bool) -> Result<Url, RefusedUrl> {
    if url.len() > MAX_URL_BYTES {
        return Err(RefusedUrl::TooLong);
    }
    let url = Url::parse(url).map_err(|_| RefusedUrl::Unreadable)?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err(RefusedUrl::NotHttps),
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(RefusedUrl::Unreadable)?;
    if url.port() == Some(0) {
        return Err(RefusedUrl::Unreadable);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RefusedUrl::Userinfo);
    }
    // The parser has put numbers in every notation (`0x7f.1`) into the customary one.
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_private = match address {
        Ok(address) => !is_public(address),
        Err(_) => is_local_name(host),
    };
    if is_private && !allow_private { Err(RefusedUrl::Private) } else { Ok(url) }
}

/// Names that mean this machine wherever they are looked up.
fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

/// Not for the public, as the registries of special-purpose addresses have it (RFC 6890 and what was added since).
const SPECIAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// Everything that is public lies in here; with unique-local, link-local, multicast and loopback outside.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0], 3);
/// Protocol assignments with Teredo, documentation, 6to4, documentation.
const SPECIAL_V6: [Ipv6Net; 4] =
    [v6([0x2001, 0], 23), v6([0x2001, 0xdb8], 32), v6([0x2002, 0], 16), v6([0x3fff, 0], 20)];
/// Where a network that has no IPv4 keeps it.
const NAT64: Ipv6Net = v6([0x64, 0xff9b], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([first, second]: [u16; 2], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = address.to_ipv4_mapped().or_else(|| {
        let [.., a, b, c, d] = address.octets();
        NAT64.contains(&address).then(|| Ipv4Addr::new(a, b, c, d))
    });
    match embedded {
        Some(embedded) => is_public(embedded.into()),
        None => GLOBAL_V6.contains(&address) && !SPECIAL_V6.iter().any(|net| net.contains(&address)),
    }
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Leaves of what another resolver finds only what is public.
#[derive(Clone)]
pub struct PublicResolver(pub Arc<dyn Resolve>);

/// What a call fails with where nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the name has no public address")]
pub struct NoPublicAddress;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolving = self.0.resolve(name);
        Box::pin(async move {
            let public: Vec<SocketAddr> = resolving.await?.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() { Err(NoPublicAddress.into()) } else { Ok(Box::new(public.into_iter()) as Addrs) }
        })
    }
}

#[cfg(test)]
mod tests;
