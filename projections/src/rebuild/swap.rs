//! The moment in which a rebuilt view takes the place of the live one.

use aihub_infrastructure::event_store::{reader, subscription::checkpoint};
use anyhow::ensure;
use sqlx::{Connection, PgConnection};

use super::{Rebuild, View, checkpoint_name, copy::give_up};

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
        // The checkpoint first, then the tables, as a runner of the live view takes them.
        let locked = async {
            checkpoint::lock(&mut transaction, view.name()).await?;
            for table in view.tables() {
                let lock = format!("LOCK TABLE {}.{table} IN ACCESS EXCLUSIVE MODE", view.schema());
                sqlx::query(&lock).execute(&mut *transaction).await?;
            }
            Ok(())
        };
        match locked.await {
            Ok(()) => {}
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| [LOCK_NOT_AVAILABLE, DEADLOCK].contains(&&*code)) =>
            {
                transaction.rollback().await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        sqlx::query("SET LOCAL lock_timeout = 0").execute(&mut *transaction).await?;
        ensure!(self.lease.keep(&mut *transaction).await?, "another rebuild of {} has begun", view.name());
        self.copies.name(&mut transaction, &*view).await?;
        let own = checkpoint_name(&*view);
        let kept = checkpoint::lock(&mut transaction, &own).await?;
        ensure!(kept == Some(self.checkpoint), "{own} does not stand where its copy was left");
        let head = reader::head(&mut *transaction).await?.position;
        let mut at = self.checkpoint;
        while at.position < head {
            let stretch = scan.read(&mut transaction, at.position, head).await?;
            view.apply(&mut transaction, &stretch.entries).await?;
            self.copies.count(&mut transaction, &*view, stretch.entries.len()).await?;
            at = stretch.to;
        }
        if let Err(empty) = self.copies.require_rows(&mut transaction, &*view).await {
            transaction.rollback().await?;
            give_up(&mut self.connection, &*view).await?;
            return Err(empty);
        }
        self.copies.move_in(&mut transaction, &*view).await?;
        checkpoint::load(&mut transaction, view.name()).await?;
        checkpoint::put(&mut *transaction, view.name(), at).await?;
        checkpoint::remove(&mut *transaction, &own).await?;
        self.lease.give_back(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Some(at.position))
    }
}

/// Who keeps the live tables from being replaced, by their logins and since when; as far as we may see it.
pub(super) async fn readers(connection: &mut PgConnection, view: &dyn View) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT DISTINCT format('%s (process %s%s)', a.usename, a.pid, ', since ' || date_trunc('second', a.xact_start))
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.granted AND l.pid <> pg_backend_pid() AND l.locktype = 'relation'
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.relation IN (SELECT to_regclass(format('%I.%I', $1, name))::oid FROM unnest($2::text[]) AS t (name))",
    )
    .bind(view.schema())
    .bind(view.tables())
    .fetch_all(connection)
    .await
}
