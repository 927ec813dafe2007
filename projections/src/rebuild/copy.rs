//! The tables that a rebuild fills.

use aihub_infrastructure::event_store::{chain::ChainHead, scan::head_at, subscription::checkpoint};
use anyhow::ensure;
use sqlx::{Connection, PgConnection, PgTransaction, postgres::types::Oid};

use super::{View, checkpoint_name};

/// Stated in every transaction that applies anything: what a handler names without a schema is the copy, and nothing that is
/// read. A copy that is missing is an error then.
const SEARCH_PATH: &str = "SET LOCAL search_path = read_next, public";

/// The copies that are being filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies(Vec<Oid>);

impl Copies {
    /// Takes up the rebuild that was cut off, if its checkpoint fits the log and its copies are those that it filled; otherwise
    /// empty copies are made.
    pub async fn begin(
        connection: &mut PgConnection,
        log: &mut PgConnection,
        view: &dyn View,
    ) -> anyhow::Result<(Self, ChainHead)> {
        let name = checkpoint_name(view);
        let mut transaction = connection.begin().await?;
        let known = checkpoint::lock(&mut transaction, &name).await?;
        let filled: Option<Vec<Oid>> = sqlx::query_scalar("SELECT copies FROM rebuilds WHERE handler = $1")
            .bind(view.name())
            .fetch_optional(&mut *transaction)
            .await?;
        if let (Some(known), Some(filled)) = (known, filled.map(Self))
            && Self::there(&mut transaction, view).await?.as_ref() == Some(&filled)
            && head_at(log, known.position).await.is_ok_and(|head| head == known)
        {
            return Ok((filled, known));
        }
        let mut copies = Vec::new();
        for table in view.tables() {
            let copy = sqlx::query_scalar("SELECT copy_table($1, $2)").bind(view.schema()).bind(table);
            copies.push(copy.fetch_one(&mut *transaction).await?);
        }
        sqlx::query(
            "INSERT INTO rebuilds VALUES ($1, $2, 0)
             ON CONFLICT ON CONSTRAINT rebuilds_pkey DO UPDATE SET copies = excluded.copies, events = 0",
        )
        .bind(view.name())
        .bind(&copies)
        .execute(&mut *transaction)
        .await?;
        checkpoint::remove(&mut *transaction, &name).await?;
        let begun = checkpoint::load(&mut transaction, &name).await?;
        transaction.commit().await?;
        Ok((Self(copies), begun))
    }

    /// What stands in `read_next` under the names of the view's tables; `None` where one is missing.
    async fn there(connection: &mut PgConnection, view: &dyn View) -> Result<Option<Self>, sqlx::Error> {
        let mut there = Vec::new();
        for table in view.tables() {
            let copy = sqlx::query_scalar("SELECT to_regclass('read_next.' || $1)::oid").bind(table);
            let Some(copy) = copy.fetch_one(&mut *connection).await? else { return Ok(None) };
            there.push(copy);
        }
        Ok(Some(Self(there)))
    }

    /// Has the names of the view's tables mean the copies in this transaction, or fails.
    pub async fn name(&self, transaction: &mut PgTransaction<'_>, view: &dyn View) -> anyhow::Result<()> {
        sqlx::query(SEARCH_PATH).execute(&mut **transaction).await?;
        let tables = view.tables();
        let named: Vec<Option<Oid>> = sqlx::query_scalar(
            "SELECT to_regclass(name)::oid FROM unnest($1::text[]) WITH ORDINALITY AS t (name, nth) ORDER BY nth",
        )
        .bind(tables)
        .fetch_all(&mut **transaction)
        .await?;
        let are_copies = named.iter().copied().eq(self.0.iter().map(|oid| Some(*oid)));
        ensure!(are_copies, "the copies of {} are not those that were made", view.name());
        Ok(())
    }

    /// Counts events that were applied to the copies, in the same transaction.
    pub async fn count(
        &self,
        transaction: &mut PgTransaction<'_>,
        view: &dyn View,
        events: usize,
    ) -> anyhow::Result<()> {
        let count = sqlx::query("UPDATE rebuilds SET events = events + $3 WHERE handler = $1 AND copies = $2");
        let count = count.bind(view.name()).bind(&self.0).bind(i64::try_from(events)?);
        let counted = count.execute(&mut **transaction).await?.rows_affected();
        ensure!(counted == 1, "another rebuild of {} has begun", view.name());
        Ok(())
    }

    /// Fails where the copies cannot be what was made from the log: events were applied to them, the live tables have rows of these,
    /// and they have none.
    pub async fn require_rows(&self, transaction: &mut PgTransaction<'_>, view: &dyn View) -> anyhow::Result<()> {
        let events: i64 = sqlx::query_scalar("SELECT events FROM rebuilds WHERE handler = $1 AND copies = $2")
            .bind(view.name())
            .bind(&self.0)
            .fetch_one(&mut **transaction)
            .await?;
        if events == 0 || !view.keeps_rows() {
            return Ok(());
        }
        let (copied, live) =
            (has_rows(transaction, view, "read_next").await?, has_rows(transaction, view, view.schema()).await?);
        ensure!(
            copied || !live,
            "{events} events were applied and the copy of {} is empty: the live one stays as it is. A new rebuild begins anew",
            view.name()
        );
        Ok(())
    }

    /// Puts them in the place of the live tables, which are locked.
    pub async fn move_in(&self, transaction: &mut PgTransaction<'_>, view: &dyn View) -> Result<(), sqlx::Error> {
        for (table, copy) in view.tables().iter().zip(&self.0) {
            let replace = sqlx::query("SELECT replace_table($1, $2, $3)").bind(view.schema()).bind(table).bind(copy);
            replace.execute(&mut **transaction).await?;
        }
        sqlx::query("DELETE FROM rebuilds WHERE handler = $1").bind(view.name()).execute(&mut **transaction).await?;
        Ok(())
    }
}

async fn has_rows(connection: &mut PgConnection, view: &dyn View, schema: &str) -> Result<bool, sqlx::Error> {
    for table in view.tables() {
        let has_rows = format!("SELECT EXISTS (SELECT FROM {schema}.{table})");
        if sqlx::query_scalar(&has_rows).fetch_one(&mut *connection).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Forgets what was done: the next rebuild begins anew.
pub async fn give_up(connection: &mut PgConnection, view: &dyn View) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM rebuilds WHERE handler = $1").bind(view.name()).execute(connection).await?;
    Ok(())
}
