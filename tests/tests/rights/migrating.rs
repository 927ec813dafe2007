//! Who migrates makes the roles, or is told what is missing; and who only serves does not need to.

use aihub_infrastructure::{
    database::{Database, DatabaseError, DatabaseOptions},
    roles::{Made, RoleNames},
};
use aihub_tests::{TestDatabase, database};
use sqlx::Executor;
use tokio::process::Command;
use uuid::Uuid;

use super::connect;

/// An empty database that belongs to the login, beside `database`: how it is reached. It is left to the server's end.
async fn empty(database: &TestDatabase, owner: &DatabaseOptions) -> DatabaseOptions {
    let name = format!("empty_{}", Uuid::now_v7().simple());
    let login = owner.url.split_once("://").unwrap().1.split_once(':').unwrap().0;
    database.admin().await.execute(&*format!("CREATE DATABASE {name} OWNER {login}")).await.unwrap();
    let (server, _) = owner.url.rsplit_once('/').unwrap();
    let parameters = owner.url.split_once('?').map_or(String::new(), |(_, rest)| format!("?{rest}"));
    DatabaseOptions { url: format!("{server}/{name}{parameters}"), ..owner.clone() }
}

/// What `aihub migrate` says to whoever runs it.
async fn migrate(url: &str, prefix: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", url)
        .env("AIHUB__DATABASE__ROLE_PREFIX", prefix)
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (output.status.success(), said)
}

fn prefix() -> String {
    format!("hub_{}", &Uuid::now_v7().simple().to_string()[20..])
}

#[tokio::test]
async fn an_owner_who_may_make_roles_makes_them_with_their_rights() {
    let database = database().await;
    let prefix = prefix();
    let owner = empty(&database, &database.login("CREATEROLE", &[]).await).await;
    for _ in 0..2 {
        let (done, said) = migrate(&owner.url, &prefix).await;
        assert!(
            done && said.contains(&format!("{prefix}_service, {prefix}_finance, {prefix}_auditor, {prefix}_writer")),
            "{said}"
        );
        assert!(!said.contains("CREATE ROLE"), "{said}");
    }
    let service = database.login("", &[&format!("{prefix}_service")]).await;
    let service = DatabaseOptions { url: beside(&service, &owner), ..service };
    let service = Database::connect(&service).await.unwrap();
    assert!(!service.migrate().await.unwrap(), "there is nothing for the service to do");
    let other = database.login("", &["aihub_service"]).await;
    let mut other = connect(&DatabaseOptions { url: beside(&other, &owner), ..other.clone() }).await;
    other.execute("SELECT * FROM events").await.unwrap_err();
    service.pool().close().await;
    drop(other);
    forget(&database, &prefix, &owner).await;
}

#[tokio::test]
async fn an_owner_who_may_not_make_roles_is_told_which_are_missing_and_grants_them_once_they_are_there() {
    let database = database().await;
    let prefix = prefix();
    let owner = empty(&database, &database.login("", &[]).await).await;
    let (done, said) = migrate(&owner.url, &prefix).await;
    assert!(done, "the schema is there all the same: {said}");
    let mut admin = database.admin().await;
    for role in ["service", "finance", "auditor", "writer"] {
        let make = format!("CREATE ROLE {prefix}_{role} NOLOGIN;");
        assert!(said.contains(&make), "{said}");
        admin.execute(&*make).await.unwrap();
    }
    let reader = database.login("", &[&format!("{prefix}_finance")]).await;
    let (done, said) = migrate(&owner.url, &prefix).await;
    assert!(done && !said.contains("CREATE ROLE"), "{said}");
    let login = reader.url.split_once("://").unwrap().1.split_once(':').unwrap().0;
    assert!(said.contains(&format!("ALTER ROLE {login} SET statement_timeout")), "{said}");
    let mut reader = connect(&DatabaseOptions { url: beside(&reader, &owner), ..reader.clone() }).await;
    reader.execute("SELECT * FROM read.usage_daily_v1").await.unwrap();
    drop(reader);
    forget(&database, &prefix, &owner).await;
}

#[tokio::test]
async fn a_service_that_finds_another_schema_and_may_not_change_it_says_what_to_run() {
    let database = database().await;
    let owner = database.login("", &[]).await;
    let empty = empty(&database, &owner).await;
    let service = database.login("", &["aihub_service"]).await;
    let service = DatabaseOptions { url: beside(&service, &empty), ..service };
    let refused = Database::connect(&service).await.unwrap().migrate().await.unwrap_err();
    assert!(matches!(&refused, DatabaseError::NotMigrated { .. }), "{refused}");
    assert!(refused.to_string().contains("`aihub migrate`"), "{refused}");
}

#[tokio::test]
async fn several_who_migrate_at_once_wait_for_each_other() {
    let database = database().await;
    let owner = empty(&database, &database.login("CREATEROLE", &[]).await).await;
    let one = Database::connect(&owner).await.unwrap();
    let migrated = futures::future::join_all((0..4).map(|_| one.migrate())).await;
    assert!(migrated.iter().all(Result::is_ok), "{migrated:?}");
    assert!(!one.migrate().await.unwrap());
    let names = RoleNames::with_prefix("aihub");
    assert_eq!(names.make(&one).await.unwrap(), Made::default());
    one.pool().close().await;
}

/// The first one's login in the second one's database.
fn beside(login: &DatabaseOptions, database: &DatabaseOptions) -> String {
    let (server, own) = login.url.rsplit_once('/').unwrap();
    let name = database.url.rsplit_once('/').unwrap().1.split('?').next().unwrap();
    let parameters = own.split_once('?').map_or(String::new(), |(_, rest)| format!("?{rest}"));
    format!("{server}/{name}{parameters}")
}

/// What stands in the whole server.
async fn forget(database: &TestDatabase, prefix: &str, owner: &DatabaseOptions) {
    let mut admin = database.admin().await;
    let name = owner.url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned();
    admin.execute(&*format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    for role in ["service", "finance", "auditor", "writer"] {
        admin.execute(&*format!("DROP ROLE {prefix}_{role}")).await.unwrap();
    }
}
