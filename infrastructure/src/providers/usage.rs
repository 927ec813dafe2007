//! Token counts in one normal form, whichever dialect they come in and wherever in an answer they stand.

use aihub_application::ports::provider::Flaw;
use aihub_domain::price::TokenUsage;

use super::json::{Fields, Json};

const MAX: u64 = TokenUsage::MAX_COUNT;

/// The server's own counts, put together from all of its reports.
///
/// A later report corrects an earlier one field by field; a nought, a null and a field that is not there say nothing new, as
/// proxies put noughts where they know nothing.
#[derive(Debug, Default)]
pub(super) struct UsageSoFar {
    /// What was read from and written to the cache stands beside the prompt's count and not within it, as Anthropic has it.
    cache_is_beside: bool,
    prompt: Option<u64>,
    completion: Option<u64>,
    total: u64,
    cached: u64,
    /// However long it is kept.
    written: u64,
    written_for_minutes: u64,
    written_for_an_hour: u64,
    reasoning: u64,
    audio_input: u64,
    audio_output: u64,
    provider_tools: u64,
}

impl UsageSoFar {
    pub fn of_anthropic() -> Self {
        Self { cache_is_beside: true, ..Self::default() }
    }

    /// An embedding completes nothing, so servers do not count that.
    pub fn of_embedding() -> Self {
        Self { completion: Some(0), ..Self::default() }
    }

    /// `None` as long as one side was never counted: a nought in its place would be taken for a count.
    pub fn merge(&mut self, report: Json<'_>) -> Option<TokenUsage> {
        let report = report.fields();
        let input = Details::of(&report, ["prompt_tokens_details", "input_tokens_details"]);
        let output = Details::of(&report, ["completion_tokens_details", "output_tokens_details"]);
        let creation = report.get("cache_creation").map(Json::fields);
        let of = |names: &[&str]| most_telling(names.iter().filter_map(|name| report.get(name)?.count()));
        correct_side(&mut self.prompt, of(&["prompt_tokens", "input_tokens"]));
        correct_side(&mut self.completion, of(&["completion_tokens", "output_tokens"]));
        correct(&mut self.total, of(&["total_tokens"]));
        let cached = ["cache_read_input_tokens", "cached_tokens", "prompt_cache_hit_tokens"];
        correct(&mut self.cached, most_telling(input.count("cached_tokens").into_iter().chain(of(&cached))));
        let written = input.count("cache_write_tokens").into_iter().chain(of(&["cache_creation_input_tokens"]));
        correct(&mut self.written, most_telling(written));
        if let Some(creation) = creation {
            let of = |name| creation.get(name).and_then(Json::count);
            correct(&mut self.written_for_minutes, of("ephemeral_5m_input_tokens"));
            correct(&mut self.written_for_an_hour, of("ephemeral_1h_input_tokens"));
        }
        let reasoning = output.count("reasoning_tokens").or_else(|| output.count("thinking_tokens"));
        correct(&mut self.reasoning, most_telling(reasoning.into_iter().chain(of(&["reasoning_tokens"]))));
        correct(&mut self.audio_input, input.count("audio_tokens"));
        correct(&mut self.audio_output, output.count("audio_tokens"));
        // Anthropic's, by the tool's name, and xAI's sum.
        let by_tool = report.get("server_tool_use").map(|tools| tools.fields().counts().fold(0, u64::saturating_add));
        correct(&mut self.provider_tools, most_telling(by_tool.into_iter().chain(of(&["num_server_side_tools_used"]))));
        self.normal()
    }

    fn normal(&self) -> Option<TokenUsage> {
        let (prompt, completion) = (self.prompt?, self.completion?);
        let written = self.written.max(self.written_for_minutes.saturating_add(self.written_for_an_hour));
        let from_cache = self.cached.saturating_add(written);
        // A part is not more than the whole: then it stands beside it.
        let is_beside = self.cache_is_beside || from_cache > prompt;
        let input = if is_beside { prompt } else { prompt - from_cache };
        let all_input = input.saturating_add(from_cache);
        let output = if self.total == 0 && self.reasoning > completion {
            completion.saturating_add(self.reasoning)
        } else {
            completion.max(self.total.saturating_sub(all_input))
        };
        Some(TokenUsage {
            input: input.min(MAX),
            cached_input: self.cached.min(MAX),
            cache_write: (written - self.written_for_an_hour.min(written)).min(MAX),
            cache_write_1h: self.written_for_an_hour.min(MAX),
            output: output.min(MAX),
            reasoning: self.reasoning.min(output).min(MAX),
            audio_input: self.audio_input.min(all_input).min(MAX),
            audio_output: self.audio_output.min(output).min(MAX),
            provider_tools: self.provider_tools.min(MAX),
        })
    }

