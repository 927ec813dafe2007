use std::{fs, path::PathBuf};

use aihub_application::catalog::Serves;
use aihub_domain::{
    money::MicrocreditsPerUsd,
    price::{LongContext, PicoUsdPerToken, Rates},
};
use aihub_infrastructure::media::{Delivery, location::Location};
use chrono::DateTime;

use super::{providers::Reach, *};
use crate::auth::secret::Secret;

/// 32 bytes in base64.
const MASTER_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A file of this text, read with these variables.
fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aihub.toml");
    fs::write(&path, file).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sources = Sources { file: Some(path), variables, flags: vec![] };
    Config::load(&sources).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

fn figures(rates: &Rates) -> [u64; 4] {
    [rates.input, rates.cached_input, rates.cache_write, rates.output].map(|price| price.0)
}

fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    load(file, variables).unwrap_err()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3003");
    assert_eq!(config.gateway_settings().rate, MicrocreditsPerUsd(1_000_000_000));
    assert_eq!(config.welcome_credits(), Some(Microcredits::from_credits(1_000)));
    assert_eq!(config.gateway_settings().drain_after_leaving, Duration::from_mins(1));
}

#[test]
fn a_file_that_says_little_changes_only_that() {
    let config = load("[server]\nlisten = \"0.0.0.0:80\"\n[providers.openai]\nweight = 3\n", &[]).unwrap();
    assert_eq!(config.server.listen.port(), 80);
    assert_eq!(config.server.max_sockets, 10_000);
    let openai = &config.providers["openai"];
    assert!(openai.weight == 3 && openai.models.contains_key("gpt-6-luna"));
}

#[test]
fn the_built_in_models_have_the_prices_of_the_list_and_a_default_of_each_kind() {
    let config = load("", &[]).unwrap();
    let upstream = config.providers["openai"].upstream_settings("openai");
    let luna = &upstream.models.listed["gpt-6-luna"];
    assert_eq!(
        (luna.upstream_name.as_str(), luna.serves, luna.max_output_tokens),
        ("gpt-6-luna", Serves::Text, 128_000)
    );
    let price = &luna.prices[0];
    assert_eq!(price.id, "openai/gpt-6-luna@2026-11-22");
    assert_eq!(figures(&price.rates), [100_000, 10_000, 125_000, 500_000]);
    assert!(price.is_valid_at(DateTime::UNIX_EPOCH) && price.valid_until.is_none());
    assert_eq!(upstream.models.default_text.as_deref(), Some("gpt-6-luna"));
    assert_eq!(upstream.models.default_embedding.as_deref(), Some("text-embedding-3-small"));
    let claude = config.providers["claude"].upstream_settings("claude");
    assert_eq!(claude.models.default_text.as_deref(), Some("claude-haiku-5-5"));
    assert!(claude.models.default_embedding.is_none());
}

#[test]
fn the_built_in_models_have_the_dearer_prices_of_the_list_for_long_prompts() {
    let config = load("", &[]).unwrap();
    let mut found = BTreeMap::new();
    for (name, provider) in &config.providers {
        for (model, terms) in provider.upstream_settings(name).models.listed {
            if let Some(long) = terms.prices[0].long_context {
                found.insert(model, (long.above_input_tokens, figures(&long.rates)));
            }
        }
    }
    let expected = [
        ("claude-haiku-5-5", 100_000, [500_000, 50_000, 625_000, 2_500_000]),
        ("gpt-5.6-sol", 272_000, [8_000_000, 800_000, 10_000_000, 30_000_000]),
        ("gpt-6-astra", 272_000, [20_000_000, 2_000_000, 25_000_000, 75_000_000]),
        ("gpt-6-luna", 272_000, [200_000, 20_000, 250_000, 750_000]),
        ("gpt-6.1-sol", 272_000, [4_000_000, 200_000, 5_000_000, 15_000_000]),
        ("gpt-6.1-terra", 272_000, [2_000_000, 100_000, 2_500_000, 7_500_000]),
    ];
    assert_eq!(found, expected.map(|(model, above, figures)| (model.to_owned(), (above, figures))).into());
}

