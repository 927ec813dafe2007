//! The workflows: what is configured of them, and the loop that does them on one node at a time.

use std::sync::Arc;

use aihub_application::{videos::Videos, workflows::Workflows};
use aihub_infrastructure::{database::Database, leadership::lead, open_workflows::PostgresWorkflows};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{auth::roles::Roles, config::Config};

/// Ends with `stop`.
pub fn start(
    config: &Config,
    videos: Arc<Videos>,
    roles: Roles,
    database: &Database,
    (workers, stop): (&TaskTracker, &CancellationToken),
) -> Arc<Workflows> {
    let list = PostgresWorkflows::new(database.clone());
    let workflows = Arc::new(Workflows {
        settings: config.workflow_settings(),
        types: config.workflow_types(),
        videos,
        list: Arc::new(list),
        capabilities: Arc::new(move |names: &[String]| roles.capabilities(names)),
    });
    let driven = workflows.clone();
    let drive = move |stop| driven.clone().drive(stop);
    workers.spawn(lead(database.clone(), "workflows", stop.clone(), drive));
    workflows
}
