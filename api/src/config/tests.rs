mod media;
mod prices;
mod reach;

use std::{fs, path::PathBuf};

use aihub_domain::money::MicrocreditsPerUsd;

use super::*;

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

fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    load(file, variables).unwrap_err()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3003");
    assert_eq!(config.gateway_settings().rate, MicrocreditsPerUsd(1_000_000_000));
    assert_eq!(config.welcome_credits(), Some(Microcredits::from_credits(10_000)));
    assert_eq!(config.gateway_settings().drain_after_leaving, Duration::from_secs(30));
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