    /// What is not charged as the provider may charge it: a total of more than its parts that nothing explains, sound, and tools
    /// that it ran itself.
    pub fn flaws(&self) -> impl Iterator<Item = Flaw> {
        let sound = (self.audio_input > 0 || self.audio_output > 0).then(|| "sound_is_charged_as_text".to_owned());
        let tools = (self.provider_tools > 0).then(|| format!("provider_ran_{}_tools_uncharged", self.provider_tools));
        let total = self.unexplained().map(|more| format!("usage_total_exceeds_its_parts_by_{more}"));
        [(total, "usage.total_tokens"), (sound, "usage"), (tools, "usage")]
            .into_iter()
            .filter_map(|(class, field)| Some(Flaw { class: class?, field: Some(field.into()), offset: None }))
    }

    fn unexplained(&self) -> Option<u64> {
        let (prompt, completion) = (self.prompt?, self.completion?);
        let beside = if self.cache_is_beside { self.cached.saturating_add(self.written) } else { 0 };
        let parts = prompt.saturating_add(completion).saturating_add(beside);
        self.total.checked_sub(parts).filter(|more| *more > 0 && *more != self.reasoning)
    }
}

/// Of what one thing is said to be under several names: a nought under one of them hides nothing under another.
fn most_telling(counts: impl IntoIterator<Item = u64>) -> Option<u64> {
    counts.into_iter().reduce(|told, other| if told == 0 { other } else { told })
}

/// A nought is no news, wherever something is known.
fn correct(known: &mut u64, told: Option<u64>) {
    *known = told.filter(|told| *told > 0).unwrap_or(*known);
}

fn correct_side(known: &mut Option<u64>, told: Option<u64>) {
    *known = match (*known, told) {
        (Some(known), Some(0)) => Some(known),
        (known, told) => told.or(known),
    };
}

/// What a count is made of, under whichever of its names.
struct Details<'a>(Option<Fields<'a>>);

impl<'a> Details<'a> {
    fn of(report: &Fields<'a>, names: [&str; 2]) -> Self {
        Self(names.into_iter().find_map(|name| report.get(name)).map(Json::fields))
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.0.as_ref()?.get(name)?.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Input, cached, written, written for an hour, output, reasoning.
    fn read(mut so_far: UsageSoFar, reports: &[&str]) -> Option<[u64; 6]> {
        let usages: Vec<_> = reports.iter().map(|report| so_far.merge(Json::parse(report).unwrap())).collect();
        let usage = (*usages.last().unwrap())?;
        Some([usage.input, usage.cached_input, usage.cache_write, usage.cache_write_1h, usage.output, usage.reasoning])
    }

    fn openai(reports: &[&str]) -> Option<[u64; 6]> {
        read(UsageSoFar::default(), reports)
    }

    fn anthropic(reports: &[&str]) -> Option<[u64; 6]> {
        read(UsageSoFar::of_anthropic(), reports)
    }

    #[test]
    fn a_count_beyond_all_reason_is_cut_down_so_that_sums_do_not_overflow() {
        let report = r#"{"prompt_tokens": 18446744073709551615, "completion_tokens": 18446744073709551615}"#;
        assert_eq!(openai(&[report]), Some([MAX, 0, 0, 0, MAX, 0]));
        let report = r#"{"input_tokens": 18446744073709551615, "cache_read_input_tokens": 18446744073709551615,
            "cache_creation_input_tokens": 18446744073709551615, "output_tokens": 18446744073709551615}"#;
        assert_eq!(anthropic(&[report]), Some([MAX, MAX, MAX, 0, MAX, 0]));
    }

