//! The one loop, on one node at a time, that looks after all jobs that have not ended: it takes on those that were left
//! behind, and gives those that wait to providers with room for them. Each job in hand has a task, which lasts until
//! there is nothing more to do for it.
//!
//! Being the only one makes order and limits exact. It is not what keeps a job from being submitted twice: the log does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aihub_domain::video::VideoStatus;
use tokio::{
    sync::{Notify, RwLock},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Videos, catalog::VideoBackend, queue::OpenVideo};
use crate::{
    ports::{
        provider::{FailureKind, ProviderError},
        video_provider::Recovery,
    },
    shares::Holder,
    upstream::guard::{Turn, UnavailableReason},
};

/// How often it is looked for something to do without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks: news come in crowds.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// Jobs that are looked at beyond the free places, in case those before them cannot go where there is room.
const LOOK_AHEAD: usize = 200;
/// How long a job that was refused, or could not be looked after, is left alone; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A provider that says "too many" without saying for how long.
const DEFAULT_REST: Duration = Duration::from_secs(5);
/// One that does not take our key, until somebody has given us another.
const UNUSABLE_REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_mins(10);

/// How long a provider is left alone that answered so.
fn rest_after(error: &ProviderError) -> Option<Duration> {
    let default = match error.kind {
        FailureKind::RateLimited => Some(DEFAULT_REST),
        FailureKind::Unauthorized | FailureKind::QuotaExceeded => Some(UNUSABLE_REST),
        _ => None,
    };
    error.retry_after.or(default).map(|rest| rest.min(LONGEST_REST))
}

pub(super) struct Driver {
    pub(super) videos: Arc<Videos>,
    /// The jobs that have a task.
    hands: Mutex<HashMap<String, Hand>>,
    /// Jobs that are to be left alone for a while.
    pauses: Mutex<HashMap<String, Pause>>,
    /// Providers that have said for good that they do not make this job, by job.
    given_up_on: Mutex<HashMap<String, Vec<String>>>,
    /// Providers that are not to be asked how jobs stand, nor for files, until then.
    resting: Mutex<HashMap<String, Instant>>,
    /// Jobs at providers that are ours, as long as this node looks after them, and the turn to add one.
    pub(super) named: Mutex<HashSet<(String, String)>>,
    pub(super) naming: tokio::sync::Mutex<()>,
    /// By provider: calls that submit share it, and who looks for lost ones has it alone.
    submitting: HashMap<String, Arc<RwLock<()>>>,
    tasks: TaskTracker,
    /// A task has ended.
    freed: Notify,
    pub(super) stop: CancellationToken,
}

struct Hand {
    provider: String,
    wake: Arc<Notify>,
}

struct Pause {
    until: Instant,
    length: Duration,
}

/// A job in a task's hand, until this is dropped.
pub(super) struct InHand {
    driver: Arc<Driver>,
    pub(super) video_id: String,
    /// Somebody wants it looked at now.
    pub(super) wake: Arc<Notify>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.driver.hands.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.video_id);
        self.driver.freed.notify_one();
    }
}

impl Videos {
    /// Looks after all jobs until `stop`; then tasks end where they can be taken up again. To be run on one node at a time.
    pub async fn drive(self: Arc<Self>, stop: CancellationToken) {
        let submitting = self.catalog.backends.keys().map(|name| (name.clone(), Arc::default())).collect();
        let driver = Arc::new(Driver {
            videos: self,
            hands: Mutex::default(),
            pauses: Mutex::default(),
            given_up_on: Mutex::default(),
            named: Mutex::default(),
            naming: tokio::sync::Mutex::default(),
            resting: Mutex::default(),
            submitting,
            tasks: TaskTracker::new(),
            freed: Notify::new(),
            stop,
        });
        driver.run().await;
    }
}

