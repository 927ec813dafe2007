//! What a node has a limited amount of, shared out: bytes of memory, sockets, places. Whoever has used up their portion is
//! refused more, and nobody else is: no user and no account gets all of it, and a part is kept for those who hold little, so
//! that a few who take whatever they get leave the others something.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{error::GatewayError, principal::Principal};

/// When more may be there. What is shared out here is held for as long as work takes.
const RETRY: Duration = Duration::from_secs(1);

/// How much there is, and how much of it one may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portions {
    pub all: usize,
    pub of_account: usize,
    /// Or of an address, where nobody is known yet.
    pub of_user: usize,
    /// Of all, for accounts (or addresses) that hold no more than `little`.
    pub kept: usize,
    pub little: usize,
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    Principal {
        user: String,
        account: String,
    },
    /// Somebody who has not said who they are.
    Address(IpAddr),
}

/// Whose limit it is that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Request,
    Socket,
    Address,
    User,
    Account,
    Node,
}

/// One thing that is shared out.
pub struct Share {
    /// With its unit, as it stands in a refusal: `bytes of answers that are kept`.
    what: &'static str,
    portions: Portions,
    held: Mutex<Amounts>,
}

#[derive(Default)]
struct Amounts {
    all: usize,
    users: HashMap<String, usize>,
    accounts: HashMap<String, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// An amount that somebody holds until it is dropped.
pub struct Held {
    share: Arc<Share>,
    holder: Holder,
    amount: usize,
}

/// There is no more for this holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedUp {
    pub what: &'static str,
    pub scope: Scope,
    pub limit: usize,
}

impl Portions {
    /// A user may hold a quarter and an account three eighths, and half is kept for those who hold no more than a 128th. So
    /// one alone gets at most half of what there is, and 64 who hold their 128th leave room for more. What is too little to be
    /// divided so is for whoever comes first.
    pub const fn of(all: usize) -> Self {
        let little = all / 128;
        if little == 0 {
            return Self::undivided(all);
        }
        Self { all, of_account: all / 8 * 3, of_user: all / 4, kept: all / 2, little }
    }

    /// For whoever comes first.
    pub const fn undivided(all: usize) -> Self {
        Self { all, of_account: usize::MAX, of_user: usize::MAX, kept: 0, little: 0 }
    }

    /// The same with what is configured for users and accounts.
    #[must_use]
    pub const fn with(self, of_user: usize, of_account: usize) -> Self {
        Self { of_account, of_user, ..self }
    }
}

impl Holder {
    pub fn of(principal: &Principal) -> Self {
        Self::Principal { user: principal.user.clone(), account: principal.account.clone() }
    }
}

impl Share {
    pub fn new(what: &'static str, portions: Portions) -> Arc<Self> {
        Arc::new(Self { what, portions, held: Mutex::default() })
    }

    pub fn portions(&self) -> Portions {
        self.portions
    }

    /// How much of it is held.
    pub fn taken(&self) -> usize {
        self.amounts().all
    }

    pub fn take(self: &Arc<Self>, holder: Holder, amount: usize) -> Result<Held, UsedUp> {
        self.add(&holder, amount, self.portions)?;
        Ok(Held { share: self.clone(), holder, amount })
    }

    fn add(&self, holder: &Holder, amount: usize, portions: Portions) -> Result<(), UsedUp> {
        let used_up = |scope, limit| Err(UsedUp { what: self.what, scope, limit });
        let Portions { all, of_account, of_user, kept, little } = portions;
        let mut amounts = self.amounts();
        let within = |held: usize, most: usize| held.saturating_add(amount) <= most;
        let outermost = match holder {
            Holder::Principal { user, account } => {
                if !within(held_by(&amounts.users, user), of_user) {
                    return used_up(Scope::User, of_user);
                }
                let of_this = held_by(&amounts.accounts, account);
                if !within(of_this, of_account) {
                    return used_up(Scope::Account, of_account);
                }
                of_this
            }
            Holder::Address(address) => {
                let of_this = held_by(&amounts.addresses, address);
                if !within(of_this, of_user) {
                    return used_up(Scope::Address, of_user);
                }
                of_this
            }
        };
        let for_all = if within(outermost, little) { all } else { all - kept };
        if !within(amounts.all, for_all) {
            return used_up(Scope::Node, for_all);
        }
        amounts.all += amount;
        match holder {
            Holder::Principal { user, account } => {
                more(&mut amounts.users, user, amount);
                more(&mut amounts.accounts, account, amount);
            }
            Holder::Address(address) => more(&mut amounts.addresses, address, amount),
        }
        Ok(())
    }

    fn give_back(&self, holder: &Holder, amount: usize) {
        let mut amounts = self.amounts();
        amounts.all -= amount;
        match holder {
            Holder::Principal { user, account } => {
                less(&mut amounts.users, user, amount);
                less(&mut amounts.accounts, account, amount);
            }
            Holder::Address(address) => less(&mut amounts.addresses, address, amount),
        }
    }

