//! Where waiting jobs stand. A place is known only when the whole queue is sorted: so that is done once for all who ask.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::{sync::Mutex, time::Instant};

use super::queue::{Places, VideoQueue};

/// How old a place may be that is told.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The places of all jobs that wait, by account.
pub type AllPlaces = HashMap<String, Arc<Places>>;

pub struct QueuePlaces {
    queue: Arc<dyn VideoQueue>,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    /// When the look began, and when it ended.
    at: Instant,
    until: Instant,
    /// A failure is as good as a place: who asks next does not wait for the same time-out again.
    places: Result<Arc<AllPlaces>, String>,
}

impl Seen {
    fn settles(&self, account: &str, video_id: &str) -> bool {
        self.places.as_ref().map_or(true, |places| place_in(places, account, video_id).is_some())
    }
}

fn place_in(places: &AllPlaces, account: &str, video_id: &str) -> Option<u64> {
    places.get(account)?.get(video_id).copied()
}

impl QueuePlaces {
    pub fn new(queue: Arc<dyn VideoQueue>) -> Self {
        Self { queue, seen: Mutex::default() }
    }

    /// Where a job stood a second ago or later, or when a look began that has just ended. `None` where it does not wait:
    /// a job that such a look has not seen may have come since, and is worth one that begins now.
    pub async fn of(&self, account: &str, video_id: &str) -> anyhow::Result<Option<u64>> {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        // However long a look takes, nobody waits for more than that one and the next.
        let places = match &*seen {
            Some(seen) if seen.at >= asked => seen.places.clone(),
            Some(seen) if (seen.at.elapsed() < FRESH_FOR || seen.until >= asked) && seen.settles(account, video_id) => {
                seen.places.clone()
            }
            _ => self.look(&mut seen).await,
        };
        Ok(place_in(&*places.map_err(|error| anyhow!(error))?, account, video_id))
    }

    /// Where all jobs stand now.
    pub async fn now(&self) -> anyhow::Result<Arc<AllPlaces>> {
        self.look(&mut *self.seen.lock().await).await.map_err(|error| anyhow!(error))
    }

    async fn look(&self, seen: &mut Option<Seen>) -> Result<Arc<AllPlaces>, String> {
        let at = Instant::now();
        let places = self.queue.places().await.map(Arc::new).map_err(|error| format!("{error:#}"));
        *seen = Some(Seen { at, until: Instant::now(), places: places.clone() });
        places
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::{
        FutureExt,
        future::{self, BoxFuture},
    };

    use super::{super::queue::OpenVideo, *};

    /// Sorted so many times; the one job in it stands where that says.
    struct Sorted {
        times: AtomicU64,
        takes: Duration,
    }

    impl VideoQueue for Sorted {
        fn places(&self) -> BoxFuture<'_, anyhow::Result<AllPlaces>> {
            async {
                tokio::time::sleep(self.takes).await;
                let times = self.times.fetch_add(1, Ordering::SeqCst) + 1;
                if times > 2 {
                    return Err(anyhow!("it is away"));
                }
                Ok(AllPlaces::from([("ada".to_owned(), Arc::new(Places::from([("job".to_owned(), times)])))]))
            }
            .boxed()
        }

        fn busy(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>> {
            unreachable!()
        }

        fn waiting<'a>(&'a self, _: usize, _: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>> {
            unreachable!()
        }

        fn of_user<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<String>>> {
            unreachable!()
        }

        fn overdue(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>> {
            unreachable!()
        }

        fn unanswered<'a>(&'a self, _: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>> {
            unreachable!()
        }

        fn known<'a>(&'a self, _: &'a str, _: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<String>>> {
            unreachable!()
        }

        fn find<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>> {
            unreachable!()
        }

        fn nudge<'a>(&'a self, _: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
            unreachable!()
        }

        fn nudged(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
            unreachable!()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_the_queue_is_sorted_once_a_second() {
        let queue = Arc::new(Sorted { times: AtomicU64::default(), takes: Duration::from_millis(22) });
        let places = QueuePlaces::new(queue.clone());
        for times in 1..=2 {
            let asked = (0..100).map(|_| places.of("ada", "job"));
            let told: Vec<_> = future::try_join_all(asked).await.unwrap();
            assert_eq!((told, queue.times.load(Ordering::SeqCst)), (vec![Some(times); 100], times));
            tokio::time::advance(FRESH_FOR).await;
        }
        let told = future::join_all((0..100).map(|_| places.of("ada", "job"))).await;
        assert!(told.iter().all(Result::is_err), "a failure is shared too");
        assert_eq!(queue.times.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_was_not_seen_to_wait_is_looked_for_once_by_all_who_ask_meanwhile() {
        let queue = Arc::new(Sorted { times: AtomicU64::default(), takes: Duration::from_millis(22) });
        let places = QueuePlaces::new(queue.clone());
        assert_eq!(places.of("ada", "job").await.unwrap(), Some(1));
        let told = future::try_join_all((0..100).map(|_| places.of("bob", "job"))).await.unwrap();
        assert_eq!((told, queue.times.load(Ordering::SeqCst)), (vec![None; 100], 2));
        assert_eq!((places.of("ada", "job").await.unwrap(), queue.times.load(Ordering::SeqCst)), (Some(2), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_long_is_waited_for_once_by_all_who_asked_meanwhile() {
        let takes = FRESH_FOR * 5;
        let queue = Arc::new(Sorted { times: AtomicU64::default(), takes });
        let places = QueuePlaces::new(queue.clone());
        let began = Instant::now();
        let told = future::try_join_all((0..100).map(|_| places.of("ada", "job"))).await.unwrap();
        assert_eq!((told, began.elapsed()), (vec![Some(1); 100], takes));
    }
}
