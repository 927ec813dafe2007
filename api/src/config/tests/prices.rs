//! What models cost.

use aihub_application::{
    catalog::Serves,
    upstream::{Streaming, UpstreamSettings},
};
use aihub_domain::price::{LongContext, PicoUsdPerToken, Rates};
use chrono::DateTime;

use super::*;

fn figures(rates: &Rates) -> [u64; 5] {
    [rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h, rates.output].map(|price| price.0)
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
    assert_eq!(figures(&price.rates), [100_000, 10_000, 125_000, 200_000, 500_000]);
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
        ("claude-haiku-5-5", 100_000, [500_000, 50_000, 625_000, 1_000_000, 2_500_000]),
        ("gpt-5.6-sol", 272_000, [8_000_000, 800_000, 10_000_000, 16_000_000, 30_000_000]),
        ("gpt-6-astra", 272_000, [20_000_000, 2_000_000, 25_000_000, 40_000_000, 75_000_000]),
        ("gpt-6-luna", 272_000, [200_000, 20_000, 250_000, 400_000, 750_000]),
        ("gpt-6.1-sol", 272_000, [4_000_000, 200_000, 5_000_000, 8_000_000, 15_000_000]),
        ("gpt-6.1-terra", 272_000, [2_000_000, 100_000, 2_500_000, 4_000_000, 7_500_000]),
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
        cache_write_1h: PicoUsdPerToken(6_000_000),
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
    assert_eq!(small.cache_write_1h, PicoUsdPerToken(40_000), "but for what is kept for an hour");
}

#[test]
fn models_that_reason_unseen_say_so_and_who_says_nothing_is_taken_for_what_is_safe() {
    let file = "[providers.local]\nkind = \"openai\"\nbase_url = \"http://l/v1\"\nstreams = \"never\"
        [providers.local.unlisted]\ncontext_tokens = 1\nmax_output_tokens = 1
        prices = [{ id = \"a\", input_usd_per_mtok = 1, output_usd_per_mtok = 2 }]";
    let config = load(file, &[]).unwrap();
    let openai = config.providers["openai"].upstream_settings("openai");
    let claude = config.providers["claude"].upstream_settings("claude");
    let hidden = |settings: &UpstreamSettings, model: &str| settings.models.listed[model].hidden_output;
    assert!(hidden(&openai, "gpt-6-luna") && !hidden(&openai, "gpt-4o-mini"));
    assert!(hidden(&claude, "claude-opus-5-5") && !hidden(&claude, "claude-haiku-5-5"));
    assert_eq!((openai.streaming, claude.streaming), (Streaming::Counted, Streaming::Counted));
    let local = config.providers["local"].upstream_settings("local");
    assert!(local.models.unlisted.unwrap().hidden_output);
    assert_eq!(local.streaming, Streaming::Never);
    // A picture by address only where the most that it counts for is known.
    let most = |settings: &UpstreamSettings, model: &str| settings.models.listed[model].pictures.tokens_max;
    assert_eq!((most(&openai, "gpt-6-luna"), most(&claude, "claude-opus-5-5")), (None, Some(4_884)));
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
