use super::*;

struct Answers(Vec<&'static str>);

impl Resolve for Answers {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Vec<SocketAddr> = self.0.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

async fn resolved(addresses: &[&'static str]) -> Option<Vec<String>> {
    let resolver = PublicResolver(Arc::new(Answers(addresses.to_vec())));
    let found = resolver.resolve("hooks.example".parse().unwrap()).await;
    match found {
        Ok(found) => Some(found.map(|address| address.ip().to_string()).collect()),
        Err(error) => {
            assert!(error.is::<NoPublicAddress>(), "{error}");
            None
        }
    }
}

#[test]
fn only_public_addresses_are_public() {
    for private in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(private.parse().unwrap()), "{private}");
    }
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
}

#[test]
fn the_door_refuses_what_no_webhook_should_go_to_and_says_why() {
    for (url, reason) in [
        ("", RefusedUrl::Unreadable),
        ("hooks.example/x", RefusedUrl::Unreadable),
        ("https://", RefusedUrl::Unreadable),
        ("https://hooks.example:0/", RefusedUrl::Unreadable),
        ("http://hooks.example/", RefusedUrl::NotHttps),
        ("ftp://hooks.example/", RefusedUrl::NotHttps),
        ("file:///etc/passwd", RefusedUrl::NotHttps),
        ("https://user@hooks.example/", RefusedUrl::Userinfo),
        ("https://:secret@hooks.example/", RefusedUrl::Userinfo),
        ("https://localhost/", RefusedUrl::Private),
        ("https://LOCALHOST./", RefusedUrl::Private),
        ("https://a.localhost/", RefusedUrl::Private),
        ("https://127.0.0.1/", RefusedUrl::Private),
        ("https://127.1/", RefusedUrl::Private),
        ("https://2130706433/", RefusedUrl::Private),
        ("https://0x7f.0.0.1/", RefusedUrl::Private),
        ("https://0177.0.0.1/", RefusedUrl::Private),
        ("https://127.0.0.1./", RefusedUrl::Private),
        ("https://169.254.169.254/latest/meta-data", RefusedUrl::Private),
        ("https://[::1]/", RefusedUrl::Private),
        ("https://[::ffff:10.0.0.1]/", RefusedUrl::Private),
        ("https://①②⑦.⓪.⓪.①/", RefusedUrl::Private),
    ] {
        assert_eq!(check_url(url, false), Err(reason), "{url}");
    }
    let long = format!("https://hooks.example/{}", "x".repeat(MAX_URL_BYTES));
    assert_eq!(check_url(&long, true), Err(RefusedUrl::TooLong));
    for url in
        ["https://hooks.example/a?b=c", "https://hooks.example:8443/", "https://8.8.8.8/", "https://[2606:4700::1]/"]
    {
        assert_eq!(check_url(url, false).unwrap().as_str(), url);
    }
    for url in ["http://127.0.0.1:8080/hook", "http://localhost/", "https://10.0.0.1/", "http://receiver:80/"] {
        assert!(check_url(url, true).is_ok(), "{url}");
    }
    for url in ["ftp://127.0.0.1/", "http://user@127.0.0.1/"] {
        assert!(check_url(url, true).is_err(), "{url}");
    }
}

#[tokio::test]
async fn a_name_means_only_its_public_addresses() {
    assert_eq!(resolved(&["10.0.0.1", "8.8.8.8", "::1"]).await.unwrap(), ["8.8.8.8"]);
    assert_eq!(resolved(&["127.0.0.1", "169.254.169.254", "fd00::1"]).await, None);
    assert_eq!(resolved(&[]).await, None);
}
