use aihub_application::{audit_keys::introduce, ports::clock::Clock as _};
use aihub_domain::audit_key::KeyIntroduction;
use aihub_infrastructure::audit::{checkpoint, note::SigningKey, signers::Signers};
use anyhow::{Context, bail};
use clap::Args;

use super::Finding;
use crate::{
    bootstrap::signing_key,
    cli::{
        account::{Ledger, actor, metadata},
        output::out_line,
        reason::Reason,
    },
    config::Config,
};

#[derive(Debug, Args)]
pub struct ChangeKey {
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// Who changes it [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
    /// The former key is lost: whoever trusted it has to be told of the new one in another way
    #[arg(long)]
    without_former_key: bool,
}

impl ChangeKey {
    /// The log says that the configured key signs from now on, endorsed by the one that did, and is signed with it.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = self.change(config, &ledger).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn change(self, config: &Config, ledger: &Ledger) -> anyhow::Result<()> {
        let key = signing_key(config)?;
        let signers = Signers::of_log(ledger.database.pool()).await?;
        let endorsement = match (signers.current(), &config.audit.former_signing_key) {
            (None, _) => None,
            (Some(_), _) if self.without_former_key => None,
            (Some(_), None) => bail!("`audit.former_signing_key` is not set, or else say --without-former-key"),
            (Some(current), Some(former)) => {
                let former = SigningKey::from_base64(&config.audit.origin, former.expose());
                let former = former.context("audit.former_signing_key")?;
                if former.verifier() != *current {
                    bail!("`audit.former_signing_key` is not the key that signs this log, which is {current}");
                }
                Some(former.endorse(&key.verifier()))
            }
        };
        let (verifier, actor) = (key.verifier().to_string(), actor(self.actor));
        let metadata = metadata(&actor, &format!("audit-key:{verifier}"));
        let introduction = KeyIntroduction {
            key: verifier.clone(),
            endorsement,
            actor,
            reason: self.reason.into(),
            introduced_at: ledger.clock.now(),
        };
        match introduce(&*ledger.log, introduction, &metadata).await? {
            Some(position) => out_line(format_args!("{verifier} signs from position {position} on"))?,
            None => out_line(format_args!("{verifier} signs already"))?,
        }
        // What was signed before counts once the new key has signed it as well.
        checkpoint::make(&ledger.database, &key, &*ledger.clock).await.map_err(Finding::from)?;
        Ok(())
    }
}
