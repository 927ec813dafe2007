//! What stands on the terminal once the service is ready: where it is, how to use it, what is made up, what is missing.

use std::{env, net::SocketAddr, path::Path};

use crate::{
    auth::mint::MintError,
    bootstrap::{App, auth_settings},
    cli::{
        health::reachable,
        output::{bold, dim, out},
        token::developers_token,
    },
    config::{Config, providers::Reach, videos::VideoReach},
};

const QUESTION: &str = "Why is the sky blue?";

pub fn print(config: &Config, app: &App) -> anyhow::Result<()> {
    let listen = app.local_addr()?;
    // A token on a screen is for development; and where an identity provider issues them there is none to make.
    let token = match developers_token(&auth_settings(config)?) {
        Ok(token) if !config.is_production() => Some(token),
        Ok(_) | Err(MintError::NoSecret) => None,
        Err(error) => return Err(error.into()),
    };
    let program = env::args().next().unwrap_or_else(|| "aihub".to_owned());
    let facts = Facts { listen, token, program, postgres: app.embedded_postgres().map(str::to_owned) };
    Ok(out(facts.text(config))?)
}

/// What is known only now.
struct Facts {
    listen: SocketAddr,
    token: Option<String>,
    /// This program as it was called, so that the line to paste works in the same place.
    program: String,
    /// The version of the embedded one.
    postgres: Option<String>,
}

impl Facts {
    fn text(&self, config: &Config) -> String {
        let address = reachable(self.listen);
        let environment = if config.is_production() { "production" } else { "development" };
        let mut lines = vec![format!("{} {} · {environment}\n", bold("aihub"), env!("CARGO_PKG_VERSION"))];
        let mut line = |name: &str, value: &str| lines.push(format!("{} {value}", dim(format_args!("{name:<9}"))));
        line("URL", &format!("http://{address}   (WebSocket: ws://{address}/mcp)"));
        if let Some(token) = &self.token {
            line("Token", token);
            line("Try", &self.command(config));
        }
        let embedded = self.embedded(config);
        if !embedded.is_empty() {
            line("Embedded", &embedded.join(" · "));
        }
        if let Some(brokers) = &config.kafka.brokers {
            line("Kafka", brokers);
        }
        for missing in not_configured(config) {
            line("Not set", &missing);
        }
        format!("\n  {}\n\n", lines.join("\n  "))
    }

    /// The line to paste, with the flags that it needs to find this service and its secret.
    fn command(&self, config: &Config) -> String {
        let mut words = vec![self.program.clone(), "chat".to_owned()];
        let address = reachable(self.listen);
        if address != SocketAddr::from(([127, 0, 0, 1], 3003)) {
            words.push(format!("--url ws://{address}/mcp"));
        }
        if config.auth.hs256_secret.is_none() && config.server.data_dir != Path::new(".aihub") {
            words.push(format!("--data-dir {}", config.server.data_dir.display()));
        }
        format!("{} \"{QUESTION}\"", words.join(" "))
    }

    fn embedded(&self, config: &Config) -> Vec<String> {
        let mut embedded = Vec::new();
        if let Some(version) = &self.postgres {
            embedded.push(format!(
                "PostgreSQL {version}, its data in {}",
                config.server.data_dir.join("postgres").display()
            ));
        }
        let simulated = config.providers_to_start().filter(|provider| provider.reach == Reach::Simulator);
        let videos = config.video_providers_to_start().filter(|(_, _, reach)| *reach == VideoReach::Simulator);
        let videos = videos.map(|(name, ..)| format!("{name} (videos)"));
        let simulated: Vec<_> = simulated.map(|provider| provider.name.to_owned()).chain(videos).collect();
        if !simulated.is_empty() {
            embedded.push(format!("simulated providers: {}", simulated.join(", ")));
        }
        embedded
    }
}

/// Each with what it would change.
fn not_configured(config: &Config) -> Vec<String> {
    let mut missing: Vec<String> = config
        .providers_to_start()
        .filter(|provider| provider.reach == Reach::Simulator && !provider.settings.simulated)
        .map(|provider| {
            let (name, variable) = (provider.name, provider.settings.kind.key_variable());
            format!("{variable}, for real answers from {name}")
        })
        .collect();
    if config.kafka.brokers.is_none() {
        missing.push("KAFKA_BROKERS, so nothing is published".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, Sources};

    fn text(variables: &[(&str, &str)], flags: Vec<Flag>, facts: &Facts) -> String {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        facts.text(&Config::load(&Sources { file: None, variables, flags }).unwrap())
    }

    fn facts(listen: &str, token: Option<&str>) -> Facts {
        Facts {
            listen: listen.parse().unwrap(),
            token: token.map(str::to_owned),
            program: "target/release/aihub".to_owned(),
            postgres: token.map(|_| "18.6".to_owned()),
        }
    }

    #[test]
    fn a_first_start_says_where_it_is_what_to_paste_what_is_embedded_and_what_is_missing() {
        let text = text(&[], vec![], &facts("127.0.0.1:3003", Some("a.b.c")));
        for part in [
            "http://127.0.0.1:3003 ",
            "ws://127.0.0.1:3003/mcp",
            "Token     a.b.c\n",
            "target/release/aihub chat \"Why is the sky blue?\"\n",
            "PostgreSQL 18.6, its data in .aihub/postgres · simulated providers: claude, openai, sora (videos), veo (videos)\n",
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "KAFKA_BROKERS",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn the_line_to_paste_finds_a_service_that_is_not_in_the_usual_place() {
        let flags = [("--listen", "server.listen", "0.0.0.0:0"), ("--data-dir", "server.data_dir", "/tmp/d")]
            .map(|(name, key, value)| Flag { name, key, value: value.to_owned() });
        let text = text(&[], flags.into(), &facts("0.0.0.0:40001", Some("a.b.c")));
        assert!(text.contains("aihub chat --url ws://127.0.0.1:40001/mcp --data-dir /tmp/d \"Why"), "{text}");
    }

    #[test]
    fn who_has_kafka_is_told_where_events_go_and_not_that_it_is_missing() {
        let text = text(&[("KAFKA_BROKERS", "kafka:9092")], vec![], &facts("127.0.0.1:3003", Some("a.b.c")));
        assert!(text.contains("Kafka     kafka:9092\n") && !text.contains("KAFKA_BROKERS"), "{text}");
    }

    #[test]
    fn production_shows_no_token() {
        let variables = [("AIHUB_ENV", "production"), ("OPENAI_API_KEY", "sk-1"), ("ANTHROPIC_API_KEY", "sk-2")];
        let text = text(&variables, vec![], &facts("10.0.0.1:3003", None));
        assert!(text.contains("production") && !text.contains("Token") && !text.contains("Embedded"), "{text}");
        assert!(!text.contains("API_KEY"), "{text}");
    }
}
