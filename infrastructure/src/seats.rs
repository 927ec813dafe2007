//! Seats in queues of limited length, taken one after another in the database, by whichever node.

use aihub_application::ports::seats::{Applicant, Depth, Seats, Taken};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgTransaction, query};
use uuid::Uuid;

use crate::database::Database;

#[derive(Debug, Clone)]
pub struct PostgresSeats {
    database: Database,
}

impl PostgresSeats {
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

impl Seats for PostgresSeats {
    fn take<'a>(&'a self, applicant: Applicant<'a>, most: Depth) -> BoxFuture<'a, anyhow::Result<Taken>> {
        async move {
            let taken = query!(
                "CALL take_seat($1, $2, $3, $4, $5, NULL, NULL, NULL)",
                applicant.kind.as_str(),
                applicant.id,
                applicant.account,
                i64::try_from(most.all).unwrap_or(i64::MAX),
                i64::try_from(most.of_account).unwrap_or(i64::MAX),
            );
            let taken = taken.fetch_one(self.database.pool()).await?;
            let count = |count: Option<i64>| count.unwrap_or_default().cast_unsigned();
            let depth = Depth { all: count(taken.waiting), of_account: count(taken.waiting_of_account) };
            Ok(taken.seat.map_or(Taken::Full(depth), Taken::Seat))
        }
        .boxed()
    }

    fn give_back(&self, seat: Uuid) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            query!("DELETE FROM queue_seats WHERE seat_id = $1", seat).execute(self.database.pool()).await?;
            Ok(())
        }
        .boxed()
    }
}

/// For the handler that keeps a queue: in the transaction in which it has put them there.
pub(crate) async fn vacate(transaction: &mut PgTransaction<'_>, arrived: Vec<&str>) -> Result<(), sqlx::Error> {
    if !arrived.is_empty() {
        query!("DELETE FROM queue_seats WHERE aggregate_id = ANY($1)", &arrived as &[&str])
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}
