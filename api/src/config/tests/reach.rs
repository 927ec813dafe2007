//! What runs for real, what is made up, and what production refuses to do without.

use super::*;
use crate::{auth::secret::Secret, config::providers::Reach};

#[test]
fn without_a_key_a_vendors_provider_is_simulated_and_ones_own_server_is_not() {
    let local = "[providers.local]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:11434/v1\"\nunlisted = { context_tokens = 1, max_output_tokens = 1, prices = [{ id = \"free\", input_usd_per_mtok = 0, output_usd_per_mtok = 0 }] }";
    let config = load(local, &[("OPENAI_API_KEY", "sk-1")]).unwrap();
    let reaches: BTreeMap<_, _> =
        config.providers_to_start().map(|start| (start.name, (start.reach, start.simulated))).collect();
    let key = Secret::new("sk-1");
    let openai = Reach::At { base_url: "https://api.openai.com/v1", api_key: Some(&key) };
    assert_eq!(reaches["openai"], (openai, false));
    assert_eq!(reaches["claude"], (Reach::Simulator, true));
    assert_eq!(reaches["local"], (Reach::At { base_url: "http://127.0.0.1:11434/v1", api_key: None }, false));
    let config = load(
        "",
        &[
            ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
            ("AIHUB__PROVIDERS__OPENAI__SIMULATED", "true"),
            ("AIHUB__PROVIDERS__CLAUDE__ENABLED", "false"),
        ],
    )
    .unwrap();
    let all: Vec<_> = config.providers_to_start().collect();
    assert!(all.len() == 1 && all[0].simulated && all[0].reach != Reach::Simulator);
}

#[test]
fn production_names_everything_that_it_lacks() {
    let config = load("", &[("AIHUB_ENV", "production")]).unwrap();
    let error = production::check(&config).unwrap_err().to_string();
    for named in [
        "JWT_SECRET",
        "JWT_JWKS_URL",
        "AUTH__AUDIENCE",
        "DATABASE_URL",
        "MASTER_KEY",
        "MEDIA__URL_SECRET",
        "WEBHOOKS__SECRET",
        "OPENAI_API_KEY",
    ] {
        assert!(error.contains(named), "{named}: {error}");
    }
    assert!(config.welcome_credits().is_none());
    production::check(&load("", &[]).unwrap()).unwrap();
}

#[test]
fn production_is_content_with_real_things_and_refuses_a_simulated_provider_among_them() {
    let complete = [
        ("AIHUB_ENV", "production"),
        ("JWT_SECRET", "12345678901234567890123456789012"),
        ("AIHUB__AUTH__AUDIENCE", "aihub"),
        ("DATABASE_URL", "postgres://db/aihub"),
        ("AIHUB__CONTENT__MASTER_KEY", MASTER_KEY),
        ("AIHUB__AUDIT__SIGNING_KEY", MASTER_KEY),
        ("AIHUB__MEDIA__URL_SECRET", MASTER_KEY),
        ("AIHUB__MEDIA__PUBLIC_URL", "https://aihub.example"),
        ("AIHUB__WEBHOOKS__SECRET", MASTER_KEY),
        ("OPENAI_API_KEY", "sk-1"),
        ("AIHUB__PROVIDERS__CLAUDE__ENABLED", "false"),
    ];
    production::check(&load("", &complete).unwrap()).unwrap();
    let local = "[providers.local]\nkind = \"openai\"\nbase_url = \"http://l/v1\"\nunlisted = { context_tokens = 1, max_output_tokens = 1, prices = [{ id = \"free\", input_usd_per_mtok = 0, output_usd_per_mtok = 0 }] }\n";
    for (more, lacks) in [
        ("", Some("providers.local has no key")),
        ("api_key = \"\"", None),
        ("simulated = true", Some("providers.local is simulated")),
    ] {
        let config = load(&local.replace("unlisted", &format!("{more}\nunlisted")), &complete).unwrap();
        assert_eq!(production::missing(&config).first().map(|missing| missing.what.as_str()), lacks);
    }
    // A video provider that cannot be reached is left out; one that makes its videos up is refused.
    assert_eq!(load("", &complete).unwrap().video_providers_to_start().count(), 0);
    let config = load("[video_providers.sora]\nsimulated = true", &complete).unwrap();
    assert_eq!(production::missing(&config)[0].what, "video_providers.sora is simulated");
    let mut config = load("", &complete).unwrap();
    config.providers.values_mut().for_each(|provider| provider.enabled = false);
    assert_eq!(production::missing(&config)[0].what, "no provider is enabled");
}

#[test]
fn what_is_shown_of_a_configuration_holds_no_secret() {
    let file = "[providers.openai.headers]\nx-team = \"hunter2-header\"";
    let variables = [
        ("DATABASE_URL", "postgres://aihub:hunter2-db@db/aihub?password=hunter2-parameter"),
        ("JWT_SECRET", "hunter2-jwt-01234567890123456789"),
        ("AIHUB__CONTENT__MASTER_KEY", MASTER_KEY),
        ("OPENAI_API_KEY", "hunter2-openai"),
        ("ANTHROPIC_API_KEY", "hunter2-anthropic"),
    ];
    let config = load(file, &variables).unwrap();
    let shown = toml::to_string(&config).unwrap() + &format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(MASTER_KEY), "{shown}");
    assert!(
        shown.contains("url = \"postgres://aihub:[secret]@db/aihub\"") && shown.contains("hs256_secret = \"[secret]\"")
    );
}

#[test]
fn secrets_that_are_too_short_are_refused_before_anything_starts() {
    let error = refused("", &[("JWT_SECRET", "short"), ("AIHUB__CONTENT__MASTER_KEY", "c2hvcnQ=")]);
    assert!(error.contains("auth: `hs256_secret` has 5 bytes and needs at least 32"), "{error}");
    assert!(error.contains("content.master_key: a master key is 32 bytes in base64"), "{error}");
    assert!(!error.contains("short ") && !error.contains("c2hvcnQ"), "{error}");
}