#[test]
fn a_price_for_long_prompts_has_a_limit_and_its_own_figures() {
    let long = |long: &str| {
        load(
            &format!(
                "[providers.x]\nkind = \"openai\"\n[providers.x.models.m]\ncontext_tokens = 1\nmax_output_tokens = 1
                prices = [{{ id = \"a\", input_usd_per_mtok = 1, output_usd_per_mtok = 2, long_context = {{ {long} }} }}]"
            ),
            &[],
        )
    };
    let config = long("above_input_tokens = 10, input_usd_per_mtok = 3, output_usd_per_mtok = 4").unwrap();
    toml::to_string(&config).unwrap();
    let price = &config.providers["x"].upstream_settings("x").models.listed["m"].prices[0];
    let expected = Rates {
        input: PicoUsdPerToken(3_000_000),
        cached_input: PicoUsdPerToken(3_000_000),
        cache_write: PicoUsdPerToken(3_000_000),
        output: PicoUsdPerToken(4_000_000),
    };
    assert_eq!(price.long_context, Some(LongContext { above_input_tokens: 10, rates: expected }));
    let error = long("above_input_tokens = 0, input_usd_per_mtok = 3").unwrap_err();
    for key in ["above_input_tokens must be at least 1", "output_usd_per_mtok is missing"] {
        assert!(error.contains(&format!("providers.x.models.m.prices.0.long_context.{key}")), "{key}\n{error}");
    }
    let error = long("above_input = 1").unwrap_err();
    assert!(error.contains("long_context.above_input (aihub.toml): there is no such key"), "{error}");
}

#[test]
fn a_price_without_cache_figures_charges_the_cache_like_other_input() {
    let config = load("", &[]).unwrap();
    let openai = config.providers["openai"].upstream_settings("openai");
    let small = &openai.models.listed["text-embedding-3-small"].prices[0].rates;
    let input = PicoUsdPerToken(20_000);
    assert_eq!((small.input, small.cached_input, small.cache_write, small.output.0), (input, input, input, 0));
}

#[test]
fn the_environment_overrides_the_file_and_the_customary_names_override_the_others() {
    let file = "[database]\nurl = \"postgres://file\"\nmax_connections = 1\n[auth]\nleeway_s = 5\n";
    let variables = [
        ("AIHUB__DATABASE__URL", "postgres://prefixed"),
        ("DATABASE_URL", "postgres://customary"),
        ("AIHUB__DATABASE__MAX_CONNECTIONS", "7"),
        ("AIHUB_ENV", "production"),
        ("AIHUB_SERVICE_PORT", "what Kubernetes says"),
    ];
    let mut config = load(file, &variables).unwrap();
    assert_eq!(config.database.url.unwrap().expose(), "postgres://customary");
    assert_eq!((config.database.max_connections, config.auth.leeway_s), (7, 5));
    assert_eq!(config.environment, Environment::Production);
    config = load(file, &variables[..1]).unwrap();
    assert_eq!(config.database.url.unwrap().expose(), "postgres://prefixed");
}

#[test]
fn a_flag_has_the_last_word() {
    let flag = Flag { name: "--listen", key: "server.listen", value: "127.0.0.1:0".to_owned() };
    let variables = vec![("AIHUB__SERVER__LISTEN".to_owned(), "127.0.0.1:1".to_owned())];
    let mut sources = Sources { file: None, variables, flags: vec![flag] };
    assert_eq!(Config::load(&sources).unwrap().server.listen.port(), 0);
    sources.flags[0].value = "localhost".to_owned();
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.starts_with("server.listen (--listen): "), "{error}");
}

#[test]
fn a_secret_of_digits_is_a_text_and_an_empty_variable_says_nothing() {
    let digits = "12345678901234567890123456789012";
    let variables = [("JWT_SECRET", digits), ("AIHUB__PROVIDERS__CLAUDE__API_KEY", "1"), ("DATABASE_URL", "")];
    let config = load("", &variables).unwrap();
    assert_eq!(config.auth.hs256_secret.unwrap().expose(), digits);
    assert_eq!(config.providers["claude"].key().unwrap().expose(), "1");
    assert!(config.database.url.is_none());
}

#[test]
fn a_list_can_be_said_in_a_variable() {
    let config = load("", &[("AIHUB__ROUTING__EQUIVALENTS", r#"[["gpt-6-luna", "gpt-4o-mini"]]"#)]).unwrap();
    assert_eq!(config.routing.equivalents, [["gpt-6-luna", "gpt-4o-mini"]]);
}

#[test]
fn an_unknown_key_is_named_with_its_source() {
    let error = refused("[server]\nlisen = \"127.0.0.1:1\"\n", &[]);
    assert!(
        error.starts_with("server.lisen (aihub.toml): there is no such key; there are listen, data_dir,"),
        "{error}"
    );
    let error = refused("[providers.openai.timeouts]\nfirst_byte = 1\n", &[]);
    assert!(error.starts_with("providers.openai.timeouts.first_byte (aihub.toml): "), "{error}");
    let error = refused("", &[("AIHUB__SERVRE__LISTEN", "127.0.0.1:1")]);
    assert!(error.starts_with("servre (AIHUB__SERVRE__LISTEN): there is no such key"), "{error}");
    let error = refused("", &[("AIHUB__AUTH__HS265_SECRET", "x")]);
    assert!(error.starts_with("auth.hs265_secret (AIHUB__AUTH__HS265_SECRET): "), "{error}");
    let error = refused("", &[("AIHUB__LISTEN", "x")]);
    assert!(error.starts_with("listen (AIHUB__LISTEN): "), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_source_and_never_repeated() {
    for (file, variables, start) in [
        ("[server]\nmax_sockets = \"sk-many\"", &[][..], "server.max_sockets (aihub.toml): a text where"),
        ("[server]\nlisten = 3003", &[], "server.listen (aihub.toml): a whole number where"),
        ("providers.openai = \"sk-1\"", &[], "providers.openai (aihub.toml): a text where"),
        (
            "[providers.x]\nkind = \"sk-1\"",
            &[],
            "providers.x.kind (aihub.toml): not one of the values that it may have",
        ),
        ("[credits]\nper_usd = 0.5", &[], "credits.per_usd (aihub.toml): a number with a fraction where"),
        (
            "",
            &[("AIHUB__SERVER__MAX_SOCKETS", "sk-9")],
            "server.max_sockets (AIHUB__SERVER__MAX_SOCKETS): a text where",
        ),
        ("", &[("AIHUB_ENV", "sk-prod")], "environment (AIHUB_ENV): not one of the values that it may have"),
        ("", &[("AIHUB__AUTH", "sk-1")], "auth (AIHUB__AUTH): a text where"),
        ("[limits.per_user]\nrequests_per_minute = 0", &[], "limits.per_user.requests_per_minute (aihub.toml): "),
    ] {
        let error = refused(file, variables);
        assert!(error.starts_with(start) && !error.contains("sk-"), "{error}");
    }
}

#[test]
fn a_missing_key_is_named() {
    let error = refused("[providers.x]\nenabled = true", &[]);
    assert!(error.starts_with("providers.x.kind (aihub.toml): is missing"), "{error}");
    let error = refused("[providers.x]\nkind = \"openai\"\n[providers.x.models.m]\nprices = []", &[]);
    assert!(error.starts_with("providers.x.models.m.context_tokens (aihub.toml): is missing"), "{error}");
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_named_without_its_text() {
    let error = refused("[server]\nlisten = sk-1", &[]);
    assert!(error.starts_with("aihub.toml is not TOML: line 2: ") && !error.contains("sk-1"), "{error}");
    let sources = Sources { file: Some(PathBuf::from("/nowhere/aihub.toml")), ..Sources::default() };
    assert!(Config::load(&sources).unwrap_err().to_string().starts_with("/nowhere/aihub.toml: "));
}

#[test]
fn all_that_does_not_fit_together_is_told_at_once() {
    let file = r#"
        routing.equivalents = [["gpt-6-luna", "gpt-7"]]
        [server]
        max_sockets = 0
        [providers.auto]
        kind = "openai"
        base_url = "http://user:hunter2@localhost"
        weight = 0
        [providers.auto.models.m]
        context_tokens = 8_000
        prices = [
          { input_usd_per_mtok = 0 },
          { valid_from = "2026-02-01", valid_until = 2026-01-01, input_usd_per_mtok = 0, output_usd_per_mtok = 0 },
        ]
        [providers.auto.models.n]
        context_tokens = 1
        max_output_tokens = 1
        prices = []
    "#;
    let error = refused(file, &[]);
    for key in [
        "server.max_sockets must be at least 1",
        "providers.auto has a name",
        "providers.auto.base_url must end with its path",
        "providers.auto.weight must be at least 1",
        "providers.auto.models.m.max_output_tokens is missing",
        "providers.auto.models.m.prices.0 needs an `id`",
        "providers.auto.models.m.prices.0.output_usd_per_mtok is missing",
        "providers.auto.models.m.prices.1.valid_until must be after",
        "providers.auto.models.n.prices is empty",
        "routing.equivalents.0 names gpt-7",
    ] {
        assert!(error.contains(&format!("\n  - {key}")), "{key}\n{error}");
    }
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn prices_that_follow_each_other_are_fine_and_those_that_overlap_are_not() {
    let prices = |until: &str| {
        let file = format!(
            "[providers.x]\nkind = \"openai\"\n[providers.x.models.m]\ncontext_tokens = 1\nserves = \"embedding\"\nprices = [
              {{ id = \"a\", input_usd_per_mtok = \"0.5\", valid_until = \"{until}\" }},
              {{ valid_from = 2026-02-01, input_usd_per_mtok = 1 }},
            ]"
        );
        load(&file, &[])
    };
    let config = prices("2026-02-01").unwrap();
    let model = &config.providers["x"].upstream_settings("x").models.listed["m"];
    let midnight = "2026-02-01T00:00:00Z".parse().unwrap();
    assert_eq!(model.prices[1].id, "x/m@2026-02-01");
    assert_eq!(model.prices.iter().map(|price| price.is_valid_at(midnight)).collect::<Vec<_>>(), [false, true]);
    assert!(prices("2026-02-02").unwrap_err().contains("prices.1 is valid on some of the days of prices.0"));
}

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

#[test]
fn a_cluster_takes_the_properties_of_its_security_and_no_other_and_shows_none_of_them() {
    assert!(load("", &[]).unwrap().kafka.cluster().is_none());
    let file = "[kafka]\ntopic_prefix = \"hub\"\n[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n";
    let properties = "{ \"security.protocol\" = \"sasl_plaintext\" }";
    let variables = [("KAFKA_BROKERS", "a:9092,b:9092"), ("AIHUB__KAFKA__PROPERTIES", properties)];
    let config = load(file, &variables).unwrap();
    let cluster = config.kafka.cluster().unwrap();
    assert_eq!((cluster.brokers.as_str(), cluster.topics().audit.as_str()), ("a:9092,b:9092", "hub.audit"));
    assert_eq!(cluster.properties["sasl.password"], "hunter2");
    assert_eq!(cluster.properties["security.protocol"], "sasl_plaintext");
    assert!(!format!("{config:?} {cluster:?} {}", serde_json::to_string(&config).unwrap()).contains("hunter2"));

    let file = "[kafka]\npartitions = 0\nreplication = 0\nmax_message_bytes = 1\ndelivery_timeout_ms = 60_000\n\
                topic_prefix = \"a b\"\n[kafka.properties]\nacks = \"0\"\n";
    let refused = refused(file, &[]);
    for key in
        ["partitions", "replication", "max_message_bytes", "delivery_timeout_ms", "topic_prefix", "properties.acks"]
    {
        assert!(refused.contains(&format!("kafka.{key}")), "{key}: {refused}");
    }
}

#[test]
fn media_are_kept_in_the_data_directory_or_where_the_file_says_and_their_secrets_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let options = load("", &[]).unwrap().media.options(dir.path(), false).unwrap();
    assert_eq!(options.location, Location::Folder(dir.path().join("media")));
    assert_eq!(options.delivery, Delivery::Signed { public_url: None });

    let file = "[media]\nstore = \"s3://bucket/videos\"\ndelivery = \"presigned\"\n[media.options]\nendpoint = \"https://hunter2\"\n";
    let variables = [
        ("AIHUB__MEDIA__OPTIONS__AWS_ACCESS_KEY_ID", "hunter2"),
        ("AIHUB__MEDIA__FORMER_URL_SECRETS", "[\"hunter2-012345678901234567890123\"]"),
    ];
    let config = load(file, &variables).unwrap();
    let options = config.media.options(dir.path(), false).unwrap();
    assert!(matches!(options.location, Location::Bucket(..)) && options.delivery == Delivery::Presigned);
    let names: Vec<_> = options.location_options.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["aws_access_key_id", "endpoint"]);
    let shown = toml::to_string(&config).unwrap() + &format!("{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_media_could_not_be_kept_or_delivered_with_is_refused_by_its_name() {
    let file = "[media]\nstore = \"s3://bucket\"\nmax_bytes = 0\nurl_ttl_ms = 604_800_001\nurl_secret = \"short\"\n\
                former_url_secrets = [\"short\"]\ndelivery = \"cdn\"\npublic_url = \"hub\"\n[media.options]\nregoin = \"eu\"\n";
    let error = refused(file, &[]);
    for key in
        ["max_bytes", "url_ttl_ms", "url_secret", "former_url_secrets", "cdn_base_url", "public_url", "options.regoin"]
    {
        assert!(error.contains(&format!("media.{key} ")), "{key}: {error}");
    }
    let error = refused("[media]\nstore = \"/var/lib/media\"\ndelivery = \"presigned\"\n", &[]);
    assert!(error.contains("media.store is not a URL"), "{error}");
    let error = refused("[media]\ndelivery = \"presigned\"\n", &[]);
    assert!(error.contains("media.delivery can be `presigned` only"), "{error}");
}

#[test]
fn the_example_of_a_local_server_works() {
    let file = r#"
        [providers.local]
        kind = "openai"
        base_url = "http://127.0.0.1:11434/v1"
        api_key = ""
        max_tokens_field = "max_tokens"

        [providers.local.models."llama3.2"]
        context_tokens = 131_072
        max_output_tokens = 8_192
        default = true
        prices = [{ valid_from = 2026-01-01, input_usd_per_mtok = 0, output_usd_per_mtok = 0, source = "own hardware" }]
    "#;
    let config = load(file, &[]).unwrap();
    let local = config.providers["local"].upstream_settings("local");
    assert!(!local.simulated);
    assert_eq!(local.models.default_text.as_deref(), Some("llama3.2"));
    assert_eq!(local.models.listed["llama3.2"].prices[0].id, "local/llama3.2@2026-01-01");
}
