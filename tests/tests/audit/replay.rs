//! The log played again is the same log, and what it says of a moment is what was seen then.

use std::collections::BTreeMap;

use aihub_infrastructure::{
    audit::{
        AuditError,
        file::{LogFile, export},
        restore::restore,
        scan,
        trail::{TrailOf, entries, positions},
        verify::Verdict,
    },
    event_store::reader,
};
use aihub_projections::account_balance;
use aihub_tests::{
    TestDatabase,
    books::{accepted, now},
    database,
    log::verified,
};
use chrono::TimeDelta;

use super::{a_log, catch_up, verdict};

async fn file_of(database: &TestDatabase) -> Vec<u8> {
    let mut file = Vec::new();
    export(&database.database, (1, None), &mut file, |_| ()).await.unwrap();
    file
}

#[tokio::test]
async fn an_empty_database_is_filled_with_the_same_positions_and_hashes_and_views_and_goes_on_from_there() {
    let (database, books) = a_log().await;
    let file = file_of(&database).await;
    let copy = aihub_tests::database().await;
    let head = restore(&copy.database, LogFile::open(&*file).unwrap(), |_| ()).await.unwrap();
    assert_eq!(verified(copy.pool()).await, verified(database.pool()).await);
    assert_eq!(head, reader::head(database.pool()).await.unwrap());
    assert_eq!(file_of(&copy).await, file, "the same file comes out of it");

    catch_up(&copy, account_balance::View).await;
    for account in ["acme", "ümlaut"] {
        let [original, rebuilt] = [&database, &copy].map(|database| account_balance::find(database.pool(), account));
        assert_eq!(rebuilt.await.unwrap(), original.await.unwrap());
    }
    assert_eq!(verdict(&copy).await, Verdict::Intact);
    drop(books);
    let books = aihub_tests::books::Books::open(aihub_tests::log::Node::start(&copy.database));
    books.accept("more", accepted("acme", "ann", "node", 10)).await;
    assert_eq!(verdict(&copy).await, Verdict::Intact);
}

#[tokio::test]
async fn a_log_is_never_mixed_with_another_and_a_faulty_file_leaves_nothing_behind() {
    let (original, _books) = a_log().await;
    let file = file_of(&original).await;
    let twice = restore(&original.database, LogFile::open(&*file).unwrap(), |_| ()).await;
    assert!(matches!(twice, Err(AuditError::Malformed(_))), "{twice:?}");

    let empty = database().await;
    let text = String::from_utf8(file).unwrap();
    let changed = text.replacen("gpt-6-2026", "gpt-7-2026", 1);
    let cut: String = text.split_inclusive('\n').take(20).collect();
    for faulty in [changed, cut] {
        restore(&empty.database, LogFile::open(faulty.as_bytes()).unwrap(), |_| ()).await.unwrap_err();
        assert_eq!(reader::head(empty.pool()).await.unwrap().position, 0);
    }
    restore(&empty.database, LogFile::open(text.as_bytes()).unwrap(), |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_moment_is_found_in_the_log_and_the_balance_of_then_is_the_one_that_was_seen_then() {
    let (database, books) = a_log().await;
    let mut seen = BTreeMap::new();
    for nth in 0..5 {
        let request = format!("later-{nth}");
        books.accept(&request, accepted("acme", "ann", "node", 10 + nth)).await;
        let available = books.accounts.load("acme").await.unwrap().available();
        seen.insert(reader::head(database.pool()).await.unwrap().position, available);
    }
    let events = verified(database.pool()).await;
    let mut connection = scan::connect(&database.database).await.unwrap();
    for event in &events {
        let at = reader::position_at(&mut connection, event.recorded_at).await.unwrap();
        let last_of_then = events.iter().rfind(|other| other.recorded_at <= event.recorded_at).unwrap().position;
        assert_eq!(at, last_of_then);
    }
    let before = events[0].recorded_at - TimeDelta::microseconds(1);
    assert_eq!(reader::position_at(&mut connection, before).await.unwrap(), 0);
    assert_eq!(reader::position_at(&mut connection, now()).await.unwrap(), events.len() as u64);

    for (position, available) in seen {
        let mut account = aihub_domain::account::Account::default();
        let events = reader::stream_from(database.pool(), "account", "acme", 1).await.unwrap();
        for event in events.iter().filter(|event| event.position <= position) {
            account.evolve(&event.decode().unwrap());
        }
        assert_eq!(account.available(), available);
    }
}

#[tokio::test]
async fn a_trail_has_all_that_belongs_to_it_and_nothing_else() {
    let (database, books) = a_log().await;
    books.accept("open", accepted("acme", "bob", "node", 10)).await;
    let mut connection = scan::connect(&database.database).await.unwrap();
    let mut trail = async |of: TrailOf| {
        let mut lines = Vec::new();
        let found = positions(&mut connection, &of, 1, 1_000).await.unwrap();
        for entry in entries(&mut connection, &found).await.unwrap() {
            lines.push((
                entry.aggregate_type.clone(),
                entry.aggregate_id.clone(),
                entry.event.clone(),
                entry.to_string(),
            ));
        }
        lines
    };
    let names = |lines: &[(String, String, String, String)]| -> Vec<String> {
        lines.iter().map(|(_, _, event, _)| event.clone()).collect()
    };
    let request = trail(TrailOf::Request("acme-2".to_owned())).await;
    assert_eq!(
        names(&request),
        ["CreditsReserved", "RequestAccepted", "ReservationExtended", "CreditsSettled", "RequestCancelled"]
    );
    assert!(request[4].3.contains("reason client_left"), "{}", request[4].3);
    assert!(request[3].3.contains("charged 0.00004 credits"), "{}", request[3].3);
    assert_eq!(names(&trail(TrailOf::Request("open".to_owned())).await), ["CreditsReserved", "RequestAccepted"]);

    let account = trail(TrailOf::Account("acme".to_owned())).await;
    assert_eq!(account.len(), 21);
    assert!(account.iter().all(|(kind, id, _, _)| kind == "request" && !id.starts_with("ü") || id == "acme"));
    let user = trail(TrailOf::User("bob".to_owned())).await;
    assert_eq!(names(&user), ["RequestAccepted"]);
    let user = trail(TrailOf::User("ann".to_owned())).await;
    assert_eq!(user.len(), 16, "eight requests, each accepted and ended");
    assert!(trail(TrailOf::Account("nobody".to_owned())).await.is_empty());
}
