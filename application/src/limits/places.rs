//! The places of running requests, and the queue for them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{interval, sleep},
};

use super::{Capacity, load::Load};
use crate::{
    error::GatewayError,
    principal::Principal,
    shares::{Held, Holder, Portions, Share},
};

/// How often whoever waits is told where, if it is elsewhere than before.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// A node's places. They are taken in the order of arrival; but some are kept for accounts with few running requests, so
/// that those who fill the others up, or wait for one, keep nobody else from theirs. A user's requests are served in their order
/// always. While the processors are busy there are fewer of both.
pub(super) struct Places {
    capacity: Capacity,
    portions: Portions,
    waiting: Arc<Share>,
    line: Arc<Line>,
}

/// One of the node's places. Dropping it gives it to the next who waits.
pub struct Place {
    line: Arc<Line>,
    is_kept: bool,
}

/// A place, or one in the queue for a place.
pub enum Entry {
    Now(Place),
    Queued(Waiting),
}

pub struct Waiting {
    ticket: u64,
    place: oneshot::Receiver<Place>,
    line: Arc<Line>,
    _held: Held,
}

struct Line {
    standing: Mutex<Standing>,
    /// An account that has no more than these may have a place that is kept for such, unless the processors are busy.
    little: usize,
    /// All that are not kept.
    open: usize,
    running: Arc<Mutex<HashMap<String, u32>>>,
}

struct Standing {
    load: Load,
    free: usize,
    free_kept: usize,
    next_ticket: u64,
    /// By ticket.
    waiting: VecDeque<Seat>,
}

struct Seat {
    ticket: u64,
    user: String,
    account: String,
    place: oneshot::Sender<Place>,
}

impl Places {
    /// `running` are each account's requests, those that wait included.
    pub fn new(capacity: Capacity, running: Arc<Mutex<HashMap<String, u32>>>) -> Self {
        let portions = Portions::of(capacity.running_requests);
        let queue = Portions::of(capacity.waiting_requests);
        let free = portions.all - portions.kept;
        let load = Load::new(free, Duration::from_millis(capacity.max_lag_ms));
        let standing = Standing { load, free, free_kept: portions.kept, next_ticket: 0, waiting: VecDeque::new() };
        let line = Arc::new(Line { standing: Mutex::new(standing), little: portions.little, open: free, running });
        Self { capacity, portions, waiting: Share::new("waiting requests", queue), line }
    }

    /// A place, or the last one in the queue, unless that is full.
    pub fn enter(&self, principal: &Principal) -> Result<Entry, GatewayError> {
        let mut line = self.line.standing();
        let has_few = self.line.has_few(&line, &principal.account);
        let is_next = !line.waiting.iter().any(|seat| seat.is_of(&principal.user, &principal.account));
        if is_next && let Some(is_kept) = self.line.take(&mut line, has_few) {
            return Ok(Entry::Now(Place { line: self.line.clone(), is_kept }));
        }
        let held = self.waiting.take(Holder::of(principal), 1).map_err(|used_up| {
            let refused = GatewayError::from(used_up);
            if refused.code() == "QUEUE_FULL" { self.queue_full(&line) } else { refused }
        })?;
        let (sender, place) = oneshot::channel();
        line.next_ticket += 1;
        let ticket = line.next_ticket;
        let (user, account) = (principal.user.clone(), principal.account.clone());
        line.waiting.push_back(Seat { ticket, user, account, place: sender });
        drop(line);
        Ok(Entry::Queued(Waiting { ticket, place, line: self.line.clone(), _held: held }))
    }

    /// Waits for a place, at most as long as configured. `tell` hears how many wait before this one, itself included, now and
    /// when that has changed.
    pub async fn wait(&self, mut waiting: Waiting, tell: impl Fn(usize)) -> Result<Place, GatewayError> {
        let end = sleep(Duration::from_millis(self.capacity.wait_ms));
        let (mut again, mut told) = (interval(TELL_EVERY), None);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                place = &mut waiting.place => return place.map_err(|_| GatewayError::ShuttingDown),
                () = &mut end => return Err(self.queue_full(&self.line.standing())),
                _ = again.tick() => {
                    let position = waiting.position();
                    if let Some(position) = position.filter(|_| position != told) {
                        tell(position);
                        told = Some(position);
                    }
                }
            }
        }
    }

    /// Whoever was ready waited so long for a processor. To be told often: those who wait may have a place by it, and those whose
    /// requests have become few while nobody gave a place back.
    pub fn feel(&self, lag: Duration) {
        let mut line = self.line.standing();
        let running = self.line.open - line.free;
        line.load.feel(lag, running);
        drop(line);
        for is_kept in [false, true] {
            self.line.hand_out(is_kept);
        }
    }

    pub fn taken(&self) -> usize {
        self.running(&self.line.standing())
    }

    fn running(&self, line: &Standing) -> usize {
        self.portions.all - line.free - line.free_kept
    }

    fn queue_full(&self, line: &Standing) -> GatewayError {
        GatewayError::QueueFull {
            running: self.running(line),
            waiting: line.waiting.len(),
            retry_after: Duration::from_secs(1),
        }
    }
}

