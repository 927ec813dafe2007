//! Another master key. Every subject's key is wrapped anew; what they sealed, and so the log, stays as it is.
//!
//! Both master keys are configured meanwhile, on all nodes: each row names the one that it is wrapped with. It can be
//! broken off at any time and goes on where it was.

use chrono::NaiveDate;
use sqlx::Connection;

use super::{content_key, master_key::MasterKeys};
use crate::database::Database;

/// Wrapped anew in one transaction.
const BATCH: i64 = 500;

/// What a rotation came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotated {
    pub keys: u64,
    /// Wrapped with a key that is not configured, or changed: they were left alone.
    pub unreadable: u64,
}

/// Wraps every key that is not wrapped with the current master key.
pub async fn rotate(
    database: &Database,
    masters: &MasterKeys,
    mut progress: impl FnMut(u64),
) -> Result<Rotated, sqlx::Error> {
    let mut connection = database.dedicated("aihub-keys", &[]).await?;
    let current = masters.current.id();
    let mut rotated = Rotated::default();
    // In the order of the names: before all of them.
    let mut after = (String::new(), String::new(), NaiveDate::default());
    loop {
        let mut transaction = connection.begin().await?;
        // Another rotation waits here; an erasure comes before or after.
        let rows = sqlx::query!(
            r#"SELECT subject, kind, month, wrapped_key AS "wrapped_key!", master_key_id FROM subject_keys
               WHERE (subject, kind, month) > ($1, $2, $3) AND wrapped_key IS NOT NULL AND master_key_id <> $4
               ORDER BY subject, kind, month LIMIT $5 FOR UPDATE"#,
            after.0,
            after.1,
            after.2,
            current,
            BATCH
        )
        .fetch_all(&mut *transaction)
        .await?;
        let is_last = rows.len() < usize::try_from(BATCH).unwrap_or_default();
        for row in rows {
            let name = content_key(row.subject, &row.kind, row.month)?;
            after = (name.subject.clone(), name.kind.to_string(), name.month);
            let unwrapped = masters.find(&row.master_key_id).and_then(|master| master.unwrap(&name, &row.wrapped_key));
            let Some(wrapped) = unwrapped.and_then(|key| masters.current.wrap(&name, &key)) else {
                rotated.unreadable += 1;
                continue;
            };
            sqlx::query!(
                "UPDATE subject_keys SET wrapped_key = $4, master_key_id = $5
                 WHERE subject = $1 AND kind = $2 AND month = $3",
                name.subject,
                name.kind.as_str(),
                name.month,
                wrapped,
                current
            )
            .execute(&mut *transaction)
            .await?;
            rotated.keys += 1;
        }
        transaction.commit().await?;
        progress(rotated.keys);
        if is_last {
            return Ok(rotated);
        }
    }
}
