//! The moment in which a rebuilt view takes the place of the live one.

use aihub_infrastructure::event_store::{reader, subscription::checkpoint};
use sqlx::{Connection, PgConnection};

use super::{Rebuild, checkpoint_name};

/// Not longer do we wait for whoever reads the live tables: whoever comes behind us waits as well. Also the code of a
/// statement that was given up because of it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
const LOCK_NOT_AVAILABLE: &str = "55P03";
const DEADLOCK: &str = "40P01";

impl Rebuild {
    /// Puts the copy in the live view's place, all in one transaction. `None` if somebody read the live one for so long
    /// that it could not be locked: then nothing has changed.
    pub(super) async fn swap(&mut self) -> anyhow::Result<Option<u64>> {
        let (view, scan) = (self.view.clone(), &self.scan);
        let mut transaction = self.connection.begin().await?;
        sqlx::query(LOCK_TIMEOUT).execute(&mut *transaction).await?;
        // The tables first, then the checkpoint, as a runner of the live view takes them.
        for table in view.tables() {
            match sqlx::query(&format!("LOCK TABLE read.{table} IN ACCESS EXCLUSIVE MODE"))
                .execute(&mut *transaction)
                .await
            {
                Ok(_) => {}
                Err(sqlx::Error::Database(error))
                    if error.code().is_some_and(|code| [LOCK_NOT_AVAILABLE, DEADLOCK].contains(&&*code)) =>
                {
                    transaction.rollback().await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        sqlx::query("SET LOCAL lock_timeout = 0").execute(&mut *transaction).await?;
        checkpoint::lock(&mut transaction, view.name()).await?;
        let head = reader::head(&mut *transaction).await?.position;
        let mut at = self.checkpoint;
        while at.position < head {
            let stretch = scan.read(&mut transaction, at.position, head).await?;
            view.apply(&mut transaction, &stretch.entries).await?;
            at = stretch.to;
        }
        for table in view.tables() {
            move_in(&mut transaction, table).await?;
        }
        checkpoint::load(&mut transaction, view.name()).await?;
        checkpoint::put(&mut *transaction, view.name(), at).await?;
        checkpoint::remove(&mut *transaction, &checkpoint_name(&*view)).await?;
        transaction.commit().await?;
        Ok(Some(at.position))
    }
}

async fn move_in(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    sqlx::query(&format!("DROP TABLE read.{table}")).execute(&mut *connection).await?;
    sqlx::query(&format!("ALTER TABLE read_next.{table} SET SCHEMA read")).execute(&mut *connection).await?;
    Ok(())
}
