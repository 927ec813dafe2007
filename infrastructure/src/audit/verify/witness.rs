//! Those who say what the log was at a position: signed checkpoints, and the handlers that have applied it.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{Scope, Stop};
use crate::{
    audit::{
        AuditError, Fault, hex,
        merkle::MerkleTree,
        note::{self, Checkpoint},
        signers::Signers,
    },
    event_store::{chain::Hash, reader::RecordedEvent},
};

/// What they say, by position.
#[derive(Default)]
pub struct Witnesses(BTreeMap<u64, Vec<Witness>>);

struct Witness {
    who: String,
    chain_hash: Hash,
    root_hash: Option<Hash>,
}

impl Witnesses {
    /// Takes our own checkpoints, once their signatures are checked; what there is to say about them.
    pub async fn add_signed(&mut self, snapshot: &mut PgConnection, scope: &Scope) -> Result<String, Stop> {
        let signers = Signers::of_log(&mut *snapshot).await?;
        let (trusted, all) = (signers.trusted(&scope.keys), signers.all());
        let rows = sqlx::query!("SELECT position, note FROM checkpoints ORDER BY position").fetch_all(snapshot).await?;
        // Up to here somebody who is trusted has signed what the log is, with everything that was signed before.
        let vouched_for =
            rows.iter().rev().find(|row| note::open(&row.note, &trusted).is_ok()).map_or(0, |row| row.position);
        let (mut count, mut former, mut latest) = (0, 0, None);
        for row in rows {
            let position = row.position.cast_unsigned();
            let fault = |expected: &str, found: String| {
                let what = "the checkpoint that is kept for it".to_owned();
                Stop::Fault(Fault { position, what, expected: expected.to_owned(), found })
            };
            let checkpoint = if scope.keys.is_empty() {
                note::unverified(&row.note)
            } else {
                note::open(&row.note, &trusted).or_else(|error| {
                    let by_a_former_key = note::open(&row.note, &all).ok().filter(|_| row.position <= vouched_for);
                    former += u64::from(by_a_former_key.is_some());
                    by_a_former_key.ok_or(error)
                })
            };
            let checkpoint = checkpoint.map_err(|error| fault("a signed checkpoint", error.to_string()))?;
            if checkpoint.head.position != position {
                return Err(fault("one of that position", format!("one of {}", checkpoint.head.position)));
            }
            self.add_checkpoint("the signed checkpoint", &checkpoint);
            (count, latest) = (count + 1, Some(checkpoint.signed_at));
        }
        Ok(match latest {
            None => "there is none: whoever can write to the database could have made another log".to_owned(),
            Some(at) if scope.keys.is_empty() => {
                format!("{count} agree, the last of {at}; their SIGNATURES WERE NOT CHECKED, for want of a key")
            }
            Some(at) if former > 0 => {
                format!("{count} agree, each with its signature, {former} with that of a former key, the last of {at}")
            }
            Some(at) => format!("{count} agree, each with its signature, the last of {at}"),
        })
    }

    /// Takes the one that was saved elsewhere; what there is to say about it.
    pub fn add_saved(&mut self, scope: &Scope) -> Result<Option<String>, Stop> {
        let Some(saved) = &scope.saved else { return Ok(None) };
        let checkpoint = note::open(saved, &scope.keys)
            .map_err(|error| Stop::Error(AuditError::Malformed(format!("the saved checkpoint: {error}"))))?;
        self.add_checkpoint("the saved checkpoint", &checkpoint);
        let (position, at) = (checkpoint.head.position, checkpoint.signed_at);
        Ok(Some(format!("the log is the one of position {position} that was signed {at}, and goes on from there")))
    }

    /// Takes the handlers, each with the chain hash that it saw where it stands; their positions, by name.
    pub async fn add_handlers(&mut self, snapshot: &mut PgConnection) -> Result<BTreeMap<String, u64>, Stop> {
        let rows = sqlx::query!(r#"SELECT name, position, chain_hash AS "chain_hash: Hash" FROM subscriptions"#);
        let mut positions = BTreeMap::new();
        for row in rows.fetch_all(snapshot).await? {
            let position = row.position.cast_unsigned();
            if position > 0 {
                let who = format!("the handler {}, which has applied it", row.name);
                self.add(position, Witness { who, chain_hash: row.chain_hash, root_hash: None });
            }
            positions.insert(row.name, position);
        }
        Ok(positions)
    }

    fn add_checkpoint(&mut self, who: &str, checkpoint: &Checkpoint) {
        let Checkpoint { head, root_hash, signed_at, .. } = checkpoint;
        let who = format!("{who} of {signed_at}");
        self.add(head.position, Witness { who, chain_hash: head.chain_hash, root_hash: Some(*root_hash) });
    }

    fn add(&mut self, position: u64, witness: Witness) {
        self.0.entry(position).or_default().push(witness);
    }

    /// Whether those who saw the event saw this one. `tree` is the one up to it, where there is one.
    pub fn hear(&mut self, event: &RecordedEvent, tree: Option<&MerkleTree>) -> Result<(), Fault> {
        for witness in self.0.remove(&event.position).unwrap_or_default() {
            let disagrees = |what: &str, expected: &Hash, found: &Hash| {
                let what = format!("{} saw another {what}", witness.who);
                Err(Fault { position: event.position, what, expected: hex(expected), found: hex(found) })
            };
            if witness.chain_hash != event.chain_hash {
                return disagrees("chain", &witness.chain_hash, &event.chain_hash);
            }
            if let (Some(root_hash), Some(tree)) = (witness.root_hash, tree)
                && tree.root() != root_hash
            {
                return disagrees("root", &root_hash, &tree.root());
            }
        }
        Ok(())
    }

    /// Somebody who saw more than `head`, and how far.
    pub fn beyond(&self, head: u64) -> Option<(&str, u64)> {
        let (position, witnesses) = self.0.range(head + 1..).next_back()?;
        Some((witnesses.first()?.who.as_str(), *position))
    }
}
