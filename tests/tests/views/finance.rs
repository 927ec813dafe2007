//! The role of finance: it reads the views and nothing else, and finds every column explained.

use aihub_tests::database;

use super::copy;

#[tokio::test]
async fn finance_reads_every_view_and_nothing_else() {
    let database = database().await;
    let tables = |schema: &str| {
        format!("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = '{schema}'")
    };
    let mut finance = database.pool().acquire().await.unwrap();
    sqlx::query("SET ROLE aihub_finance").execute(&mut *finance).await.unwrap();
    let views = copy(&database, &tables("read")).await;
    assert!(views.len() > 7);
    for table in views {
        sqlx::query(&format!("SELECT * FROM {table}")).execute(&mut *finance).await.unwrap();
        let change = sqlx::query(&format!("DELETE FROM {table}")).execute(&mut *finance).await;
        assert!(change.unwrap_err().to_string().contains("permission denied"), "{table}");
    }
    for schema in ["public", "work"] {
        for table in copy(&database, &tables(schema)).await {
            let refused = sqlx::query(&format!("SELECT * FROM {table}")).execute(&mut *finance).await;
            assert!(refused.unwrap_err().to_string().contains("permission denied"), "{table}");
        }
    }
    sqlx::query("RESET ROLE").execute(&mut *finance).await.unwrap();
}

#[tokio::test]
async fn every_view_and_every_column_is_explained() {
    let database = database().await;
    let silent = copy(
        &database,
        "SELECT c.relname, a.attname FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = 'read'::regnamespace AND c.relkind = 'r'
           AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)",
    );
    assert_eq!(silent.await, [""; 0]);
}
