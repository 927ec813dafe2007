//! That no stream has a hole, and that each is in the log in its own order.
//!
//! The chain cannot tell: it says that a row follows the one before, whichever stream it belongs to. There are as many
//! streams as requests, so the database sorts them, in 64 MB and on disk beyond that; a million events take it two to three
//! seconds. It sorts by a hash of the name first: names begin alike, and comparing them was a third of the time.

use sqlx::{Executor, PgConnection};

use super::Fault;

/// The streams of the stretch, or the first event that does not follow the one before it in its stream. From 1 on, every
/// stream has to begin with 1.
pub async fn check(connection: &mut PgConnection, from: u64, to: u64) -> Result<Result<u64, Fault>, sqlx::Error> {
    connection.execute("SET LOCAL enable_sort = on; SET LOCAL work_mem = '64MB'").await?;
    let (from, to) = (from.cast_signed(), to.cast_signed());
    let found = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE is_first) AS "streams!",
                  min(position) FILTER (WHERE sequence IS DISTINCT FROM expected OR is_earlier) AS first_bad
           FROM (SELECT position, sequence, previous IS NULL AS is_first,
                        CASE WHEN previous IS NOT NULL THEN previous + 1 WHEN $1 = 1 THEN 1 ELSE sequence END AS expected,
                        position < previous_position AS is_earlier
                 FROM (SELECT position, sequence, lag(sequence) OVER in_stream AS previous,
                              lag(position) OVER in_stream AS previous_position
                       FROM events WHERE position BETWEEN $1 AND $2
                       WINDOW in_stream AS (PARTITION BY hashtextextended(aggregate_id, 0), aggregate_id, aggregate_type
                                            ORDER BY sequence)) AS e) AS e"#,
        from,
        to,
    )
    .fetch_one(&mut *connection)
    .await?;
    let Some(position) = found.first_bad else { return Ok(Ok(found.streams.cast_unsigned())) };
    let at_fault = sqlx::query!(
        r#"SELECT aggregate_type, aggregate_id, sequence,
                  (SELECT max(b.sequence) FROM events b WHERE b.aggregate_type = e.aggregate_type
                   AND b.aggregate_id = e.aggregate_id AND b.position < e.position) AS before
           FROM events e WHERE position = $1 LIMIT 1"#,
        position,
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(Err(Fault {
        position: position.cast_unsigned(),
        what: format!("the stream {} {} has a hole or another order", at_fault.aggregate_type, at_fault.aggregate_id),
        expected: format!("sequence {}", at_fault.before.unwrap_or(0) + 1),
        found: format!("sequence {}", at_fault.sequence),
    }))
}