impl Line {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_few(&self, line: &Standing, account: &str) -> bool {
        let few = line.load.in_proportion(self.little);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(account).is_none_or(|running| *running as usize <= few)
    }

    /// Whether one that is not kept may be taken, of those that are free.
    fn has_open(&self, line: &Standing) -> bool {
        line.free > 0 && self.open - line.free < line.load.allowed()
    }

    /// Whether the place that was taken is a kept one. Whoever has few is before those who have many and wait.
    fn take(&self, line: &mut Standing, has_few: bool) -> Option<bool> {
        if line.waiting.is_empty() && self.has_open(line) {
            line.free -= 1;
            return Some(false);
        }
        let may_have_kept = has_few && line.free_kept > 0;
        may_have_kept.then(|| {
            line.free_kept -= 1;
            true
        })
    }

    /// Where whoever is to have a place that is free stands.
    fn place_of_next(&self, line: &Standing, is_kept: bool) -> Option<usize> {
        if !is_kept {
            return (!line.waiting.is_empty()).then_some(0);
        }
        let mut passed = HashSet::new();
        line.waiting
            .iter()
            .position(|seat| passed.insert((&seat.user, &seat.account)) && self.has_few(line, &seat.account))
    }

    /// Gives places that are free, kept ones or others, to those who wait and may have them.
    fn hand_out(self: &Arc<Self>, is_kept: bool) {
        loop {
            let mut line = self.standing();
            let is_free = if is_kept { line.free_kept > 0 } else { self.has_open(&line) };
            let next = is_free.then(|| self.place_of_next(&line, is_kept)).flatten();
            let Some(seat) = next.and_then(|at| line.waiting.remove(at)) else { return };
            *line.free_of(is_kept) -= 1;
            drop(line);
            // Whoever has left meanwhile drops it, and so it goes to the one behind.
            let _ = seat.place.send(Place { line: self.clone(), is_kept });
        }
    }
}

impl Seat {
    fn is_of(&self, user: &str, account: &str) -> bool {
        self.user == user && self.account == account
    }
}

impl Standing {
    fn free_of(&mut self, is_kept: bool) -> &mut usize {
        if is_kept { &mut self.free_kept } else { &mut self.free }
    }

    fn place_of(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |seat| seat.ticket).ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.line.standing().free_of(self.is_kept) += 1;
        self.line.hand_out(self.is_kept);
    }
}

