//! `[content]`: what prompts and answers are sealed with, what is kept of them, and for how long.

use std::collections::BTreeMap;

use aihub_domain::content::{ContentKind, Keep};
use aihub_infrastructure::vault::{
    master_key::MasterKey,
    rules::{AccountRules, ContentRules, Keeping, Rule},
};
use serde::{Deserialize, Serialize};

use super::error::Fault;
use crate::auth::secret::Secret;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentSettings {
    /// Seals the keys that prompts and answers are sealed with. Left out, development makes one in the data directory.
    pub master_key: Option<Secret>,
    /// Those that keys may still be wrapped with, until `aihub keys rotate` has run.
    pub former_master_keys: Vec<Secret>,
    /// What is kept of it. Left out: sealed.
    pub keep: Option<KeepSetting>,
    /// Content older than this is erased, by whole months. Left out, it is kept.
    pub retention_days: Option<u32>,
    /// For some kinds, in place of what is said for all.
    pub kinds: BTreeMap<ContentKind, RuleSettings>,
    /// For some accounts, in place of what is said for all and for kinds.
    pub accounts: BTreeMap<String, AccountRuleSettings>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSettings {
    pub keep: Option<KeepSetting>,
    pub retention_days: Option<u32>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountRuleSettings {
    pub keep: Option<KeepSetting>,
    pub retention_days: Option<u32>,
    pub kinds: BTreeMap<ContentKind, RuleSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepSetting {
    Sealed,
    /// Only a hash, which proves what was said to whoever has the text.
    Hash,
    None,
}

impl ContentSettings {
    pub fn rules(&self) -> ContentRules {
        let account = |settings: &AccountRuleSettings| AccountRules {
            all: rule(settings.keep, settings.retention_days),
            kinds: rules_of_kinds(&settings.kinds),
        };
        ContentRules {
            all: rule(self.keep, self.retention_days),
            kinds: rules_of_kinds(&self.kinds),
            accounts: self.accounts.iter().map(|(name, settings)| (name.clone(), account(settings))).collect(),
        }
    }

    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        let own = self.master_key.iter().map(|key| ("content.master_key:", key));
        let former = self.former_master_keys.iter().map(|key| ("content.former_master_keys:", key));
        for (name, key) in own.chain(former) {
            if let Err(error) = MasterKey::from_base64(key.expose()) {
                faults.push(Fault::new(name, error.to_string()));
            }
        }
        check_days("content".to_owned(), self.retention_days, faults);
        check_kinds("content", &self.kinds, faults);
        for (name, account) in &self.accounts {
            let of = format!("content.accounts.{name}");
            check_days(of.clone(), account.retention_days, faults);
            check_kinds(&of, &account.kinds, faults);
        }
    }
}

fn check_kinds(of: &str, kinds: &BTreeMap<ContentKind, RuleSettings>, faults: &mut Vec<Fault>) {
    for (kind, rule) in kinds {
        let name = format!("{of}.kinds.{kind}");
        if kind.is_needed() && rule.keep.is_some_and(|keep| keep != KeepSetting::Sealed) {
            let reason = "must be sealed: it is read again when its turn comes; `retention_days` says for how long";
            faults.push(Fault::new(format!("{name}.keep"), reason));
        }
        check_days(name, rule.retention_days, faults);
    }
}

fn check_days(of: String, days: Option<u32>, faults: &mut Vec<Fault>) {
    if days == Some(0) {
        faults.push(Fault::new(of + ".retention_days", "must be at least 1"));
    }
}

fn rule(keep: Option<KeepSetting>, retention_days: Option<u32>) -> Rule {
    let keep = keep.map(|keep| match keep {
        KeepSetting::Sealed => Keeping::As(Keep::Sealed),
        KeepSetting::Hash => Keeping::As(Keep::Hash),
        KeepSetting::None => Keeping::Nothing,
    });
    Rule { keep, retention_days }
}

fn rules_of_kinds(kinds: &BTreeMap<ContentKind, RuleSettings>) -> BTreeMap<ContentKind, Rule> {
    kinds.iter().map(|(kind, settings)| (*kind, rule(settings.keep, settings.retention_days))).collect()
}
