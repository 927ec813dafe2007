//! What a socket subscribed to: the present state first, then what changes. A feed has a task of its own, so that no
//! slow client holds a database's connection, and no look at the database holds up the socket's answers. It makes a
//! frame only when there is room for it: what is sent is always the newest.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use aihub_application::{error::GatewayError, principal::Principal, videos::jobs::Known};
use aihub_domain::money::Microcredits;
use tokio::{
    sync::mpsc::{self, Sender},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    changes::VideoChanges,
    frame::{ServerFrame, Topic},
};
use crate::{
    hub::Hub,
    problem::Problem,
    videos::{Surroundings, answer},
};

/// The least time between two balances.
const CREDITS_EVERY: Duration = Duration::from_millis(200);
/// What cannot be looked at now is looked at again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// When it remembers more jobs than this, a feed forgets those that have ended.
const MAX_SHOWN: usize = 2_048;

/// The frames of `topic` for the principal, until the stream is dropped.
pub fn follow(hub: &Arc<Hub>, principal: &Arc<Principal>, topic: Topic) -> ReceiverStream<String> {
    let (frames, stream) = mpsc::channel(1);
    let feed = Feed { hub: hub.clone(), principal: principal.clone(), frames };
    hub.sessions.spawn(async move {
        let closed = feed.frames.closed();
        let told = async {
            match topic {
                Topic::Videos => feed.tell_videos().await,
                Topic::Credits => feed.tell_credits().await,
            }
        };
        tokio::select! {
            () = closed => {}
            () = told => {}
        }
    });
    ReceiverStream::new(stream)
}

struct Feed {
    hub: Arc<Hub>,
    principal: Arc<Principal>,
    frames: Sender<String>,
}

/// A job as it was last told.
struct Shown {
    version: u64,
    is_open: bool,
    /// Of another user of the account, who is not to be told of it.
    is_others: bool,
}

impl Feed {
    async fn tell_credits(&self) {
        let mut watch = self.hub.settings.changes.balances.watch(&self.principal.account);
        let (mut balance, mut told) = (None, None);
        loop {
            let Ok(room) = self.frames.reserve().await else { return };
            let available = loop {
                balance = watch.take().unwrap_or(balance);
                if let Some(available) = balance {
                    break available;
                }
                match self.balance().await {
                    Ok(available) => break available,
                    // It has been logged where it came from.
                    Err(_) => sleep(RETRY_AFTER).await,
                }
            };
            if told != Some(available) {
                room.send(ServerFrame::Credits { available: available.as_credits() }.to_json());
                told = Some(available);
                sleep(CREDITS_EVERY).await;
            }
            balance = watch.next().await;
        }
    }

    async fn balance(&self) -> Result<Microcredits, GatewayError> {
        let _turn = self.hub.settings.changes.looks.acquire().await;
        self.hub.gateway.available(&self.principal).await
    }

    async fn tell_videos(&self) {
        // Watched from before the first look, so that no change falls between the two.
        let mut watch = self.hub.settings.changes.videos.watch(&self.principal.account);
        let mut shown = HashMap::new();
        let mut due = VecDeque::new();
        let mut news = VideoChanges { missed: true, ..VideoChanges::default() };
        loop {
            if news.missed {
                match self.open_videos(&shown).await {
                    Ok(open) => put(&mut due, open),
                    Err(error) => {
                        tracing::warn!(error.message = format!("{error:#}"), "open videos could not be looked for");
                        sleep(RETRY_AFTER).await;
                        continue;
                    }
                }
            }
            put(&mut due, news.changed);
            let Ok(room) = self.frames.reserve().await else { return };
            if let Some(video_id) = due.pop_front() {
                match self.video(&video_id, &mut shown).await {
                    Ok(Some(frame)) => room.send(frame),
                    Ok(None) => {}
                    // It has been logged where it came from. The others are not kept waiting for this one.
                    Err(_) => {
                        due.push_back(video_id);
                        sleep(RETRY_AFTER).await;
                    }
                }
            }
            news = if due.is_empty() { watch.next().await } else { watch.take().unwrap_or_default() };
        }
    }

    /// Those of the account, and those that were when they were last told.
    async fn open_videos(&self, shown: &HashMap<String, Shown>) -> anyhow::Result<Vec<String>> {
        let _turn = self.hub.settings.changes.looks.acquire().await;
        let mut open: Vec<String> =
            shown.iter().filter(|(_, shown)| shown.is_open).map(|(video_id, _)| video_id.clone()).collect();
        open.extend(self.hub.videos.queue.of_account(&self.principal.account).await?);
        Ok(open)
    }

    /// The frame of a job, unless it is as it was last told.
    async fn video(&self, video_id: &str, shown: &mut HashMap<String, Shown>) -> Result<Option<String>, Problem> {
        let before = shown.get(video_id);
        if before.is_some_and(|before| before.is_others) {
            return Ok(None);
        }
        let _turn = self.hub.settings.changes.looks.acquire().await;
        let known = self.hub.videos.jobs.load(video_id).await.map_err(|error| Problem::internal(&error))?;
        let Some(known) = known else { return Ok(None) };
        let is_others = known
            .job
            .request()
            .is_none_or(|job| job.account != self.principal.account || job.user != self.principal.user);
        let is_told = is_others || before.is_some_and(|before| before.version == known.version());
        let frame = if is_told { None } else { Some(self.describe(&known).await?) };
        let is_open = !known.status().is_end();
        shown.insert(video_id.to_owned(), Shown { version: known.version(), is_open, is_others });
        if shown.len() > MAX_SHOWN {
            // At worst, the end of one of them is told once more.
            shown.retain(|_, shown| shown.is_open);
        }
        Ok(frame)
    }

    async fn describe(&self, known: &Known) -> Result<String, Problem> {
        let around = Surroundings::of(&self.hub.videos, &known.video_id, &known.job).await?;
        Ok(ServerFrame::Video { video: &answer(&known.video_id, &known.job, &around) }.to_json())
    }
}

/// Behind what is due already, once.
fn put(due: &mut VecDeque<String>, more: impl IntoIterator<Item = String>) {
    for video_id in more {
        if !due.contains(&video_id) {
            due.push_back(video_id);
        }
    }
}