impl Waiting {
    /// How many wait before this one, itself included; none where it has its place.
    pub fn position(&self) -> Option<usize> {
        self.line.standing().place_of(self.ticket).map(|at| at + 1)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut line = self.line.standing();
        let left = line.place_of(self.ticket).and_then(|at| line.waiting.remove(at));
        drop(line);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Capabilities;

    fn principal(account: &str) -> Principal {
        Principal {
            user: account.into(),
            account: account.into(),
            roles: vec![],
            expires_at: chrono::DateTime::UNIX_EPOCH,
            capabilities: Capabilities::default(),
        }
    }

    fn places(running_requests: usize, waiting_requests: usize) -> Places {
        Places::new(Capacity { running_requests, waiting_requests, wait_ms: 1_000, max_lag_ms: 10 }, Arc::default())
    }

    fn set_running(places: &Places, account: &str, running: u32) {
        places.line.running.lock().unwrap().insert(account.to_owned(), running);
    }

    fn place(entry: Result<Entry, GatewayError>) -> Option<Place> {
        match entry.unwrap() {
            Entry::Now(place) => Some(place),
            Entry::Queued(_) => None,
        }
    }

    fn waiting(entry: Result<Entry, GatewayError>) -> Waiting {
        match entry.unwrap() {
            Entry::Now(_) => panic!("there was a place"),
            Entry::Queued(waiting) => waiting,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_places_a_bounded_number_waits_for_a_bounded_time() {
        let places = places(1, 1);
        let ann = principal("ann");
        let first = place(places.enter(&ann)).unwrap();
        let second = waiting(places.enter(&ann));
        let full = places.enter(&ann).err();
        assert!(matches!(full, Some(GatewayError::QueueFull { running: 1, waiting: 1, .. })));
        assert!(matches!(places.wait(second, |_| ()).await, Err(GatewayError::QueueFull { .. })));
        let third = waiting(places.enter(&ann));
        drop(first);
        assert!(places.wait(third, |_| ()).await.is_ok());
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_order_and_told_whenever_that_comes_nearer() {
        let places = places(1, 10);
        let mut running = place(places.enter(&principal("ann")));
        let mut queue: VecDeque<_> = (0..4).map(|nth| (nth, waiting(places.enter(&principal("bob"))))).collect();
        assert_eq!(queue[3].1.position(), Some(4));
        // One leaves out of the midst.
        queue.remove(1);
        let positions = Mutex::new(vec![]);
        let (_, last) = queue.pop_back().unwrap();
        let told = places.wait(last, |position| positions.lock().unwrap().push(position));
        let others = async {
            for (nth, next) in queue {
                sleep(TELL_EVERY + Duration::from_millis(10)).await;
                drop(running.take());
                running = Some(places.wait(next, |_| ()).await.unwrap_or_else(|_| panic!("{nth} has none")));
            }
            sleep(TELL_EVERY).await;
            drop(running.take());
        };
        let (place, ()) = tokio::join!(told, others);
        assert!(place.is_ok());
        assert_eq!(*positions.lock().unwrap(), [3, 2, 1]);
    }

    #[tokio::test]
    async fn a_place_that_is_given_to_somebody_who_left_goes_to_the_next() {
        let places = places(1, 10);
        let running = place(places.enter(&principal("ann"))).unwrap();
        let (gone, next) = (waiting(places.enter(&principal("bob"))), waiting(places.enter(&principal("eve"))));
        drop(running);
        assert_eq!((gone.position(), next.position()), (None, Some(1)), "it is on its way");
        drop(gone);
        assert!(places.wait(next, |_| ()).await.is_ok());
        assert_eq!(places.taken(), 0);
        assert!(place(places.enter(&principal("bob"))).is_some());
    }

    #[tokio::test]
    async fn accounts_with_many_requests_leave_places_to_those_with_few_and_wait_for_theirs() {
        let places = places(1_280, 1_280);
        let greedy = principal("greedy");
        set_running(&places, "greedy", 1_000);
        let many: Vec<Place> = (0..640).map(|_| place(places.enter(&greedy)).unwrap()).collect();
        let waiting: Vec<Waiting> = std::iter::from_fn(|| match places.enter(&greedy) {
            Ok(Entry::Queued(waiting)) => Some(waiting),
            _ => None,
        })
        .collect();
        assert_eq!(waiting.len(), 320);
        let ann = place(places.enter(&principal("ann")));
        assert!(ann.is_some(), "nobody who waits is before whoever has few");
        set_running(&places, "bob", 100);
        assert!(matches!(places.enter(&principal("bob")), Ok(Entry::Queued(_))));
        drop(many);
        assert!(waiting.iter().all(|waiting| waiting.position().is_none()), "all have their place");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_few_again_gets_the_places_that_are_kept_in_the_order_of_their_requests() {
        let places = places(1_280, 1_280);
        set_running(&places, "greedy", 1_000);
        let _many: Vec<Place> = (0..640).map(|_| place(places.enter(&principal("greedy"))).unwrap()).collect();
        let bob = principal("bob");
        set_running(&places, "bob", 11);
        let (first, second) = (waiting(places.enter(&bob)), waiting(places.enter(&bob)));
        // Most of theirs have ended: the next one is not before those that wait, and all of them get their place.
        set_running(&places, "bob", 3);
        let third = waiting(places.enter(&bob));
        places.feel(Duration::ZERO);
        for waiting in [first, second, third] {
            assert!(places.wait(waiting, |_| ()).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_processors_are_busy_those_with_many_wait_and_those_with_few_do_not() {
        let places = places(1_280, 1_280);
        let greedy = principal("greedy");
        set_running(&places, "greedy", 1_000);
        let mut running: Vec<Place> = (0..100).map(|_| place(places.enter(&greedy)).unwrap()).collect();
        for _ in 0..2 {
            places.feel(Duration::from_millis(11));
        }
        let next = waiting(places.enter(&greedy));
        running.truncate(90);
        assert_eq!(next.position(), Some(1), "what runs is still as much as may");
        set_running(&places, "ann", 1);
        assert!(place(places.enter(&principal("ann"))).is_some());
        running.truncate(89);
        assert!(next.position().is_none());
        let more: Vec<Waiting> = (0..50).map(|_| waiting(places.enter(&greedy))).collect();
        for _ in 0..20 {
            places.feel(Duration::from_millis(1));
        }
        assert!(more.iter().all(|waiting| waiting.position().is_none()), "all have their place");
    }
}
