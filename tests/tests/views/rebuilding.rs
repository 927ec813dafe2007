//! A view is filled anew beside the one that is read: with the same bytes, whatever happens meanwhile.

use std::sync::Arc;

use aihub_infrastructure::event_store::{reader, subscription::checkpoint, upcast::Upcasters};
use aihub_projections::{
    account_balance,
    rebuild::{Rebuild, View, checkpoint_name, views},
    usage_daily::{self, Dimension},
    watermark::AsOf,
};
use aihub_tests::{TestDatabase, database};
use sqlx::{Connection, Executor};
use tokio_util::sync::CancellationToken;

use super::{assert_same, catch_up, copy, head, open_books, rows, run, subscriptions, trade, usage, videos};

async fn begin(database: &TestDatabase, view: &Arc<dyn View>) -> Rebuild {
    Rebuild::begin(&database.database, Arc::new(Upcasters::default()), view.clone()).await.unwrap()
}

async fn rebuild(database: &TestDatabase, view: &Arc<dyn View>) -> u64 {
    begin(database, view).await.run(|_| ()).await.unwrap()
}

/// Of the tables of the schema: columns, comments, constraints, indexes, settings and grants.
async fn definitions(database: &TestDatabase) -> Vec<String> {
    copy(
        database,
        "SELECT c.relname, c.relkind, c.reloptions, c.relacl, obj_description(c.oid, 'pg_class'),
                (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                             a.attcollation::regcollation, col_description(c.oid, a.attnum)), ',' ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
                (SELECT string_agg(n.conname || ' ' || pg_get_constraintdef(n.oid), ',' ORDER BY n.conname)
                 FROM pg_constraint n WHERE n.conrelid = c.oid),
                CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END
         FROM pg_class c WHERE c.relnamespace = 'read'::regnamespace ORDER BY c.relname",
    )
    .await
}

#[tokio::test]
async fn a_view_that_is_rebuilt_has_the_same_rows_to_the_byte_and_is_defined_the_same() {
    let database = database().await;
    let books = open_books(&database).await;
    // Filled in pieces at first, in one go later.
    for from in [0, 13, 41, 60] {
        trade(&books, from..from + 13).await;
        videos::film(&books, from..from + 13).await;
        catch_up(&database).await;
    }
    let defined = definitions(&database).await;
    for view in views() {
        let before = rows(&database, &*view).await;
        assert_eq!(rebuild(&database, &view).await, head(&database).await);
        assert_same(view.name(), &rows(&database, &*view).await, &before);
    }
    assert_same("definitions", &definitions(&database).await, &defined);
    assert!(copy(&database, "SELECT * FROM pg_class WHERE relnamespace = 'read_next'::regnamespace").await.is_empty());
    assert!(copy(&database, "SELECT * FROM subscriptions WHERE name LIKE '%+rebuild'").await.is_empty());
}

#[tokio::test]
async fn a_rebuild_that_is_cut_off_goes_on_where_it_was_while_the_live_view_is_read_and_fed() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..700).await;
    let (subscriptions, _guard) = subscriptions(&database);
    for view in views() {
        subscriptions.run(view);
    }
    let is_done = CancellationToken::new();
    let trading = async {
        let mut from = 700;
        while !is_done.is_cancelled() {
            trade(&books, from..from + 20).await;
            from += 20;
        }
    };
    let rebuilding = async {
        for view in views() {
            let mut cut_off = begin(&database, &view).await;
            let mut reached = 0;
            cut_off.catch_up(&mut |progress| reached = progress.position).await.unwrap();
            assert!(reached > 0);
            drop(cut_off);
            let name = checkpoint_name(&*view);
            let kept = checkpoint::status(database.pool(), &name).await.unwrap().unwrap().position;
            assert_eq!(kept, reached, "{name}");

            let mut least = u64::MAX;
            // The server may need a moment to see that the first one is gone.
            let resumed = loop {
                let begun = Rebuild::begin(&database.database, Arc::default(), view.clone()).await;
                if let Ok(begun) = begun {
                    break begun;
                }
                tokio::task::yield_now().await;
            };
            resumed.run(|progress| least = least.min(progress.position)).await.unwrap();
            assert!(least >= reached, "{name} began again at {least}");
        }
        is_done.cancel();
    };
    tokio::join!(trading, rebuilding);
    let head = head(&database).await;
    for view in views() {
        subscriptions.wait_for(view.name(), head, aihub_tests::PATIENCE).await.unwrap();
        let live = rows(&database, &*view).await;
        rebuild(&database, &view).await;
        assert_same(view.name(), &rows(&database, &*view).await, &live);
    }
}

#[tokio::test]
async fn two_rebuilds_of_one_view_do_not_meet() {
    let database = database().await;
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let _first = begin(&database, &view).await;
    let second = Rebuild::begin(&database.database, Arc::default(), view).await.err().unwrap();
    assert!(second.to_string().contains("being rebuilt already"), "{second}");
}

#[tokio::test]
async fn a_view_that_is_fed_from_elsewhere_is_not_replaced_by_an_empty_one() {
    let database = database().await;
    sqlx::query("INSERT INTO subscriptions VALUES ('account_balance_v1', 9, $1, now())")
        .bind(vec![7_u8; 32])
        .execute(database.pool())
        .await
        .unwrap();
    let refused = Rebuild::begin(&database.database, Arc::default(), Arc::new(account_balance::View)).await;
    assert!(refused.err().unwrap().to_string().contains("fed from elsewhere"));
}

