//! What nodes run with, compared through the database without being told: hashes, of which each node compares its own with those of
//! the others. Secrets are hashed with a key that is not in the database.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::audit::hex;

/// So many bytes tell values apart and fit many times into a row.
const HASH_BYTES: usize = 8;
/// So many settings are named for each node; the rest are counted.
const MAX_NAMED: usize = 10;

/// By the names of the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// What decides what is charged. Only what both have can contradict: a price that one of them does not know yet does not.
    charges: BTreeMap<String, String>,
    /// Hashed with a key that both have to know; where they have none in common, the names differ too.
    secrets: BTreeMap<String, String>,
    /// What should be the same.
    others: BTreeMap<String, String>,
}

impl Settings {
    /// Another value of this under the same name is another charge.
    pub fn charge(&mut self, name: impl Into<String>, value: &Value) {
        self.charges.insert(name.into(), hash(value));
    }

    /// `hash` was made with the key that `key_id` names.
    pub fn secret(&mut self, name: &str, key_id: &str, hash: String) {
        self.secrets.insert(format!("{name} ({key_id})"), hash);
    }

    /// Every value in `value`, under `name` and its place in it.
    pub fn all(&mut self, name: &str, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (field, value) in fields {
                    let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                    self.all(&name, value);
                }
            }
            value => _ = self.others.insert(name.to_owned(), hash(value)),
        }
    }

    /// What decides on charges and is another value at the other node.
    pub fn contradictions(&self, other: &Self) -> Vec<String> {
        both_differ(&self.charges, &other.charges).map(str::to_owned).collect()
    }

    /// Everything that differs, by name, in the order of the names.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let secrets = both_differ(&self.secrets, &other.secrets);
        let secrets = secrets.map(|name| name.split(' ').next().unwrap_or(name));
        let names: BTreeSet<&String> = self.others.keys().chain(other.others.keys()).collect();
        let others = names.into_iter().filter(|name| self.others.get(*name) != other.others.get(*name));
        let all = both_differ(&self.charges, &other.charges).chain(secrets).chain(others.map(String::as_str));
        all.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
    }
}

/// `a, b and c`; of many the first ones, and how many there are besides.
pub fn list(names: &[String]) -> String {
    let (first, rest) = names.split_at(names.len().min(MAX_NAMED));
    let first = first.join(", ");
    if rest.is_empty() { first } else { format!("{first} and {} more", rest.len()) }
}

fn both_differ<'a>(
    ours: &'a BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
) -> impl Iterator<Item = &'a str> {
    let differ = move |(name, hash): &(&String, &String)| theirs.get(*name).is_some_and(|other| other != *hash);
    ours.iter().filter(differ).map(|(name, _)| name.as_str()).collect::<Vec<_>>().into_iter()
}

fn hash(value: &Value) -> String {
    let hash: [u8; 32] = Sha256::digest(value.to_string()).into();
    hex(&hash[..HASH_BYTES])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(per_usd: u32, prices: &[(&str, u32)], rest: &Value) -> Settings {
        let mut settings = Settings::default();
        settings.charge("credits.per_usd", &json!(per_usd));
        for (id, price) in prices {
            settings.charge(format!("price {id}"), &json!(price));
        }
        settings.all("", rest);
        settings
    }

    #[test]
    fn another_price_under_the_same_id_is_a_contradiction_and_a_price_that_only_one_knows_is_not() {
        let one = settings(1_000, &[("a@1", 5)], &json!({}));
        assert_eq!(one.contradictions(&settings(1_000, &[("a@1", 6)], &json!({}))), ["price a@1"]);
        assert_eq!(one.contradictions(&settings(1_001, &[("a@1", 5)], &json!({}))), ["credits.per_usd"]);
        assert!(one.contradictions(&settings(1_000, &[("a@1", 5), ("a@2", 9)], &json!({}))).is_empty());
    }

    #[test]
    fn every_setting_that_differs_is_named_by_its_place_and_so_is_one_that_only_one_has() {
        let one = settings(1, &[], &json!({ "limits": { "a": 1, "b": [1, 2] }, "x": null }));
        let other = settings(1, &[], &json!({ "limits": { "a": 1, "b": [1, 3] }, "x": null, "y": 0 }));
        assert_eq!(one.differences(&other), ["limits.b", "y"]);
        assert!(one.differences(&one).is_empty());
    }

    #[test]
    fn secrets_are_compared_where_both_know_the_key_that_they_were_hashed_with() {
        let secret = |key_id: &str, hash: &str| {
            let mut settings = Settings::default();
            settings.secret("auth.hs256_secret", key_id, hash.to_owned());
            settings
        };
        assert_eq!(secret("k1", "a").differences(&secret("k1", "b")), ["auth.hs256_secret"]);
        assert!(secret("k1", "a").differences(&secret("k2", "b")).is_empty());
    }

    #[test]
    fn of_many_the_first_ones_are_named() {
        let names: Vec<String> = (0..12).map(|nth| format!("s{nth:02}")).collect();
        assert!(list(&names).ends_with("s09 and 2 more"), "{}", list(&names));
        assert_eq!(list(&names[..2]), "s00, s01");
    }
}
