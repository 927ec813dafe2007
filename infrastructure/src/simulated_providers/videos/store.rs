//! Where the videos are kept, and found again by their idempotency keys.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use aihub_application::ports::clock::{Clock as _, SystemClock};
use tokio::time::Instant;

use super::{
    super::{
        SimulatedProvider,
        knobs::{Settings, video::Idempotency},
    },
    CreatedVideo, Order, Video,
};

/// So many videos are kept; then the oldest are forgotten. One takes its prompt and about 500 bytes.
pub const MAX_VIDEOS: usize = 50_000;

#[derive(Default)]
pub(in super::super) struct Videos {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By the call that created them, the deleted ones as well.
    videos: BTreeMap<u64, Arc<Video>>,
    by_key: HashMap<Box<str>, u64>,
}

/// What a call that creates a video brings along.
pub(in super::super) struct Submission<'a> {
    pub call: u64,
    pub order: Order,
    pub idempotency_key: Option<Box<str>>,
    pub client_request_id: Option<Box<str>>,
    pub settings: &'a Settings,
}

pub(in super::super) enum Submitted {
    Created(Arc<Video>),
    /// The key came before with the same order.
    Repeated(Arc<Video>),
    /// The key came before with another order.
    KeyReused,
}

/// Which part of the list.
pub(in super::super) struct Page {
    /// The call of the video before the page.
    pub after: Option<u64>,
    pub limit: usize,
    pub newest_first: bool,
}

impl Videos {
    pub fn submit(&self, submission: Submission<'_>) -> Submitted {
        let Submission { call, order, idempotency_key, client_request_id, settings } = submission;
        let mut kept = self.kept();
        let key = idempotency_key.clone().filter(|_| settings.video.idempotency != Some(Idempotency::Off));
        if let Some(first) = key.as_ref().and_then(|key| kept.videos.get(kept.by_key.get(key)?)) {
            if first.order != order {
                return Submitted::KeyReused;
            }
            first.submissions.fetch_add(1, Relaxed);
            return Submitted::Repeated(Arc::clone(first));
        }
        if kept.videos.len() == MAX_VIDEOS
            && let Some((_, oldest)) = kept.videos.pop_first()
            && let Some(key) = &oldest.idempotency_key
        {
            kept.by_key.remove(key);
        }
        let video = Arc::new(Video {
            call,
            order,
            created_at: SystemClock.now(),
            created: Instant::now(),
            idempotency_key,
            client_request_id,
            knobs: settings.video,
            trouble: settings.trouble.clone(),
            submissions: AtomicU32::new(1),
            downloads: AtomicU32::new(0),
            deleted: AtomicBool::new(false),
        });
        kept.videos.insert(call, Arc::clone(&video));
        if let Some(key) = key {
            kept.by_key.insert(key, call);
        }
        Submitted::Created(video)
    }

    /// One that is not deleted, by what its provider calls it.
    pub fn find(&self, id: &str) -> Option<Arc<Video>> {
        self.find_call(call_of(id)?).filter(|video| video.id() == id)
    }

    /// One that is not deleted, by the call that created it.
    pub fn find_call(&self, call: u64) -> Option<Arc<Video>> {
        self.kept().videos.get(&call).filter(|video| !video.is_deleted()).cloned()
    }

    /// Ends a running one as well. `None` where there is none, or no more.
    pub fn delete(&self, id: &str) -> Option<Arc<Video>> {
        let video = self.find(id)?;
        (!video.deleted.swap(true, Relaxed)).then_some(video)
    }

    /// A page of those that are not deleted, and whether there are more. Only `OpenAI` lists any.
    pub fn page(&self, Page { after, limit, newest_first }: &Page) -> (Vec<Arc<Video>>, bool) {
        let kept = self.kept();
        let is_listed =
            |video: &&Arc<Video>| video.order.model.provider == SimulatedProvider::OpenAi && !video.is_deleted();
        let bound = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page: Vec<Arc<Video>> = if *newest_first {
            let rest = kept.videos.range((Bound::Unbounded, bound)).rev();
            rest.map(|(_, video)| video).filter(is_listed).take(limit + 1).cloned().collect()
        } else {
            let rest = kept.videos.range((bound, Bound::Unbounded));
            rest.map(|(_, video)| video).filter(is_listed).take(limit + 1).cloned().collect()
        };
        let has_more = page.len() > *limit;
        page.truncate(*limit);
        (page, has_more)
    }

    /// All that were created after call number `since`, oldest first, the deleted ones as well.
    pub fn created_since(&self, since: u64) -> impl Iterator<Item = CreatedVideo> {
        let kept = self.kept();
        let videos: Vec<Arc<Video>> =
            kept.videos.range((Bound::Excluded(since), Bound::Unbounded)).map(|(_, video)| Arc::clone(video)).collect();
        drop(kept);
        videos.into_iter().map(|video| video.read())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The call that a video's id has in it.
pub(in super::super) fn call_of(id: &str) -> Option<u64> {
    let operation = || id.rsplit_once("/operations/sim").map(|(_, number)| number);
    // 45 digits, the first 29 of them zeros, or they are no u64.
    let number = id.strip_prefix("video_sim").filter(|number| number.len() == 45).or_else(operation)?;
    let is_hex = number.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_hex.then(|| u64::from_str_radix(number, 16).ok())?
}
