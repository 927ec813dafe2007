//! The commands of the one binary. Without one it is `serve`.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong (those of `audit` stand there), 78 (`EX_CONFIG` of sysexits.h) the configuration is
//! wrong, 130 interrupted.

mod access;
mod account;
mod audit;
mod chat;
mod close;
mod config;
mod database;
mod erase;
mod health;
mod keys;
mod migrate;
mod output;
mod project;
mod projections;
mod reason;
mod reconcile;
mod relay;
mod replay;
mod report;
mod reprice;
mod secret_arg;
mod serve;
mod simulate;
mod token;
mod videos;
mod webhooks;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    config::{Config, Flag, Sources, error::ConfigError, layers::process_variables},
    telemetry,
};

const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 78;
const INTERRUPTED: u8 = 130;

/// An AI gateway that meters what it passes on.
#[derive(Debug, Parser)]
#[command(name = "aihub", version)]
pub struct Cli {
    /// The configuration file [default: aihub.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where development keeps its database and its secrets [default: .aihub]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Of `serve`, which is meant without a command.
    #[command(flatten)]
    serve: serve::Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service; what is meant when no command is given
    Serve(serve::Serve),
    /// Ask a running service a question and print the answer as it comes
    Chat(chat::Chat),
    /// Print a token for development or a script
    Token(token::Token),
    /// Look after credit accounts
    #[command(subcommand)]
    Account(account::Account),
    /// Prove that the log is what was recorded
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Play the log again: up to a moment, into a file, or from a file into an empty database
    Replay(replay::Replay),
    /// Erase all content of a subject for good
    Erase(erase::Erase),
    /// Look after the keys that content is sealed with
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Close an accounting month: its figures are final, what is recorded later counts for an open one
    Close(close::Close),
    /// Look after the views of the log
    #[command(subcommand)]
    Projections(projections::Projections),
    /// Print a report of finance, or write it to a file
    #[command(subcommand)]
    Report(report::Report),
    /// Compare a provider's own usage export with ours
    Reconcile(reconcile::Reconcile),
    /// What a month would have cost at other prices; with --apply, credit and debit notes for the difference
    Reprice(reprice::Reprice),
    /// Decide about video jobs of which it cannot be known whether a provider has them
    #[command(subcommand)]
    Videos(videos::Videos),
    /// Look after what clients are told of their videos
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// Bring the database schema up to date
    Migrate,
    /// Feed the views of another database from Kafka
    Project(project::Project),
    /// Publish events to Kafka again
    Relay(relay::Relay),
    /// Run the simulated providers alone
    Simulate(simulate::Simulate),
    /// Print the configuration in effect, with secrets masked
    Config,
    /// Ask a running service whether it is ready
    Health(health::Health),
}

/// The signal to stop came before the command was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// How long calls that block a thread are waited for at the end: a disk that hangs keeps nobody from it.
const BLOCKED_CALLS: Duration = Duration::from_secs(1);

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&error.into());
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli.run());
    runtime.shutdown_timeout(BLOCKED_CALLS);
    code
}

impl Cli {
    /// Runs the command to its end.
    pub async fn run(self) -> ExitCode {
        match Box::pin(self.dispatch()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tell(&error);
                ExitCode::from(exit_code(&error))
            }
        }
    }

    async fn dispatch(self) -> anyhow::Result<()> {
        let mut flags: Vec<Flag> = self.serve.flags().collect();
        let command = self.command.unwrap_or_else(|| Command::Serve(serve::Serve::default()));
        if let (Some(flag), false) = (flags.first(), matches!(command, Command::Serve(_))) {
            bail!("{} goes with serve alone", flag.name);
        }
        flags.extend(self.data_dir.map(|value| Flag { name: "--data-dir", key: "server.data_dir", value }));
        if let Command::Serve(serve) = &command {
            flags.extend(serve.flags());
        }
        let variables = process_variables();
        let wants_log = variables.iter().any(|(name, value)| name == "RUST_LOG" && !value.is_empty());
        let config = Config::load(&Sources { file: self.config, variables, flags })?;
        let serves = matches!(command, Command::Serve(_) | Command::Simulate(_) | Command::Project(_));
        let filter = if serves || wants_log { config.log.filter.as_str() } else { "error" };
        telemetry::log(filter, config.log.format)?;
        match command {
            // What builds the service is much larger than any other command, and need not be on everybody's stack.
            Command::Serve(_) => Box::pin(serve::run(config)).await,
            Command::Chat(chat) => chat.run(&config).await,
            Command::Token(token) => token.run(&config),
            Command::Account(account) => account.run(&config).await,
            Command::Audit(audit) => audit.run(&config).await,
            Command::Replay(replay) => replay.run(&config).await,
            Command::Erase(erase) => erase.run(&config).await,
            Command::Keys(keys) => keys.run(&config).await,
            Command::Close(close) => close.run(&config).await,
            Command::Projections(projections) => projections.run(&config).await,
            Command::Project(project) => project.run(&config).await,
            Command::Relay(relay) => relay.run(&config).await,
            Command::Report(report) => report.run(&config).await,
            Command::Reconcile(reconcile) => reconcile.run(&config).await,
            Command::Reprice(reprice) => reprice.run(&config).await,
            Command::Videos(videos) => videos.run(&config).await,
            Command::Webhooks(webhooks) => webhooks.run(&config).await,
            Command::Migrate => migrate::run(&config).await,
            Command::Simulate(simulate) => simulate.run().await,
            Command::Config => config::run(&config),
            Command::Health(health) => health.run(&config).await,
        }
    }
}

/// On stderr, unless nobody listens any more or the person knows.
fn tell(error: &anyhow::Error) {
    let is_closed_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    if !error.is::<Interrupted>() && !error.downcast_ref().is_some_and(is_closed_pipe) {
        // Where even stderr is closed there is nobody left to tell.
        let _ = output::remark(format_args!("aihub: {error:#}"));
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        WRONG_CONFIGURATION
    } else if error.is::<Interrupted>() {
        INTERRUPTED
    } else if let Some(finding) = error.downcast_ref::<audit::Finding>() {
        finding.exit_code()
    } else {
        FAILED
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_that_takes_a_secret_can_also_come_from_the_environment() {
        fn check(command: &clap::Command) {
            for option in command.get_arguments() {
                let name = option.get_long().unwrap_or_default();
                if ["database", "token", "secret", "password"].contains(&name) {
                    assert!(
                        option.get_env().is_some() && option.is_hide_env_values_set(),
                        "{} --{name}",
                        command.get_name()
                    );
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn flags_of_all_commands_may_stand_before_or_behind_the_command() {
        for line in ["aihub --data-dir d serve --listen 127.0.0.1:0", "aihub serve --listen 127.0.0.1:0 --data-dir d"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.data_dir.as_deref(), Some("d"));
            assert!(matches!(cli.command, Some(Command::Serve(_))));
        }
        let cli = Cli::try_parse_from(["aihub", "--listen", "127.0.0.1:0"]).unwrap();
        assert!(cli.command.is_none() && cli.serve.flags().count() == 1);
    }

    #[test]
    fn a_wrong_configuration_has_an_exit_code_of_its_own() {
        assert_eq!(exit_code(&ConfigError::Faults(vec![]).into()), WRONG_CONFIGURATION);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), FAILED);
        assert_eq!(exit_code(&Interrupted.into()), INTERRUPTED);
    }
}
