//! Pieces that nobody can open any more, because their key was destroyed, are taken away: then they are not in the next
//! backup, and their room is free.

use sqlx::PgPool;

/// Keys that are looked after in one go, and rows that are deleted in one statement.
const MAX_KEYS: i64 = 100;
const BATCH: i64 = 1_000;

/// Deletes what is there of some keys; how many keys are done. Zero is the end. A node that was cut off when a key was
/// destroyed may use it for a minute more, so its pieces stay for some minutes.
pub async fn sweep(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let keys = sqlx::query!(
        "SELECT subject, kind, month FROM subject_keys
         WHERE destroyed_at < now() - interval '5 minutes' AND swept_at IS NULL
         ORDER BY destroyed_at LIMIT $1",
        MAX_KEYS
    )
    .fetch_all(pool)
    .await?;
    for key in &keys {
        loop {
            let deleted = sqlx::query!(
                "DELETE FROM contents WHERE subject = $1 AND kind = $2 AND month = $3 AND hash = ANY(ARRAY(
                     SELECT hash FROM contents WHERE subject = $1 AND kind = $2 AND month = $3 LIMIT $4))",
                key.subject,
                key.kind,
                key.month,
                BATCH
            );
            if deleted.execute(pool).await?.rows_affected() < BATCH.cast_unsigned() {
                break;
            }
        }
        sqlx::query!(
            "UPDATE subject_keys SET swept_at = now() WHERE subject = $1 AND kind = $2 AND month = $3",
            key.subject,
            key.kind,
            key.month
        )
        .execute(pool)
        .await?;
    }
    Ok(keys.len())
}
