use std::fs;

use super::*;
use crate::config::Sources;

fn load(file: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aihub.toml");
    fs::write(&path, file).unwrap();
    Config::load(&Sources { file: Some(path), ..Sources::default() }).map_err(|error| error.to_string())
}

#[test]
fn a_type_is_added_replaced_and_taken_away_by_the_file() {
    let config = load(
        r#"
        [[workflows.types.haiku.steps]]
        name = "write"
        model = "claude-haiku-5-5"
        template = "A haiku in {{ language }} about {{ prompt }}"
        output.lines = { type = "array", minItems = 3, maxItems = 3, items = { type = "string", maxLength = 60 } }
        [[workflows.types.haiku.steps]]
        name = "film"
        kind = "make"
        shots = "steps.write.lines"
        template = "{{ shot }}"

        [[workflows.types.enhance.steps]]
        name = "make"
        kind = "make"
        template = "{{ prompt }}"

        [workflows.types.social]
        steps = []
        "#,
    )
    .unwrap();
    let types = config.workflow_types();
    assert_eq!(types.keys().collect::<Vec<_>>(), ["enhance", "haiku", "storyboard", "translate"]);
    assert_eq!(types["enhance"].steps.len(), 1);
    let Work::Text { output, .. } = &types["haiku"].steps[0].work else { panic!() };
    assert_eq!((&output["properties"]["lines"]["minItems"], &output["required"][0]), (&3.into(), &"lines".into()));
    let Work::Make { shots, .. } = &types["haiku"].steps[1].work else { panic!() };
    assert_eq!(shots, &Some(("write".to_owned(), "lines".to_owned())));
}

#[test]
fn all_that_is_wrong_with_a_type_is_told_by_its_keys() {
    let told = load(
        r#"
        [workflows]
        max_attempts = 0
        [[workflows.types.bad.steps]]
        name = "Write"
        model = "gpt-99"
        provider = "nobody"
        shots = "steps.x.y"
        template = "{{ promt }}"
        output.text = { type = "txet" }
        [[workflows.types.bad.steps]]
        name = "film"
        kind = "make"
        output.a = { type = "string" }
        shots = "lines"
        template = "{% if"
        "#,
    )
    .unwrap_err();
    for key in [
        "workflows.max_attempts must be",
        "workflows.types.bad.steps.0.name must be",
        "workflows.types.bad.steps.0.model names gpt-99",
        "workflows.types.bad.steps.0.provider names nobody",
        "workflows.types.bad.steps.0.shots means nothing",
        "workflows.types.bad.steps.0.template names `promt`, which is not there: there are prompt, style",
        "workflows.types.bad.steps.0.output is no JSON Schema",
        "workflows.types.bad.steps.1.output means nothing",
        "workflows.types.bad.steps.1.shots is not a list that a step before makes",
        "workflows.types.bad.steps.1.template is no template",
    ] {
        assert!(told.contains(key), "{key} is not told: {told}");
    }
    let told = load("[[workflows.types.bad.steps]]\nname = \"a\"\ntemplat = \"x\"").unwrap_err();
    assert!(told.contains("templat"), "{told}");
}
