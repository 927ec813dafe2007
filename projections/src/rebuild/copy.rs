//! The tables that a rebuild fills.

use aihub_infrastructure::event_store::{chain::ChainHead, scan::head_at, subscription::checkpoint};
use sqlx::{Connection, PgConnection};

use super::{View, checkpoint_name};

/// The checkpoint of the rebuild that was cut off, if there is one that fits the log; otherwise empty copies are made.
pub async fn begin(
    connection: &mut PgConnection,
    log: &mut PgConnection,
    view: &dyn View,
) -> anyhow::Result<ChainHead> {
    let name = checkpoint_name(view);
    let mut transaction = connection.begin().await?;
    let known = checkpoint::lock(&mut transaction, &name).await?;
    if let Some(known) = known
        && are_there(&mut transaction, view).await?
        && head_at(log, known.position).await.is_ok_and(|head| head == known)
    {
        return Ok(known);
    }
    for table in view.tables() {
        sqlx::query(&format!("DROP TABLE IF EXISTS read_next.{table}")).execute(&mut *transaction).await?;
        sqlx::query("SELECT copy_read_table($1, 'read_next')").bind(table).execute(&mut *transaction).await?;
    }
    checkpoint::remove(&mut *transaction, &name).await?;
    let begun = checkpoint::load(&mut transaction, &name).await?;
    transaction.commit().await?;
    Ok(begun)
}

async fn are_there(connection: &mut PgConnection, view: &dyn View) -> Result<bool, sqlx::Error> {
    for table in view.tables() {
        let there: bool = sqlx::query_scalar("SELECT to_regclass('read_next.' || $1) IS NOT NULL")
            .bind(table)
            .fetch_one(&mut *connection)
            .await?;
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}