#[tokio::test]
async fn a_reader_during_a_rebuild_never_sees_a_half_filled_view() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    let head = head(&database).await;
    catch_up(&database).await;
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let daily: Arc<dyn View> = Arc::new(usage_daily::View);
    run(&database, view.clone()).await.unwrap();
    let spent = books.accounts.load("acme").await.unwrap().spent().0;
    let total = usage_daily::report(database.pool(), &usage::everything(), &[]).await.unwrap();
    let is_rebuilt = CancellationToken::new();
    let rebuilding = async {
        for _ in 0..10 {
            rebuild(&database, &view).await;
            rebuild(&database, &daily).await;
        }
        is_rebuilt.cancel();
    };
    let reading = async {
        while !is_rebuilt.is_cancelled() {
            let AsOf { position, value } = account_balance::find(database.pool(), "acme").await.unwrap();
            assert_eq!((position, value.unwrap().spent_microcredits), (head, spent));
        }
    };
    let reporting = async {
        while !is_rebuilt.is_cancelled() {
            assert_eq!(usage_daily::report(database.pool(), &usage::everything(), &[]).await.unwrap(), total);
            usage_daily::report(database.pool(), &usage::everything(), &[Dimension::Day]).await.unwrap();
        }
    };
    tokio::join!(rebuilding, reading, reporting);
}

#[tokio::test]
async fn copies_that_somebody_else_has_made_meanwhile_replace_nothing() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    catch_up(&database).await;
    for view in views() {
        let before = rows(&database, &*view).await;
        let begun = begin(&database, &view).await;
        for table in view.tables() {
            sqlx::query("SELECT copy_table('read', $1)").bind(table).execute(database.pool()).await.unwrap();
        }
        let refused = begun.run(|_| ()).await.unwrap_err().to_string();
        assert!(refused.contains("are not those that were made"), "{refused}");
        assert_same(view.name(), &rows(&database, &*view).await, &before);
        // The next one does not take what stands there for its own.
        assert_eq!(rebuild(&database, &view).await, head(&database).await);
        assert_same(view.name(), &rows(&database, &*view).await, &before);
    }
}

#[tokio::test]
async fn a_copy_that_is_missing_replaces_nothing() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    catch_up(&database).await;
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let before = rows(&database, &*view).await;
    let begun = begin(&database, &view).await;
    sqlx::query("DROP TABLE read_next.account_balance_v1").execute(database.pool()).await.unwrap();
    begun.run(|_| ()).await.unwrap_err();
    assert_same(view.name(), &rows(&database, &*view).await, &before);
}

#[tokio::test]
async fn an_empty_copy_does_not_take_the_place_of_rows_although_events_were_applied_to_it() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    catch_up(&database).await;
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let before = rows(&database, &*view).await;
    // Whatever made it so: here each row is gone as soon as it is there.
    let begun = begin(&database, &view).await;
    let lose = "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                CREATE TRIGGER lose BEFORE INSERT ON read_next.account_balance_v1 FOR EACH ROW EXECUTE FUNCTION lose()";
    database.pool().execute(lose).await.unwrap();
    let refused = begun.run(|_| ()).await.unwrap_err().to_string();
    assert!(refused.contains("the live one stays as it is"), "{refused}");
    assert_same(view.name(), &rows(&database, &*view).await, &before);
    rebuild(&database, &view).await;
    assert_same(view.name(), &rows(&database, &*view).await, &before);
}

#[tokio::test]
async fn a_rebuild_whose_checkpoint_was_moved_replaces_nothing() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    catch_up(&database).await;
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let before = rows(&database, &*view).await;
    let begun = begin(&database, &view).await;
    let head = reader::head(database.pool()).await.unwrap();
    checkpoint::put(database.pool(), &checkpoint_name(&*view), head).await.unwrap();
    let refused = begun.run(|_| ()).await.unwrap_err().to_string();
    assert!(refused.contains("does not stand where its copy was left"), "{refused}");
    assert_same(view.name(), &rows(&database, &*view).await, &before);
}

#[tokio::test]
async fn a_reader_who_keeps_a_new_view_from_its_place_is_named_and_keeps_nobody_else_waiting() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    catch_up(&database).await;
    let finance = database.login("", &["aihub_finance"]).await;
    let login = finance.url.split_once("://").unwrap().1.split_once(':').unwrap().0.to_owned();
    let mut reading = sqlx::PgConnection::connect(&finance.url).await.unwrap();
    // The limits that he has been given are his to lift.
    reading.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0").await.unwrap();
    let mut open = reading.begin().await.unwrap();
    open.execute("SELECT * FROM read.account_balance_v1").await.unwrap();
    let view: Arc<dyn View> = Arc::new(account_balance::View);
    let begun = begin(&database, &view).await;
    let (named, has_named) = tokio::sync::oneshot::channel();
    let mut named = Some(named);
    let rebuilding = begun.run(|progress| {
        if let Some(readers) = progress.waits_for
            && let Some(named) = named.take()
        {
            named.send(readers).unwrap();
        }
    });
    let reading = async {
        let readers = has_named.await.unwrap();
        assert!(readers.iter().any(|reader| reader.starts_with(&login)), "{readers:?}");
        for _ in 0..20 {
            account_balance::find(database.pool(), "acme").await.unwrap();
        }
        open.rollback().await.unwrap();
    };
    let (rebuilt, ()) = tokio::join!(rebuilding, reading);
    assert_eq!(rebuilt.unwrap(), head(&database).await);
}
