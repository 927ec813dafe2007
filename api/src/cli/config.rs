//! `aihub config`: what is in effect once all sources are put together.

use super::output::out;
use crate::config::{Config, production};

pub fn run(config: &Config) -> anyhow::Result<()> {
    let missing = production::missing(config);
    let mut text = "# The configuration in effect. Secrets are masked; what is not set is not listed.\n".to_owned();
    if !missing.is_empty() {
        text.push_str("# For AIHUB_ENV=production this is missing:\n");
        text.extend(missing.iter().map(|missing| format!("# - {missing}\n")));
    }
    text.push('\n');
    text.push_str(&toml::to_string(config)?);
    Ok(out(text)?)
}
