use super::*;

/// 2026-10-01 and 2026-10-02, as the API reference shows the answer.
const OPENAI: &str = r#"{"object": "page", "data": [
  {"object": "bucket", "start_time": 1790812800, "end_time": 1790899200, "results": [
    {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
     "input_cached_tokens": 800, "input_audio_tokens": 0, "output_audio_tokens": 0, "num_model_requests": 5,
     "project_id": null, "user_id": null, "api_key_id": null, "model": "gpt-6-luna-2026-09-01", "batch": null,
     "service_tier": null}]},
  {"object": "bucket", "start_time": 1790899200, "end_time": 1790985600, "results": []}],
  "has_more": HAS_MORE, "next_page": null}"#;
const ANTHROPIC: &str = r#"{"data": [{"starting_at": "2026-10-01T00:00:00Z", "ending_at": "2026-10-02T00:00:00Z", "results": [
  {"uncached_input_tokens": 1500, "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
   "cache_read_input_tokens": 200, "output_tokens": 500, "server_tool_use": {"web_search_requests": 10},
   "api_key_id": null, "workspace_id": null, "model": "claude-haiku-5-5", "service_tier": "standard",
   "context_window": "0-200k"},
  {"uncached_input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
   "cache_read_input_tokens": 0, "output_tokens": 2, "server_tool_use": {"web_search_requests": 0},
   "api_key_id": null, "workspace_id": null, "model": "claude-haiku-5-5", "service_tier": "batch",
   "context_window": "0-200k"}]}],
  "has_more": false, "next_page": null}"#;

fn day(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 10, day).unwrap()
}

fn openai(has_more: bool) -> String {
    OPENAI.replace("HAS_MORE", &has_more.to_string())
}

#[test]
fn openai_counts_cached_input_among_the_input_and_anthropic_beside_it() {
    let export = Export::read(Vendor::OpenAi, openai(false).as_bytes()).unwrap();
    assert_eq!(export.days, (day(1), day(2)));
    let sums = Figures {
        requests: Some(5),
        input_tokens: 200,
        cached_input_tokens: 800,
        output_tokens: 500,
        ..Figures::default()
    };
    assert_eq!(export.figures, ByDayAndModel::from([((day(1), "gpt-6-luna-2026-09-01".to_owned()), sums)]));

    let export = Export::read(Vendor::Anthropic, ANTHROPIC.as_bytes()).unwrap();
    let sums = Figures {
        requests: None,
        input_tokens: 1501,
        cached_input_tokens: 200,
        cache_write_tokens: 1500,
        output_tokens: 502,
    };
    assert_eq!(export.figures, ByDayAndModel::from([((day(1), "claude-haiku-5-5".to_owned()), sums)]));
}

#[test]
fn pages_may_follow_each_other_or_stand_in_a_list_and_none_may_be_missing() {
    let (first, last) = (openai(true), openai(false));
    let behind = Export::read(Vendor::OpenAi, format!("{first}\n{last}").as_bytes()).unwrap();
    let listed = Export::read(Vendor::OpenAi, format!("[{first},{last}]").as_bytes()).unwrap();
    assert_eq!(behind, listed);
    assert_eq!(behind.figures.values().next().unwrap().output_tokens, 1000);
    assert!(matches!(Export::read(Vendor::OpenAi, first.as_bytes()), Err(ExportError::Incomplete)));
    let nameless = last.replace("\"gpt-6-luna-2026-09-01\"", "null");
    assert!(matches!(Export::read(Vendor::OpenAi, nameless.as_bytes()), Err(ExportError::NoModel)));
    assert!(matches!(Export::read(Vendor::OpenAi, b"[]"), Err(ExportError::Empty)));
    assert!(matches!(Export::read(Vendor::OpenAi, ANTHROPIC.as_bytes()), Err(ExportError::Json(_))));
}

#[test]
fn a_difference_is_beyond_when_it_is_more_than_the_tolerance_of_what_the_provider_says() {
    let of = |output_tokens, model: &str| {
        ByDayAndModel::from([((day(1), model.to_owned()), Figures { output_tokens, ..Figures::default() })])
    };
    let half_percent = Tolerance { ppm: 5_000 };
    let beyond = |ours, theirs| {
        let found = differences(&of(ours, "m"), &of(theirs, "m"), Vendor::Anthropic, half_percent);
        found.into_iter().map(|difference| difference.is_beyond).collect::<Vec<_>>()
    };
    assert_eq!(beyond(1000, 1000), Vec::<bool>::new());
    assert_eq!(beyond(995, 1000), [false]);
    assert_eq!(beyond(994, 1000), [true]);
    assert_eq!(beyond(1006, 1000), [true]);
    assert_eq!(beyond(1, 0), [true]);
    let named = differences(&of(1, "ours"), &of(1, "theirs"), Vendor::Anthropic, half_percent);
    let named: Vec<_> = named.iter().map(|found| (found.model.as_str(), found.ours, found.theirs)).collect();
    assert_eq!(named, [("ours", 1, 0), ("theirs", 0, 1)]);
}