impl Driver {
    async fn run(self: Arc<Self>) {
        let mut news = self.videos.news.subscribe();
        tracing::info!("this node looks after the videos");
        while !self.stop.is_cancelled() {
            if let Err(error) = self.look().await {
                tracing::warn!(error.message = format!("{error:#}"), "the videos could not be looked after");
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = sleep(LOOK_EVERY) => {}
                () = self.freed.notified() => {}
                _ = news.recv() => {}
            }
            // All of them are answered by one look.
            news = news.resubscribe();
            let _ = self.stop.run_until_cancelled(sleep(LOOK_AT_MOST_EVERY)).await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn look(self: &Arc<Self>) -> anyhow::Result<()> {
        self.forget();
        for video_id in self.videos.queue.nudged().await? {
            if let Some(hand) = self.hands.lock().unwrap_or_else(PoisonError::into_inner).get(&video_id) {
                hand.wake.notify_one();
            }
        }
        for open in self.videos.queue.overdue().await? {
            self.clone().take(&open, "", |driver, hand| async move { driver.give_up_waiting(&hand).await });
        }
        let busy = self.videos.queue.busy().await?;
        for status in [VideoStatus::Submitting, VideoStatus::InDoubt, VideoStatus::Rendering, VideoStatus::Stored] {
            let count = busy.iter().filter(|open| open.status == status).count();
            #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
            metrics::gauge!("aihub_videos", "status" => status.as_str()).set(count as f64);
        }
        self.take_on(busy);
        self.hand_out().await
    }

    /// Those that were looked after since are forgotten after a while.
    fn forget(&self) {
        let forget_before = Instant::now();
        let is_recent = |pause: &Pause| pause.until + pause.length * 2 > forget_before;
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.retain(|_, pause| is_recent(pause));
        // Of a job that has ended, or waits for nobody, there is no pause.
        let mut given_up_on = self.given_up_on.lock().unwrap_or_else(PoisonError::into_inner);
        given_up_on.retain(|video_id, _| pauses.contains_key(video_id));
    }

    /// Jobs that somebody drove who is gone, or that were left for later.
    fn take_on(self: &Arc<Self>, busy: Vec<OpenVideo>) {
        let mut lost: BTreeMap<String, Vec<OpenVideo>> = BTreeMap::new();
        for open in busy {
            let Some(provider) = open.provider.clone() else { continue };
            let recovery = self.videos.catalog.backends.get(&provider).map(|backend| backend.provider.recovery());
            match (open.status, recovery) {
                (VideoStatus::Submitting, Some(Recovery::Idempotent)) => {
                    self.clone().take(&open, &provider, |driver, hand| async move { driver.submit_again(&hand).await });
                }
                (VideoStatus::Submitting, _) => lost.entry(provider).or_default().push(open),
                (VideoStatus::Rendering | VideoStatus::Stored, _) => {
                    self.clone().take(&open, &provider, |driver, hand| async move { driver.finish(&hand).await });
                }
                _ => {}
            }
        }
        for (provider, open) in lost {
            let hands: Vec<InHand> = open.iter().filter_map(|open| self.grasp(open, &provider)).collect();
            if !hands.is_empty() {
                let driver = self.clone();
                self.tasks.spawn(async move { driver.recover(&provider, hands).await });
            }
        }
    }

    /// Gives jobs that wait to the providers that have room, in the queue's order.
    async fn hand_out(self: &Arc<Self>) -> anyhow::Result<()> {
        let mut room = self.room();
        let free: usize = room.values().sum();
        if free == 0 {
            return Ok(());
        }
        let full: Vec<String> = room.iter().filter(|(_, free)| **free == 0).map(|(name, _)| name.clone()).collect();
        for open in self.videos.queue.waiting(free + LOOK_AHEAD, &full).await? {
            if room.values().all(|free| *free == 0) {
                break;
            }
            if self.is_busy(&open.video_id) {
                continue;
            }
            if let Some((backend, turn)) = self.choose(&open, &room) {
                room.entry(backend.name.clone()).and_modify(|free| *free -= 1);
                let name = backend.name.clone();
                self.clone().take(
                    &open,
                    &name,
                    |driver, hand| async move { driver.submit(&hand, &backend, turn).await },
                );
            }
        }
        Ok(())
    }

    /// The first of the job's providers that can be called. One that is full is waited for: only an outage makes the job
    /// another provider's.
    fn choose(&self, open: &OpenVideo, room: &BTreeMap<String, usize>) -> Option<(Arc<VideoBackend>, Turn)> {
        for provider in &open.offers {
            let Some(backend) = self.videos.catalog.backends.get(provider) else { continue };
            if self.has_given_up_on(&open.video_id, provider) {
                continue;
            }
            if room.get(provider).is_none_or(|free| *free == 0) {
                return None;
            }
            let (user, account) = (String::new(), open.account.clone());
            // All of its models are one: there are few, and films are few.
            match backend.guard.turn(Holder::Principal { user, account }, "", 1) {
                Ok(turn) => return Some((backend.clone(), turn)),
                Err(unavailable) => match unavailable.reason {
                    UnavailableReason::BreakerOpen | UnavailableReason::CoolingDown => {}
                    UnavailableReason::ConcurrencyLimit | UnavailableReason::RateLimit => return None,
                },
            }
        }
        None
    }

    /// The provider will not make this job, however often it is asked.
    pub(super) fn give_up_on(&self, video_id: &str, provider: &str) {
        let mut given_up_on = self.given_up_on.lock().unwrap_or_else(PoisonError::into_inner);
        given_up_on.entry(video_id.to_owned()).or_default().push(provider.to_owned());
    }

    pub(super) fn has_given_up_on(&self, video_id: &str, provider: &str) -> bool {
        let given_up_on = self.given_up_on.lock().unwrap_or_else(PoisonError::into_inner);
        given_up_on.get(video_id).is_some_and(|providers| providers.iter().any(|one| one == provider))
    }

    /// Leaves the provider alone for as long as its refusal says, for all jobs.
    pub(super) fn rest_after(&self, provider: &str, error: &ProviderError) {
        let Some(rest) = rest_after(error) else { return };
        let until = Instant::now() + rest;
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = resting.entry(provider.to_owned()).or_insert(until);
        *known = until.max(*known);
    }

    /// How long the provider is still to be left alone.
    pub(super) fn rest_of(&self, provider: &str) -> Duration {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.get(provider).map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// How many more jobs each provider may have.
    fn room(&self) -> BTreeMap<String, usize> {
        let hands = self.hands.lock().unwrap_or_else(PoisonError::into_inner);
        let used = |name: &str| hands.values().filter(|hand| hand.provider == name).count();
        let backends = self.videos.catalog.backends.values();
        backends
            .map(|backend| (backend.name.clone(), backend.max_concurrency.saturating_sub(used(&backend.name))))
            .collect()
    }

    fn is_busy(&self, video_id: &str) -> bool {
        let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.get(video_id).is_some_and(|pause| pause.until > Instant::now())
            || self.hands.lock().unwrap_or_else(PoisonError::into_inner).contains_key(video_id)
    }

    /// Leaves the job alone for a while, and for longer each time.
    pub(super) fn pause(&self, video_id: &str) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let length =
            pauses.get(video_id).map_or(FIRST_PAUSE, |last| (last.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE));
        pauses.insert(video_id.to_owned(), Pause { until: Instant::now() + length, length });
    }

    /// Leaves the job alone for so long.
    pub(super) fn pause_for(&self, video_id: &str, wait: Duration) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.insert(video_id.to_owned(), Pause { until: Instant::now() + wait, length: FIRST_PAUSE });
    }

    /// Leaves the jobs alone for so long, and until the last of them is to be looked at again, so that one task gets all.
    pub(super) fn pause_together(&self, video_ids: &[&str], wait: Duration) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let last = video_ids.iter().filter_map(|video_id| pauses.get(*video_id)).map(|pause| pause.until).max();
        let until = (Instant::now() + wait.max(REST)).max(last.unwrap_or_else(Instant::now));
        for video_id in video_ids {
            pauses.insert((*video_id).to_owned(), Pause { until, length: FIRST_PAUSE });
        }
    }

