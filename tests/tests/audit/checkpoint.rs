//! Signed checkpoints.

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    audit::{
        AuditError,
        checkpoint::{covering, latest, make},
        note,
        verify::{Scope, Verdict},
    },
    event_store::reader,
};
use aihub_tests::{books::accepted, database};
use sqlx::Executor;

use super::{a_log, report, sign, signing_key, whole_log};

#[tokio::test]
async fn each_checkpoint_goes_on_from_the_one_before_and_none_is_made_of_nothing() {
    let (database, books) = a_log().await;
    let first = sign(&database).await;
    assert_eq!(sign(&database).await, first, "nothing came since");
    books.accept("more", accepted("acme", "ann", "node", 10)).await;
    let second = sign(&database).await;
    let [first, second] = [first, second].map(|text| signing_key(1).verifier().open(&text).unwrap());
    assert_eq!(second.head, reader::head(database.pool()).await.unwrap());
    assert_eq!(latest(database.pool()).await.unwrap().unwrap().0, second);
    for (position, expected) in [(1, &first), (first.head.position, &first), (first.head.position + 1, &second)] {
        assert_eq!(&covering(database.pool(), position).await.unwrap().unwrap().0, expected);
    }
    assert!(covering(database.pool(), second.head.position + 1).await.unwrap().is_none());
    // The second one's root was computed from the first one's frontier, and verification computes it from the events.
    assert_eq!(report(&database, &whole_log()).await.verdict, Verdict::Intact);
}

#[tokio::test]
async fn an_empty_log_is_intact_and_has_no_checkpoint() {
    let database = database().await;
    assert!(make(&database.database, &signing_key(1), &SystemClock).await.unwrap().is_none());
    let report = report(&database, &whole_log()).await;
    assert_eq!((report.verdict, report.events), (Verdict::Intact, 0));
}

#[tokio::test]
async fn what_does_not_verify_is_not_signed() {
    let (database, books) = a_log().await;
    sign(&database).await;
    books.accept("more", accepted("acme", "ann", "node", 10)).await;
    database
        .pool()
        .execute(
            "ALTER TABLE events DISABLE TRIGGER ALL;
             UPDATE events SET metadata = '{\"actor\":\"x\"}' WHERE position = (SELECT max(position) FROM events)",
        )
        .await
        .unwrap();
    let refused = make(&database.database, &signing_key(1), &SystemClock).await;
    assert!(matches!(refused, Err(AuditError::Tampered(_))), "{refused:?}");
}

#[tokio::test]
async fn nodes_that_sign_at_once_make_one_checkpoint() {
    let (database, _books) = a_log().await;
    let notes = futures::future::join_all((0..4).map(|_| sign(&database))).await;
    assert!(notes.iter().all(|note| *note == notes[0]));
}

#[tokio::test]
async fn a_stretch_verifies_from_the_event_in_front_of_it_and_what_is_not_there_is_missed() {
    let (database, _books) = a_log().await;
    let saved = sign(&database).await;
    let head = note::unverified(&saved).unwrap().head.position;
    let part = Scope { from: 5, to: Some(9), ..whole_log() };
    let part = report(&database, &part).await;
    assert_eq!((part.verdict, part.events), (Verdict::Intact, 5));
    for (from, to) in [(1, head + 1), (head + 2, head + 3)] {
        let beyond = Scope { from, to: Some(to), ..whole_log() };
        assert!(matches!(report(&database, &beyond).await.verdict, Verdict::Incomplete(_)));
    }
}
