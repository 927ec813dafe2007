//! `aihub migrate`: the schema and who may do what with it, before the nodes of a new version start.

use aihub_infrastructure::{database::Database, roles::Made};

use super::{
    database::with_database,
    output::{out_line, remark},
};
use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    with_database(config, async |database| migrate(config, database).await).await
}

async fn migrate(config: &Config, database: &Database) -> anyhow::Result<()> {
    database.migrate().await?;
    out_line("the schema is up to date")?;
    let names = config.database.roles();
    let Made { missing, unlimited } = names.make(database).await?;
    let login = database.login();
    if !missing.is_empty() {
        remark(format_args!(
            "{login} may not make roles; have an administrator of the server do so, and migrate again:"
        ))?;
        for role in &missing {
            remark(format_args!("    CREATE ROLE {role} NOLOGIN;"))?;
        }
    }
    for reader in unlimited {
        remark(format_args!(
            "{reader} reads the views without limits, and {login} may not set any; have an administrator run:\n    \
             ALTER ROLE {reader} CONNECTION LIMIT 10;\n    \
             ALTER ROLE {reader} SET statement_timeout = '60s';\n    \
             ALTER ROLE {reader} SET idle_in_transaction_session_timeout = '60s';\n    \
             ALTER ROLE {reader} SET lock_timeout = '5s';"
        ))?;
    }
    let made: Vec<&str> = [&names.service, &names.finance, &names.auditor, &names.writer]
        .into_iter()
        .filter(|role| !missing.contains(role))
        .map(String::as_str)
        .collect();
    Ok(out_line(format_args!("the roles have their rights: {}", made.join(", ")))?)
}