    /// The queue may not have read what was done for the job: until it has, there is nothing more to do.
    fn rest(&self, video_id: &str) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = || Pause { until: Instant::now() + REST, length: REST };
        pauses.entry(video_id.to_owned()).or_insert_with(rest);
    }

    pub(super) fn submitting(&self, provider: &str) -> Arc<RwLock<()>> {
        self.submitting.get(provider).cloned().unwrap_or_default()
    }

    /// `None` where a task has it, or it is to be left alone.
    fn grasp(self: &Arc<Self>, open: &OpenVideo, provider: &str) -> Option<InHand> {
        if self.is_busy(&open.video_id) {
            return None;
        }
        let wake = Arc::<Notify>::default();
        let hand = Hand { provider: provider.to_owned(), wake: wake.clone() };
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).insert(open.video_id.clone(), hand);
        Some(InHand { driver: self.clone(), video_id: open.video_id.clone(), wake })
    }

    /// Has `work` done on the job in a task of its own, unless it is being looked after. An error leaves the job for later.
    fn take<F, W>(self: Arc<Self>, open: &OpenVideo, provider: &str, work: F)
    where
        F: FnOnce(Arc<Self>, Arc<InHand>) -> W + Send + 'static,
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Some(hand) = self.grasp(open, provider) else { return };
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let hand = Arc::new(hand);
            let done = work(self.clone(), hand.clone()).await;
            let video_id = &hand.video_id;
            self.rest(video_id);
            if let Err(error) = done {
                tracing::error!(video.id = %video_id, error.message = format!("{error:#}"), "a video is left for later");
                self.pause(video_id);
            }
        });
    }

    async fn give_up_waiting(&self, hand: &InHand) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(mut known) = jobs.load(&hand.video_id).await? else { return Ok(()) };
        let overdue = known.request()?.queued_until <= jobs.clock.now();
        if known.status() == VideoStatus::Queued && overdue {
            jobs.expire(&mut known, "no provider had room for it in time").await?;
        }
        Ok(())
    }
}
