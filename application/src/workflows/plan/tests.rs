use super::*;

fn text(name: &str, template: &str, fields: &Value) -> Step {
    let output = object_schema(fields.as_object().unwrap());
    let work = Work::Text { provider: "auto".into(), model: None, template: template.into(), output, max_tokens: 100 };
    Step { name: name.into(), work }
}

fn make(template: &str, shots: Option<(&str, &str)>) -> Step {
    let shots = shots.map(|(step, field)| (step.to_owned(), field.to_owned()));
    Step { name: "make".into(), work: Work::Make { template: template.into(), shots } }
}

fn faults(steps: Vec<Step>) -> Vec<(usize, &'static str)> {
    WorkflowType { steps }.faults().into_iter().map(|fault| (fault.step, fault.field)).collect()
}

#[test]
fn what_fits_together_has_no_faults() {
    let shots = json!({ "shots": { "type": "array", "minItems": 2, "maxItems": 4, "items": { "type": "string" } } });
    let storyboard = text("storyboard", "{{ prompt }}{% if style %}{{ style }}{% endif %}", &shots);
    assert_eq!(faults(vec![storyboard, make("{{ shot }}", Some(("storyboard", "shots")))]), []);
}

#[test]
fn a_template_may_only_name_what_is_there_by_then() {
    let field = json!({ "prompt": { "type": "string" } });
    for template in
        ["{{ promt }}", "{{ steps.later.prompt }}", "{{ steps.enhance.title }}", "{{ shot.x }}", "{{ steps }}", "{% if"]
    {
        let steps = vec![text("enhance", "{{ prompt }}", &field), make(template, None), text("later", "x", &field)];
        assert_eq!(faults(steps), [(1, "template")], "{template}");
    }
}

#[test]
fn exactly_one_step_makes_videos() {
    let field = json!({ "prompt": { "type": "string" } });
    assert_eq!(faults(vec![text("enhance", "x", &field)]), [(0, "kind")]);
    assert_eq!(faults(vec![make("x", None), make("x", None)]), [(1, "name"), (1, "kind")]);
}

#[test]
fn a_list_of_shots_has_an_end() {
    for list in [
        json!({ "type": "array" }),
        json!({ "type": "array", "minItems": 1, "maxItems": 99 }),
        json!({ "type": "string" }),
    ] {
        let steps =
            vec![text("storyboard", "x", &json!({ "shots": list })), make("{{ shot }}", Some(("storyboard", "shots")))];
        assert_eq!(faults(steps), [(1, "shots")]);
    }
}

#[test]
fn a_name_and_a_schema_are_well_formed() {
    let steps = vec![text("En hance", "x", &json!({ "prompt": { "type": "nonsense" } })), make("x", None)];
    assert_eq!(faults(steps), [(0, "name"), (0, "output")]);
    assert_eq!(faults(vec![text("enhance", "x", &json!({})), make("x", None)]), [(0, "output")]);
}
