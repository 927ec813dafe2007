//! No node harms another: what a wrong clock, other settings, another key or a shutdown of one does to those beside it.

mod clocks;
mod endings;
mod keys;
mod readiness;
mod resuming;
mod rights;
mod settings;
mod watchdog;

use aihub_tests::app::TestApp;

/// Everything that the node tells its operators.
async fn notices(app: &TestApp) -> String {
    let (_, _, ready) = app.get("/health/ready", None).await;
    ready["notices"].to_string()
}
