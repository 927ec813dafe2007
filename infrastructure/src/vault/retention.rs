//! Keys whose content is too old by now, by the rules and by the database's clock.

use aihub_domain::{content::ContentKey, retention::expires_on};
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{content_key, rules::ContentRules};

/// Keys that are looked through at once.
const PAGE: i64 = 1_000;

/// All of them, and what time it is.
pub async fn due_keys(pool: &PgPool, rules: &ContentRules) -> Result<(Vec<ContentKey>, DateTime<Utc>), sqlx::Error> {
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(pool).await?;
    let today = now.date_naive();
    let mut due = Vec::new();
    let mut after = (String::new(), String::new(), today);
    loop {
        // The running month is never too old.
        let rows = sqlx::query!(
            "SELECT subject, kind, month FROM subject_keys
             WHERE (subject, kind, month) > ($1, $2, $3) AND destroyed_at IS NULL
                   AND month + interval '1 month' <= $4
             ORDER BY subject, kind, month LIMIT $5",
            after.0,
            after.1,
            after.2,
            today.and_time(chrono::NaiveTime::MIN),
            PAGE
        )
        .fetch_all(pool)
        .await?;
        let is_last = rows.len() < usize::try_from(PAGE).unwrap_or_default();
        for row in rows {
            let key = content_key(row.subject, &row.kind, row.month)?;
            after = (key.subject.clone(), key.kind.to_string(), key.month);
            let days = rules.retention_days(&key.subject, key.kind);
            if days.and_then(|days| expires_on(key.month, days)).is_some_and(|expires_on| expires_on <= today) {
                due.push(key);
            }
        }
        if is_last {
            return Ok((due, now));
        }
    }
}