    fn amounts(&self) -> MutexGuard<'_, Amounts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Holds `amount` from now on: more, if there is more, or less.
    pub fn resize(&mut self, amount: usize) -> Result<(), UsedUp> {
        if amount > self.amount {
            self.share.add(&self.holder, amount - self.amount, self.share.portions)?;
        } else {
            self.share.give_back(&self.holder, self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }

    /// Holds `amount` from now on, also where that is more than there is: what is there already has to be counted.
    pub fn set(&mut self, amount: usize) {
        if self.resize(amount).is_err() {
            let boundless =
                Portions { all: usize::MAX, of_account: usize::MAX, of_user: usize::MAX, kept: 0, little: 0 };
            // Nothing is above these.
            if self.share.add(&self.holder, amount - self.amount, boundless).is_ok() {
                self.amount = amount;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.give_back(&self.holder, self.amount);
    }
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Socket => "socket",
            Self::Address => "address",
            Self::User => "user",
            Self::Account => "account",
            Self::Node => "node",
        }
    }
}

impl From<UsedUp> for GatewayError {
    fn from(UsedUp { what, scope, limit }: UsedUp) -> Self {
        Self::RateLimitExceeded { what, scope, limit: limit as u64, retry_after: RETRY }
    }
}

fn held_by<K: Eq + Hash>(amounts: &HashMap<K, usize>, key: &K) -> usize {
    amounts.get(key).copied().unwrap_or_default()
}

fn more<K: Eq + Hash + Clone>(amounts: &mut HashMap<K, usize>, key: &K, amount: usize) {
    match amounts.get_mut(key) {
        Some(held) => *held += amount,
        None => _ = amounts.insert(key.clone(), amount),
    }
}

/// Who holds nothing is forgotten: names can be made up without end.
fn less<K: Eq + Hash>(amounts: &mut HashMap<K, usize>, key: &K, amount: usize) {
    if let Some(held) = amounts.get_mut(key) {
        *held -= amount;
        if *held == 0 {
            amounts.remove(key);
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("what", &self.what).field("portions", &self.portions).finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("what", &self.share.what).field("amount", &self.amount).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(all: usize) -> Arc<Share> {
        Share::new("bytes", Portions::of(all))
    }

    fn whose(user: &str, account: &str) -> Holder {
        Holder::Principal { user: user.to_owned(), account: account.to_owned() }
    }

    fn scope(taken: Result<Held, UsedUp>) -> Scope {
        taken.unwrap_err().scope
    }

    #[test]
    fn a_user_an_account_and_an_address_get_no_more_than_their_portion() {
        let share = share(1_280);
        let _ann = share.take(whose("ann", "acme"), 320).unwrap();
        assert_eq!(scope(share.take(whose("ann", "acme"), 1)), Scope::User);
        let _bob = share.take(whose("bob", "acme"), 160).unwrap();
        assert_eq!(scope(share.take(whose("cyd", "acme"), 1)), Scope::Account);
        let address = Holder::Address([127, 0, 0, 1].into());
        assert_eq!(scope(share.take(address, 321)), Scope::Address);
    }

    #[test]
    fn however_much_a_few_take_whoever_holds_little_gets_it() {
        let share = share(1_280);
        let mut greedy: Vec<Held> = Vec::new();
        for nth in 0..50 {
            let name = format!("greedy-{nth}");
            let halves = std::iter::successors(Some(320_usize), |amount| (*amount > 1).then_some(amount / 2));
            for amount in halves.chain(std::iter::repeat_n(1, 400)) {
                greedy.extend(share.take(whose(&name, &name), amount).ok());
            }
        }
        assert!(share.taken() >= 640, "all that is not kept is taken");
        let modest: Vec<Held> = (0..10).map(|nth| share.take(whose("ann", &format!("a{nth}")), 10).unwrap()).collect();
        drop((greedy, modest));
        let amounts = share.amounts();
        assert_eq!((amounts.all, amounts.users.len(), amounts.accounts.len()), (0, 0, 0), "nobody is remembered");
    }

    #[test]
    fn what_is_there_already_is_counted_also_beyond_the_portion() {
        let share = share(1_280);
        let mut held = share.take(whose("ann", "acme"), 1).unwrap();
        assert!(held.resize(400).is_err());
        assert_eq!(held.amount(), 1);
        held.set(400);
        assert_eq!((held.amount(), share.taken()), (400, 400));
        assert_eq!(scope(share.take(whose("ann", "acme"), 1)), Scope::User);
        held.set(3);
        assert_eq!(share.taken(), 3);
    }

    #[test]
    fn what_is_too_little_to_be_divided_is_for_whoever_comes_first() {
        let share = share(2);
        let _all = share.take(whose("ann", "acme"), 2).unwrap();
        assert_eq!(scope(share.take(whose("bob", "other"), 1)), Scope::Node);
    }

    proptest! {
        #[test]
        fn nobody_ever_holds_more_than_the_portions_say(steps in proptest::collection::vec((0..6_usize, 0..3_usize, 0..400_usize, any::<bool>()), 1..200)) {
            let share = share(1_280);
            let mut held: Vec<(usize, usize, Held)> = Vec::new();
            for (user, account, amount, gives_back) in steps {
                if gives_back && !held.is_empty() {
                    held.swap_remove(amount % held.len());
                } else if let Ok(taken) = share.take(whose(&user.to_string(), &account.to_string()), amount) {
                    held.push((user, account, taken));
                }
                let sum = |of: &dyn Fn(&(usize, usize, Held)) -> bool| -> usize {
                    held.iter().filter(|one| of(one)).map(|(.., held)| held.amount()).sum()
                };
                prop_assert_eq!(share.taken(), sum(&|_| true));
                prop_assert!((0..6).all(|user| sum(&|one| one.0 == user) <= 320));
                prop_assert!((0..3).all(|account| sum(&|one| one.1 == account) <= 480));
                let little: usize = (0..3).map(|account| sum(&|one| one.1 == account)).filter(|sum| *sum <= 10).sum();
                prop_assert!(share.taken() - little <= 640 + 30);
            }
        }
    }
}
