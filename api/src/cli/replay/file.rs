use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use aihub_infrastructure::{
    audit::{
        file::{LogFile, export},
        hex,
        restore::restore,
    },
    database::{Database, DatabaseOptions},
    event_store::{subscription::Subscriptions, upcast::Upcasters},
};
use anyhow::Context;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bootstrap::handlers,
    cli::{
        audit::Finding,
        output::{out_line, progress, progress_done, remark},
    },
    config::Config,
};

/// How many events lie between two looks at the progress.
const PROGRESS_EVERY: u64 = 4_096;

/// The whole log into a file that is made for it.
pub async fn write(database: &Database, path: &Path) -> anyhow::Result<()> {
    let file = tokio::fs::File::create_new(path).await.with_context(|| path.display().to_string())?;
    let written = export(database, (1, None), file, |position| {
        if position % PROGRESS_EVERY == 0 {
            progress(format_args!("{position} events"));
        }
    })
    .await;
    progress_done();
    match written {
        Ok((head, contents)) => {
            out_line(format_args!("{} events, chain {}", head.position, hex(&head.chain_hash)))?;
            remark(format_args!("of the content that they name {contents}"))?;
            Ok(remark("the keys of sealed content are not in it: keep `subject_keys` and the master key apart")?)
        }
        Err(error) => {
            // Half a log is none.
            std::fs::remove_file(path)?;
            Err(Finding::from(error).into())
        }
    }
}

/// A whole system from a file: the log with its positions and hashes, and every view.
pub async fn restore_into(config: &Config, url: &str, path: &Path) -> anyhow::Result<()> {
    let file = LogFile::open(BufReader::with_capacity(
        256 << 10,
        File::open(path).with_context(|| path.display().to_string())?,
    ))
    .map_err(Finding::from)?;
    let database = Database::connect(&DatabaseOptions::new(url)).await?;
    if database.migrate().await? {
        config.database.roles().make(&database).await?;
    }
    let restored = restore(&database, file, |position| progress(format_args!("{position} events"))).await;
    progress_done();
    let head = restored.map_err(Finding::from)?;
    out_line(format_args!("{} events, chain {}", head.position, hex(&head.chain_hash)))?;

    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let upcasters = Arc::new(Upcasters::default());
    let subscriptions = Subscriptions::start(database.clone(), upcasters, tasks.clone(), shutdown.clone());
    for handler in handlers() {
        let name = handler.name();
        progress(format_args!("filling {name}"));
        subscriptions.run_until(handler, head.position).await?;
        progress_done();
        out_line(format_args!("{name} is filled"))?;
    }
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    database.pool().close().await;
    Ok(remark("prompts and answers stay sealed: their keys are not in the log")?)
}
