use cqrs_es::DomainEvent;
use serde_json::json;

use super::{
    event::{VideoParameters, Work},
    *,
};
use crate::{
    content::{ContentKind, tests::reference},
    video::{
        event::Priority,
        format::{AspectRatio, Resolution},
    },
};

const AT: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn sealed() -> ContentRef {
    reference(ContentKind::Workflow)
}

fn request(names: &[&str]) -> Box<WorkflowRequest> {
    let step = |name: &&str| {
        let work = match *name {
            "make" => Work::Make { template: "{{ steps.enhance.prompt }}".into(), shots: None },
            _ => Work::Text {
                provider: "auto".into(),
                model: None,
                template: "{{ prompt }}".into(),
                output: json!({ "type": "object" }),
                max_tokens: 500,
            },
        };
        Step { name: (*name).to_owned(), work }
    };
    Box::new(WorkflowRequest {
        account: "acme".into(),
        user: "ada".into(),
        roles: vec!["user".into()],
        workflow_type: "enhance".into(),
        steps: names.iter().map(step).collect(),
        video: VideoParameters {
            provider: "auto".into(),
            model: None,
            seconds: 8,
            resolution: Resolution::P720,
            aspect_ratio: AspectRatio::Wide,
            priority: Priority::Standard,
            fallback: true,
            session_id: None,
        },
        has_webhook: false,
        content: sealed(),
        started_at: AT,
    })
}

fn at(step: &str, attempt: u32) -> StepName {
    StepName { step: step.into(), attempt }
}

fn start(step: &str, attempt: u32) -> WorkflowCommand {
    WorkflowCommand::StartStep {
        at: at(step, attempt),
        request_id: Some(format!("{step}-{attempt}")),
        node: "n".into(),
        started_at: AT,
    }
}

fn complete(step: &str, attempt: u32, charged: i64) -> WorkflowCommand {
    WorkflowCommand::CompleteStep {
        at: at(step, attempt),
        output: Some(sealed()),
        charged: Microcredits(charged),
        completed_at: AT,
    }
}

fn fail(step: &str, attempt: u32, will_retry: bool) -> WorkflowCommand {
    WorkflowCommand::FailStep {
        at: at(step, attempt),
        code: "INVALID_OUTPUT".into(),
        reason: "the answer does not fit".into(),
        charged: Microcredits(5),
        will_retry,
        failed_at: AT,
    }
}

fn shot(shot: u32, video_id: &str) -> WorkflowCommand {
    WorkflowCommand::RecordShot { at: at("make", 1), shot, video_id: video_id.into(), recorded_at: AT }
}

/// After all of these, which follow.
fn after(commands: impl IntoIterator<Item = WorkflowCommand>) -> Workflow {
    let mut workflow = Workflow::default();
    for command in commands {
        for event in workflow.decide(command).unwrap() {
            workflow.evolve(&event);
        }
    }
    workflow
}

fn started() -> WorkflowCommand {
    WorkflowCommand::StartWorkflow(request(&["enhance", "make"]))
}

fn types(workflow: &Workflow, command: WorkflowCommand) -> Vec<String> {
    workflow.decide(command).unwrap().iter().map(DomainEvent::event_type).collect()
}

#[test]
fn steps_are_done_in_their_order_and_the_last_one_ends_the_workflow() {
    let workflow = after([started(), start("enhance", 1)]);
    assert_eq!(workflow.decide(start("make", 1)), Err(at("make", 1).into()));
    assert_eq!(types(&workflow, complete("enhance", 1, 7)), ["StepCompleted"]);
    let workflow = after([started(), start("enhance", 1), complete("enhance", 1, 7), start("make", 1)]);
    assert_eq!(workflow.current().unwrap().0.name, "make");
    assert_eq!(types(&workflow, complete("make", 1, 0)), ["StepCompleted", "WorkflowCompleted"]);
}

#[test]
fn whoever_comes_second_is_told_that_the_workflow_is_somewhere_else() {
    let running = after([started(), start("enhance", 1)]);
    assert_eq!(running.decide(start("enhance", 1)), Err(at("enhance", 1).into()));
    assert_eq!(running.decide(start("enhance", 2)), Err(at("enhance", 2).into()));
    let done = after([started(), start("enhance", 1), complete("enhance", 1, 7)]);
    assert_eq!(done.decide(complete("enhance", 1, 7)), Err(at("enhance", 1).into()));
    assert_eq!(done.decide(started()), Err(WorkflowError::AlreadyStarted));
}

#[test]
fn what_failed_attempts_were_charged_counts_for_the_step() {
    let tried = [started(), start("enhance", 1), fail("enhance", 1, true), start("enhance", 2)];
    let workflow = after(tried.into_iter().chain([complete("enhance", 2, 7)]));
    let (_, state) = workflow.steps().next().unwrap();
    assert_eq!((state.charged, state.attempt, &state.failure), (Microcredits(12), 2, &None));
}

#[test]
fn a_step_that_is_not_tried_again_fails_the_workflow_and_is_named() {
    let workflow = after([started(), start("enhance", 1)]);
    let events = workflow.decide(fail("enhance", 1, false)).unwrap();
    let [_, WorkflowEvent::WorkflowFailed { step, code, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((step.as_str(), code.as_str()), ("enhance", "INVALID_OUTPUT"));
}

#[test]
fn shots_are_recorded_once_and_in_their_order() {
    let making = || vec![started(), start("enhance", 1), complete("enhance", 1, 7), start("make", 1), shot(0, "a")];
    let workflow = after(making());
    assert_eq!(workflow.decide(shot(0, "a")), Ok(vec![]));
    assert_eq!(workflow.decide(shot(0, "b")), Err(at("make", 1).into()));
    assert_eq!(workflow.decide(shot(2, "c")), Err(at("make", 1).into()));
    let workflow = after(making().into_iter().chain([shot(1, "b")]));
    assert_eq!(workflow.steps().last().unwrap().1.videos, ["a", "b"]);
}

#[test]
fn a_workflow_that_has_ended_never_changes_again() {
    let cancel = || WorkflowCommand::CancelWorkflow { actor: "ada".into(), cancelled_at: AT };
    let workflow = after([started(), start("enhance", 1), cancel()]);
    assert_eq!(workflow.current(), None);
    for command in [cancel(), start("enhance", 2), complete("enhance", 1, 1), fail("enhance", 1, true), shot(0, "a")] {
        assert_eq!(workflow.decide(command), Err(WorkflowError::AlreadyEnded(WorkflowStatus::Cancelled)));
    }
}

#[test]
fn nothing_happens_to_a_workflow_that_was_never_started() {
    assert_eq!(Workflow::default().decide(start("enhance", 1)), Err(WorkflowError::NotStarted));
    let empty = WorkflowCommand::StartWorkflow(request(&[]));
    assert_eq!(Workflow::default().decide(empty), Err(WorkflowError::NoSteps));
}
