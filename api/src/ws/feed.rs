//! What a socket subscribed to: the present state first, then what changes. A feed has a task of its own, so that no
//! slow client holds a database's connection, and no look at the database holds up the socket's answers. It makes a
//! frame only when there is room for it: what is sent is always the newest.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use aihub_application::{
    error::GatewayError,
    ports::jobs::JobKind,
    principal::Principal,
    videos::{jobs::Known, queue::Places},
    workflows::runs::Run,
};
use aihub_domain::money::Microcredits;
use tokio::{
    sync::mpsc::{self, Sender},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    changes::JobChanges,
    frame::{ServerFrame, Topic},
};
use crate::{hub::Hub, problem::Problem, videos, workflows};

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
                Topic::Videos => feed.tell_jobs(JobKind::Video).await,
                Topic::Workflows => feed.tell_jobs(JobKind::Workflow).await,
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

/// A job as the log has it.
enum Job {
    Video(Known),
    Workflow(Run),
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

    async fn tell_jobs(&self, kind: JobKind) {
        // Watched from before the first look, so that no change falls between the two.
        let mut watch = self.hub.settings.changes.jobs(kind).watch(&self.principal.account);
        let mut shown = HashMap::new();
        let mut due = VecDeque::new();
        let (mut places, mut told_places) = (None, Places::new());
        let mut news = JobChanges { missed: true, ..JobChanges::default() };
        loop {
            if news.missed {
                match self.open_jobs(kind, &shown).await {
                    Ok(open) => put(&mut due, open),
                    Err(error) => {
                        tracing::warn!(error.message = format!("{error:#}"), job.kind = %kind, "open jobs could not be looked for");
                        sleep(RETRY_AFTER).await;
                        continue;
                    }
                }
            }
            put(&mut due, news.changed);
            places = news.places.or(places);
            let Ok(room) = self.frames.reserve().await else { return };
            if let Some(id) = due.pop_front() {
                match self.job(kind, &id, &mut shown).await {
                    Ok(Some(frame)) => room.send(frame),
                    Ok(None) => {}
                    // It has been logged where it came from. The others are not kept waiting for this one.
                    Err(_) => {
                        due.push_back(id);
                        sleep(RETRY_AFTER).await;
                    }
                }
            } else if let Some(all) = places.take() {
                // Only now: whose they are is known of those that were told of.
                let is_own = |id: &String| shown.get(id).is_some_and(|shown: &Shown| !shown.is_others);
                let own: Places = all.iter().filter(|(id, _)| is_own(id)).map(|(id, at)| (id.clone(), *at)).collect();
                if own != told_places {
                    room.send(ServerFrame::Queue { positions: &own }.to_json());
                    told_places = own;
                }
            }
            let is_idle = due.is_empty() && places.is_none();
            news = if is_idle { watch.next().await } else { watch.take().unwrap_or_default() };
        }
    }

    /// Those that have not ended, and those that had not when they were last told.
    async fn open_jobs(&self, kind: JobKind, shown: &HashMap<String, Shown>) -> anyhow::Result<Vec<String>> {
        let _turn = self.hub.settings.changes.looks.acquire().await;
        let Principal { account, user, .. } = &*self.principal;
        let mut open: Vec<String> = shown.iter().filter(|(_, shown)| shown.is_open).map(|(id, _)| id.clone()).collect();
        open.extend(match kind {
            JobKind::Video => self.hub.videos.queue.of_user(account, user).await?,
            JobKind::Workflow => self.hub.workflows.list.running_of(account, user).await?,
        });
        Ok(open)
    }

    /// The frame of a job, unless it is as it was last told.
    async fn job(
        &self,
        kind: JobKind,
        id: &str,
        shown: &mut HashMap<String, Shown>,
    ) -> Result<Option<String>, Problem> {
        let before = shown.get(id);
        if before.is_some_and(|before| before.is_others) {
            return Ok(None);
        }
        let _turn = self.hub.settings.changes.looks.acquire().await;
        let loaded = match kind {
            JobKind::Video => self.hub.videos.jobs.load(id).await.map(|known| known.map(Job::Video)),
            JobKind::Workflow => self.hub.workflows.load(id).await.map(|run| run.map(Job::Workflow)),
        };
        let Some(job) = loaded.map_err(|error| Problem::internal(&error))? else { return Ok(None) };
        let is_others = !job.is_of(&self.principal);
        let is_told = is_others || before.is_some_and(|before| before.version == job.version());
        let now = Shown { version: job.version(), is_open: job.is_open(), is_others };
        let frame = if is_told { None } else { Some(job.frame(&self.hub).await?) };
        shown.insert(id.to_owned(), now);
        if shown.len() > MAX_SHOWN {
            // At worst, the end of one of them is told once more.
            shown.retain(|_, shown| shown.is_open);
        }
        Ok(frame)
    }
}

impl Job {
    fn is_of(&self, principal: &Principal) -> bool {
        let owner = match self {
            Self::Video(known) => known.job.request().map(|request| (&request.account, &request.user)),
            Self::Workflow(run) => run.workflow.request().map(|request| (&request.account, &request.user)),
        };
        owner == Some((&principal.account, &principal.user))
    }

    fn version(&self) -> u64 {
        match self {
            Self::Video(known) => known.version(),
            Self::Workflow(run) => run.version(),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Video(known) => !known.status().is_end(),
            Self::Workflow(run) => !run.workflow.status().is_end(),
        }
    }

    async fn frame(self, hub: &Hub) -> Result<String, Problem> {
        Ok(match self {
            Self::Video(known) => ServerFrame::Video { video: &videos::tell(&hub.videos, known).await? }.to_json(),
            Self::Workflow(run) => {
                ServerFrame::Workflow { workflow: &workflows::tell(&hub.workflows, &run).await? }.to_json()
            }
        })
    }
}

/// Behind what is due already, once.
fn put(due: &mut VecDeque<String>, more: impl IntoIterator<Item = String>) {
    for id in more {
        if !due.contains(&id) {
            due.push_back(id);
        }
    }
}
