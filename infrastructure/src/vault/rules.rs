//! What is kept of whose content, and for how long.

use std::collections::BTreeMap;

use aihub_domain::content::{ContentKind, Keep};

/// The rules of all accounts. What stands nearer to a request wins: its kind for its account, its account, its kind, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentRules {
    pub all: Rule,
    pub kinds: BTreeMap<ContentKind, Rule>,
    pub accounts: BTreeMap<String, AccountRules>,
}

/// What is said about one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountRules {
    pub all: Rule,
    pub kinds: BTreeMap<ContentKind, Rule>,
}

/// What is not said is looked for in the next rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    pub keep: Option<Keeping>,
    /// At least so long, and a month more at most.
    pub retention_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    As(Keep),
    /// Nothing of it, not even a hash.
    Nothing,
}

impl ContentRules {
    /// What becomes of such a content. What is read again is always sealed.
    pub fn keeping(&self, account: &str, kind: ContentKind) -> Keeping {
        if kind.is_needed() {
            return Keeping::As(Keep::Sealed);
        }
        self.of(account, kind).find_map(|rule| rule.keep).unwrap_or(Keeping::As(Keep::Sealed))
    }

    /// `None` is for ever.
    pub fn retention_days(&self, account: &str, kind: ContentKind) -> Option<u32> {
        self.of(account, kind).find_map(|rule| rule.retention_days)
    }

    /// Whether anything is ever too old.
    pub fn expire_something(&self) -> bool {
        let of_accounts = self.accounts.values().flat_map(|account| account.kinds.values().chain([&account.all]));
        of_accounts.chain(self.kinds.values()).chain([&self.all]).any(|rule| rule.retention_days.is_some())
    }

    /// The nearest first.
    fn of(&self, account: &str, kind: ContentKind) -> impl Iterator<Item = Rule> {
        let account = self.accounts.get(account);
        let rules = [
            account.and_then(|account| account.kinds.get(&kind)).copied(),
            account.map(|account| account.all),
            self.kinds.get(&kind).copied(),
            Some(self.all),
        ];
        rules.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_nearer_to_a_request_wins_each_thing_for_itself() {
        let rule = |keep, retention_days| Rule { keep, retention_days };
        let (sealed, hash) = (Keeping::As(Keep::Sealed), Keeping::As(Keep::Hash));
        let rules = ContentRules {
            all: rule(None, Some(90)),
            kinds: BTreeMap::from([(ContentKind::Embedding, rule(Some(Keeping::Nothing), None))]),
            accounts: BTreeMap::from([(
                "acme".to_owned(),
                AccountRules {
                    all: rule(Some(hash), None),
                    kinds: BTreeMap::from([(ContentKind::Chat, rule(None, Some(7)))]),
                },
            )]),
        };
        for (account, kind, keeping, days) in [
            ("other", ContentKind::Chat, sealed, 90),
            ("other", ContentKind::Embedding, Keeping::Nothing, 90),
            ("acme", ContentKind::Embedding, hash, 90),
            ("acme", ContentKind::Chat, hash, 7),
            ("acme", ContentKind::Video, sealed, 90),
        ] {
            assert_eq!(rules.keeping(account, kind), keeping, "{account} {kind}");
            assert_eq!(rules.retention_days(account, kind), Some(days), "{account} {kind}");
        }
        assert!(rules.expire_something() && !ContentRules::default().expire_something());
    }
}
