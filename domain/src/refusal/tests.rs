use chrono::TimeDelta;

use super::*;

fn reason(code: &str, because: Option<Grounds>) -> Reason {
    let first_at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    Reason { code: code.to_owned(), count: 3, first_at, last_at: first_at + TimeDelta::seconds(4), because }
}

fn refused(reasons: Vec<Reason>) -> Refused {
    Refused { account: "acme".to_owned(), user: "ann".to_owned(), reasons }
}

#[test]
fn the_text_of_every_event_is_pinned() {
    let name = |name: &str| Some(name.to_owned());
    let reasons = [
        (
            "INSUFFICIENT_CREDITS",
            Grounds::Credits {
                available_microcredits: Microcredits(500_000),
                required_microcredits: Microcredits(3_000_000),
            },
        ),
        (
            "USAGE_LIMIT_EXCEEDED",
            Grounds::UsageLimit {
                period: account::Period::Day,
                limit_microcredits: Microcredits(10),
                used_microcredits: Microcredits(8),
                required_microcredits: Microcredits(3),
            },
        ),
        (
            "RATE_LIMIT_EXCEEDED",
            Grounds::Rate { too_many: "requests a minute".to_owned(), scope: "user".to_owned(), limit: 60 },
        ),
        ("QUEUE_FULL", Grounds::Queue { running: 64, waiting: 256 }),
        (
            "FORBIDDEN",
            Grounds::Capability {
                needed: "`chat = true` and `models` matching it".to_owned(),
                model: name("gpt-6-astra"),
                provider: None,
            },
        ),
        ("MODEL_NOT_FOUND", Grounds::Model { model: name("gpt-7"), provider: name("openai") }),
        (
            "VIDEO_NOT_OFFERED",
            Grounds::Video { asked: "90 s of 4K in 16:9".to_owned(), model: None, provider: name("veo") },
        ),
        ("FORBIDDEN", Grounds::AccountNotOpen),
        ("FORBIDDEN", Grounds::Erased),
        ("FORBIDDEN", Grounds::Token { account: "acme".to_owned(), user: "bob".to_owned() }),
    ];
    let mut reasons: Vec<_> = reasons.into_iter().map(|(code, because)| reason(code, Some(because))).collect();
    reasons.push(reason("MODEL_NOT_FOUND", None));
    let events = Refusal::default().decide(RefusalCommand::RecordRefusals(Box::new(refused(reasons)))).unwrap();
    insta::assert_json_snapshot!(events);
    for event in events {
        let read: RefusalEvent = serde_json::from_value(serde_json::to_value(&event).unwrap()).unwrap();
        assert_eq!(read, event);
    }
}

#[test]
fn a_telling_is_recorded_once() {
    let reasons = || vec![reason("FORBIDDEN", Some(Grounds::Erased))];
    let command = || RefusalCommand::RecordRefusals(Box::new(refused(reasons())));
    let mut refusal = Refusal::default();
    for event in refusal.decide(command()).unwrap() {
        refusal.evolve(&event);
    }
    assert_eq!(refusal.decide(command()), Err(RefusalError::AlreadyRecorded));
}

#[test]
fn the_same_is_missing_however_much_there_was_of_it() {
    let credits = |available| Grounds::Credits {
        available_microcredits: Microcredits(available),
        required_microcredits: Microcredits(9),
    };
    assert!(credits(1).is_about_the_same(&credits(2)));
    let rate =
        |scope: &str, limit| Grounds::Rate { too_many: "requests a minute".to_owned(), scope: scope.to_owned(), limit };
    assert!(rate("user", 1).is_about_the_same(&rate("user", 2)));
    assert!(!rate("user", 1).is_about_the_same(&rate("account", 1)));
    let model = |name: &str| Grounds::Model { model: Some(name.to_owned()), provider: None };
    assert!(!model("a").is_about_the_same(&model("b")));
    assert!(!model("a").is_about_the_same(&Grounds::Erased));
}
