//! The same batches in one `INSERT`, into the same columns and indexes, with neither lock nor check nor chain: what
//! the promises are paid against.

use aihub_infrastructure::{database::Database, event_store::batch::column::Jsons};
use futures::future::join;
use sqlx::{PgConnection, PgPool, types::Uuid};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::event::{EVENT_TYPE, TYPE, metadata, payload};

const BATCH: usize = 256;

struct Row {
    aggregate_id: String,
    payload: String,
    metadata: String,
    command_id: Uuid,
    done: oneshot::Sender<()>,
}

/// A queue and a connection that takes all that waits in it, as the log's writer does.
pub struct BareWriter {
    queue: mpsc::Sender<Row>,
}

pub async fn create(pool: &PgPool) {
    let statements = [
        "CREATE TABLE bare (LIKE events)",
        "CREATE SEQUENCE bare_position CACHE 256",
        "ALTER TABLE bare ALTER position SET DEFAULT nextval('bare_position'), ALTER recorded_at SET DEFAULT now()",
        "ALTER TABLE bare ADD PRIMARY KEY (aggregate_type, aggregate_id, sequence), ADD UNIQUE (position)",
        "CREATE UNIQUE INDEX ON bare (command_id) WHERE command_id IS NOT NULL",
    ];
    for statement in statements {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}

impl BareWriter {
    pub async fn start(database: &Database) -> Self {
        let mut connection = database.dedicated("bare", &[]).await.unwrap();
        let (queue, mut waiting) = mpsc::channel(8192);
        TaskTracker::new().spawn(async move {
            let mut untold: Vec<Row> = Vec::new();
            loop {
                let mut rows = Vec::new();
                if waiting.is_empty() {
                    tell(std::mem::take(&mut untold));
                }
                if waiting.recv_many(&mut rows, BATCH).await == 0 {
                    return;
                }
                join(insert(&mut connection, &rows), async { tell(untold) }).await;
                untold = rows;
            }
        });
        Self { queue }
    }

    pub async fn append(&self, aggregate_id: &str) -> u64 {
        let (done, inserted) = oneshot::channel();
        let metadata: std::collections::BTreeMap<_, _> = metadata().into_iter().collect();
        let row = Row {
            aggregate_id: aggregate_id.to_owned(),
            payload: payload(),
            metadata: serde_json::to_string(&metadata).unwrap(),
            command_id: Uuid::now_v7(),
            done,
        };
        self.queue.send(row).await.unwrap();
        inserted.await.unwrap();
        1
    }
}

fn tell(rows: Vec<Row>) {
    for row in rows {
        row.done.send(()).unwrap();
    }
}

async fn insert(connection: &mut PgConnection, rows: &[Row]) {
    fn column<'a, T>(rows: &'a [Row], of: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    fn jsons(rows: &[Row], of: impl Fn(&Row) -> &str) -> Jsons {
        let mut jsons = Jsons::default();
        for row in rows {
            jsons.push(of(row).as_bytes());
        }
        jsons
    }
    sqlx::query(
        "INSERT INTO bare (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                           command_id, leaf_hash, chain_hash)
         SELECT e.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::json[],
                                $7::json[], $8::uuid[], $9::bytea[], $10::bytea[]) AS e",
    )
    .bind(vec![TYPE; rows.len()])
    .bind(column(rows, |row| row.aggregate_id.as_str()))
    .bind(vec![1_i64; rows.len()])
    .bind(vec![EVENT_TYPE; rows.len()])
    .bind(vec!["1"; rows.len()])
    .bind(jsons(rows, |row| &row.payload))
    .bind(jsons(rows, |row| &row.metadata))
    .bind(column(rows, |row| row.command_id))
    .bind(vec![[0_u8; 32].as_slice(); rows.len()])
    .bind(vec![[0_u8; 32].as_slice(); rows.len()])
    .execute(connection)
    .await
    .unwrap();
}