    #[test]
    fn the_total_decides_whether_reasoning_is_within_the_completion_or_beside_it() {
        let report = |total: &str| {
            format!(
                r#"{{"prompt_tokens": 10120, "completion_tokens": 500{total},
                "completion_tokens_details": {{"reasoning_tokens": 3808}}}}"#
            )
        };
        assert_eq!(openai(&[&report(r#", "total_tokens": 14428"#)]), Some([10_120, 0, 0, 0, 4_308, 3_808]));
        assert_eq!(openai(&[&report(r#", "total_tokens": 10620"#)]), Some([10_120, 0, 0, 0, 500, 500]));
        assert_eq!(openai(&[&report("")]), Some([10_120, 0, 0, 0, 4_308, 3_808]));
    }

    #[test]
    fn what_a_total_has_beyond_its_parts_is_output_and_noted() {
        let mut so_far = UsageSoFar::default();
        let report = r#"{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": "20.0"}"#;
        assert_eq!(so_far.merge(Json::parse(report).unwrap()).unwrap().output, 10);
        assert_eq!(so_far.flaws().next().unwrap().class, "usage_total_exceeds_its_parts_by_5");
    }

    #[test]
    fn a_later_nought_erases_nothing_and_a_later_figure_corrects() {
        let reports = [
            r#"{"input_tokens": 1500, "cache_read_input_tokens": 8000, "output_tokens": 1}"#,
            r#"{"input_tokens": 0, "cache_read_input_tokens": null, "output_tokens": 42}"#,
        ];
        assert_eq!(anthropic(&reports), Some([1_500, 8_000, 0, 0, 42, 0]));
        let reports =
            [r#"{"prompt_tokens": 7, "completion_tokens": 90}"#, r#"{"prompt_tokens": 0, "completion_tokens": 80}"#];
        assert_eq!(openai(&reports), Some([7, 0, 0, 0, 80, 0]));
        assert_eq!(openai(&[r#"{"prompt_tokens": 7}"#]), None, "one side was never counted");
        assert_eq!(openai(&[r#"{"prompt_tokens": 7, "completion_tokens": 0}"#]), Some([7, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn cached_input_is_found_under_all_of_its_names_within_the_prompt_or_beside_it() {
        for cached in [
            r#""prompt_tokens_details": {"cached_tokens": 800}"#,
            r#""input_tokens_details": {"cached_tokens": 800}"#,
            r#""cached_tokens": 800"#,
            r#""prompt_cache_hit_tokens": 800, "prompt_cache_miss_tokens": 200"#,
        ] {
            let report = format!(r#"{{"prompt_tokens": 1000, "completion_tokens": 500, {cached}}}"#);
            assert_eq!(openai(&[&report]), Some([200, 800, 0, 0, 500, 0]), "{cached}");
        }
        let beside = r#"{"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 800}"#;
        assert_eq!(openai(&[beside]), Some([100, 800, 0, 0, 5, 0]));
    }

    #[test]
    fn what_is_written_for_an_hour_is_told_apart_from_what_is_written_for_minutes() {
        let first = r#"{"input_tokens": 7, "output_tokens": 1, "cache_creation_input_tokens": 100500,
            "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 100000}}"#;
        assert_eq!(anthropic(&[first]), Some([7, 0, 500, 100_000, 1, 0]));
        // The last report has the short form.
        let short = r#"{"output_tokens": 9, "cache_creation_input_tokens": 100500}"#;
        assert_eq!(anthropic(&[first, short]), Some([7, 0, 500, 100_000, 9, 0]));
        let only_apart = r#"{"input_tokens": 7, "output_tokens": 1,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100000}}"#;
        assert_eq!(anthropic(&[only_apart]), Some([7, 0, 0, 100_000, 1, 0]));
        let only_together = r#"{"input_tokens": 7, "output_tokens": 1, "cache_creation_input_tokens": 500}"#;
        assert_eq!(anthropic(&[only_together]), Some([7, 0, 500, 0, 1, 0]));
    }
    #[test]
    fn sound_and_tools_that_the_provider_ran_are_counted_apart_and_noted() {
        let openai = r#"{"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"audio_tokens": 40}, "completion_tokens_details": {"audio_tokens": "30.0"}}"#;
        let claude = r#"{"input_tokens": 100, "output_tokens": 50,
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": null, "code_execution_requests": 1}}"#;
        let xai = r#"{"prompt_tokens": 100, "completion_tokens": 50, "num_server_side_tools_used": 3}"#;
        let nought = r#"{"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 0}}"#;
        for (so_far, report, counts, flaw) in [
            (UsageSoFar::default(), openai, [40, 30, 0], "sound_is_charged_as_text"),
            (UsageSoFar::of_anthropic(), claude, [0, 0, 3], "provider_ran_3_tools_uncharged"),
            (UsageSoFar::default(), xai, [0, 0, 3], "provider_ran_3_tools_uncharged"),
        ] {
            let mut so_far = so_far;
            so_far.merge(Json::parse(report).unwrap()).unwrap();
            let usage = so_far.merge(Json::parse(nought).unwrap()).unwrap();
            assert_eq!([usage.audio_input, usage.audio_output, usage.provider_tools], counts, "{report}");
            assert_eq!((usage.input, usage.output), (100, 50), "they are parts, or no tokens");
            let flaws: Vec<_> = so_far.flaws().map(|flaw| flaw.class).collect();
            assert_eq!(flaws, [flaw], "{report}");
        }
    }
}
