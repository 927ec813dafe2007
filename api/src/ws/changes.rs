//! What changes for accounts, told to the sockets that watch. A node listens once for all of its sockets; and what a
//! socket has not heard yet is kept as its latest state, however often it changes.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aihub_application::{
    ports::jobs::{JobKind, News, news_about},
    videos::{Videos, places::QueuePlaces, queue::Places},
};
use aihub_domain::{
    account::{Account, event::AccountEvent},
    money::Microcredits,
};
use aihub_infrastructure::event_store::{decode::LogEntry, subscription::live::Live};
use cqrs_es::Aggregate;
use tokio::{
    sync::{
        Notify, Semaphore,
        broadcast::{Receiver, error::RecvError},
    },
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Looks at the log or the database that a node's sockets take at the same time. So sockets that all come back at once
/// leave connections to the requests.
const MAX_LOOKS: usize = 4;
/// The least time between two looks at the whole queue.
const PLACES_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Changes {
    /// What there is to spend; `None` where that has to be looked at.
    pub balances: Arc<Watchers<Option<Microcredits>>>,
    pub videos: Arc<Watchers<JobChanges>>,
    pub workflows: Arc<Watchers<JobChanges>>,
    pub looks: Semaphore,
}

#[derive(Debug, Default)]
pub struct JobChanges {
    pub changed: BTreeSet<String>,
    /// There may have been others.
    pub missed: bool,
    /// Of videos: where all of the account's that wait stand now; `None` where that was not looked at.
    pub places: Option<Arc<Places>>,
}

/// The watched accounts.
pub struct Watchers<T>(Mutex<HashMap<String, Vec<Arc<Unheard<T>>>>>);

/// Of one watcher: what it has not taken yet.
struct Unheard<T> {
    news: Mutex<Option<T>>,
    told: Notify,
}

/// One watcher of one account, until it is dropped.
pub struct Watch<T> {
    account: String,
    watchers: Arc<Watchers<T>>,
    unheard: Arc<Unheard<T>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            balances: Arc::default(),
            videos: Arc::default(),
            workflows: Arc::default(),
            looks: Semaphore::new(MAX_LOOKS),
        }
    }
}

impl Changes {
    /// Tells watchers what happens, until `stop`.
    pub async fn follow(self: Arc<Self>, log: Live, videos: Arc<Videos>, stop: CancellationToken) {
        let (news, moves) = (videos.news.subscribe(), videos.news.subscribe());
        let following = async {
            tokio::join!(self.follow_balances(log), self.follow_jobs(news), self.follow_queue(&videos.places, moves))
        };
        stop.run_until_cancelled(following).await;
    }

    /// A job that is taken or comes moves all those behind it, which nothing is told of. So the whole queue is looked at for
    /// all who watch, when something has happened, and at most every second: that costs the same however many watch.
    async fn follow_queue(&self, queue: &QueuePlaces, mut moves: Receiver<News>) {
        loop {
            news_about(&mut moves, |news| matches!(news, News::Changed { kind: JobKind::Video, .. })).await;
            let places = loop {
                // What else happens until then is in what is seen then.
                sleep(PLACES_EVERY).await;
                moves = moves.resubscribe();
                if self.videos.accounts().is_empty() {
                    break None;
                }
                match queue.now().await {
                    Ok(places) => break Some(places),
                    Err(error) => {
                        tracing::warn!(
                            error.message = format!("{error:#}"),
                            "places in the queue could not be looked at"
                        );
                    }
                }
            };
            let Some(places) = places else { continue };
            for account in self.videos.accounts() {
                let of_account = places.get(&account).cloned().unwrap_or_default();
                self.videos.tell(&account, |changes| changes.places = Some(of_account.clone()));
            }
        }
    }

    async fn follow_balances(&self, mut log: Live) {
        loop {
            match log.next().await {
                Some(events) => events.iter().for_each(|event| self.tell_balance(event)),
                None => self.balances.tell_all(|balance| *balance = None),
            }
        }
    }

    fn tell_balance(&self, event: &LogEntry) {
        // Most accounts are not watched, and their events are not even decoded.
        if event.aggregate_type == Account::TYPE && self.balances.are_there(&event.aggregate_id) {
            match event.event::<Account>().map(available) {
                Ok(None) => {}
                Ok(available) => self.balances.tell(&event.aggregate_id, |balance| *balance = available),
                // Whoever cannot go on without it says so. Here it is only a reason to look.
                Err(_) => self.balances.tell(&event.aggregate_id, |balance| *balance = None),
            }
        }
    }

