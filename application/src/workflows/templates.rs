//! What models are told and videos are made from: texts with placeholders, `{{ prompt }}` or `{% if style %}…{% endif %}`. A name
//! that is not there is an error, so that no step works on half of what it was to be told.

use std::collections::BTreeSet;

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use serde_json::{Map, Value};

/// What every template can name. `steps.NAME.FIELD` is what the steps before have made; `shot` the entry that a video
/// is made from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    pub prompt: String,
    /// Empty where the client named none.
    pub style: String,
    pub language: String,
    /// In seconds.
    pub duration: u32,
    pub resolution: String,
    pub aspect_ratio: String,
    pub steps: Map<String, Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub shot: Value,
}

/// Those of [`Names`] that are always there.
pub const NAMES: [&str; 6] = ["prompt", "style", "language", "duration", "resolution", "aspectRatio"];

/// Why there is no text. Names places in the template, and nothing of what was to go there.
pub type TemplateFault = String;

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

pub fn render(template: &str, names: &Names) -> Result<String, TemplateFault> {
    let environment = environment();
    let template = environment.template_from_str(template).map_err(fault)?;
    template.render(Serde(names)).map_err(fault)
}

/// The names that a template uses, each as far as it is spelt out: `style`, `steps.enhance.prompt`.
pub fn names_in(template: &str) -> Result<BTreeSet<String>, TemplateFault> {
    let environment = environment();
    let template = environment.template_from_str(template).map_err(fault)?;
    Ok(template.undeclared_variables(true).into_iter().collect())
}

#[expect(clippy::needless_pass_by_value, reason = "a `map_err`")]
fn fault(error: minijinja::Error) -> TemplateFault {
    match error.line() {
        Some(line) => format!("{} in line {line}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        Names {
            prompt: "a <calm> sea".into(),
            style: String::new(),
            language: "English".into(),
            duration: 8,
            resolution: "720p".into(),
            aspect_ratio: "16:9".into(),
            steps: Map::from_iter([("enhance".to_owned(), json!({ "prompt": "waves" }))]),
            shot: Value::Null,
        }
    }

    #[test]
    fn placeholders_are_filled_in_as_they_are_and_what_was_left_out_can_be_asked_for() {
        let template =
            "{{ prompt }}, {{ duration }} s{% if style %} in {{ style }}{% endif %}: {{ steps.enhance.prompt }}";
        assert_eq!(render(template, &names()).unwrap(), "a <calm> sea, 8 s: waves");
    }

    #[test]
    fn what_a_client_wrote_is_text_and_never_a_template() {
        let names = Names { prompt: "{{ style }}{% for".into(), ..names() };
        assert_eq!(render("{{ prompt }}", &names).unwrap(), "{{ style }}{% for");
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error() {
        for template in ["{{ prompd }}", "{{ steps.enhanced.prompt }}", "{{ shot.prompt }}", "{{ prompt"] {
            render(template, &names()).unwrap_err();
        }
    }

    #[test]
    fn a_template_tells_which_names_it_uses() {
        let named = names_in("{% if style %}{{ style }}{% endif %}{{ steps.enhance.prompt }}").unwrap();
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["steps.enhance.prompt", "style"]);
    }
}