    pub fn jobs(&self, kind: JobKind) -> &Arc<Watchers<JobChanges>> {
        match kind {
            JobKind::Video => &self.videos,
            JobKind::Workflow => &self.workflows,
        }
    }

    async fn follow_jobs(&self, mut news: Receiver<News>) {
        loop {
            match news.recv().await {
                Ok(News::Changed { kind, id, account }) => self.jobs(kind).tell(&account, |changes| {
                    changes.changed.insert(id.clone());
                }),
                Ok(News::Missed) | Err(RecvError::Lagged(_)) => {
                    for jobs in [&self.videos, &self.workflows] {
                        jobs.tell_all(|changes| changes.missed = true);
                    }
                }
                // The service ends.
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// What the event left to be spent, where it changed that.
fn available(event: &AccountEvent) -> Option<Microcredits> {
    match event {
        AccountEvent::AccountOpened { .. } | AccountEvent::UsageLimitsSet { .. } => None,
        AccountEvent::CreditsGranted { available_microcredits, .. }
        | AccountEvent::GrantVoided { available_microcredits, .. }
        | AccountEvent::CreditsExpired { available_microcredits, .. }
        | AccountEvent::CreditsAdjusted { available_microcredits, .. }
        | AccountEvent::CreditsReserved { available_microcredits, .. }
        | AccountEvent::ReservationExtended { available_microcredits, .. }
        | AccountEvent::CreditsSettled { available_microcredits, .. }
        | AccountEvent::CreditsReleased { available_microcredits, .. } => Some(*available_microcredits),
    }
}

impl<T: Default> Watchers<T> {
    /// Watches the account from now on.
    pub fn watch(self: &Arc<Self>, account: &str) -> Watch<T> {
        let unheard = Arc::new(Unheard { news: Mutex::default(), told: Notify::new() });
        self.lock().entry(account.to_owned()).or_default().push(unheard.clone());
        Watch { account: account.to_owned(), watchers: self.clone(), unheard }
    }

    fn are_there(&self, account: &str) -> bool {
        self.lock().contains_key(account)
    }

    fn tell(&self, account: &str, change: impl Fn(&mut T)) {
        for unheard in self.lock().get(account).into_iter().flatten() {
            unheard.tell(&change);
        }
    }

    fn tell_all(&self, change: impl Fn(&mut T)) {
        for unheard in self.lock().values().flatten() {
            unheard.tell(&change);
        }
    }
}

impl<T> Watchers<T> {
    fn accounts(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Unheard<T>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Unheard<T> {
    fn tell(&self, change: impl Fn(&mut T)) {
        change(self.news.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
        self.told.notify_one();
    }
}

impl<T> Watch<T> {
    /// What was told since it was last taken, if anything was.
    pub fn take(&mut self) -> Option<T> {
        self.unheard.news.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was told since it was last taken; waits until something is.
    pub async fn next(&mut self) -> T {
        loop {
            if let Some(news) = self.take() {
                return news;
            }
            self.unheard.told.notified().await;
        }
    }
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> fmt::Debug for Watchers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watchers").field(&self.lock().len()).finish()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        if let Some(watchers) = watched.get_mut(&self.account) {
            watchers.retain(|unheard| !Arc::ptr_eq(unheard, &self.unheard));
            if watchers.is_empty() {
                watched.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_that_was_away_hears_the_latest_state_once() {
        let watchers = Arc::<Watchers<Option<Microcredits>>>::default();
        let (mut ann, mut other) = (watchers.watch("ann"), watchers.watch("bob"));
        for amount in [3, 2, 1] {
            watchers.tell("ann", |balance| *balance = Some(Microcredits(amount)));
        }
        assert_eq!(ann.next().await, Some(Microcredits(1)));
        assert_eq!((ann.take(), other.take()), (None, None));
    }

    #[test]
    fn an_account_that_nobody_watches_any_more_is_forgotten() {
        let watchers = Arc::<Watchers<JobChanges>>::default();
        let (one, two) = (watchers.watch("ann"), watchers.watch("ann"));
        drop(one);
        assert!(watchers.are_there("ann"));
        drop(two);
        assert!(!watchers.are_there("ann"));
    }
}
