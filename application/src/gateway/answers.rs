//! Answers that can be read: the running ones, and for a while those that ended. Each holds the memory that it takes out of its
//! user's share. Who needs more than that has lets go of answers of their own that have ended, the oldest first; those of others
//! stay for as long as was promised.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    answer::{
        Answer, Full,
        name::{Called, Wanted, only},
    },
    error::GatewayError,
    ports::provider::ToolCallDelta,
    principal::Principal,
    request::{AnswerRequest, Fingerprint},
    shares::{Held, Holder, Share, UsedUp},
};

/// The client's ids that lead to one answer: the one that it was asked under, and the latest others.
const MAX_NAMES: usize = 16;
/// What takes more is kept half as long after its end: it is rare, and a crowd's would leave little to others meanwhile.
const LARGE_BYTES: usize = 1 << 20;

pub struct Answers {
    memory: Arc<Share>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_request: HashMap<String, KeptAnswer>,
    /// By account, user and the client's own id: of each connection the latest, the latest of all at the end.
    by_client_id: HashMap<ClientKey, Vec<(Uuid, String)>>,
    /// When the ended ones go, the first first: not all are kept for as long.
    expiring: BTreeSet<(Instant, String)>,
    /// Those that ended of each user, oldest first.
    ended: HashMap<Holder, VecDeque<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    account: String,
    user: String,
    client_id: String,
}

#[derive(Clone)]
pub struct KeptAnswer {
    pub request_id: Arc<str>,
    pub answer: Arc<Answer>,
    pub stream: bool,
    /// Of a request with an idempotency key, to compare the next one with.
    request: Option<Fingerprint>,
    names: VecDeque<(ClientKey, Uuid)>,
    whose: Holder,
    /// From the answer's end on: how long it is kept.
    until: Option<Instant>,
}

/// There is an answer under the request's idempotency key.
pub(super) enum Known {
    Same(Arc<Answer>),
    /// It is another request's.
    Different,
}

impl ClientKey {
    fn new(principal: &Principal, client_id: &str) -> Self {
        Self { account: principal.account.clone(), user: principal.user.clone(), client_id: client_id.to_owned() }
    }

    fn named(principal: &Principal, called: &Called) -> (Self, Uuid) {
        (Self::new(principal, &called.id), called.connection)
    }
}

impl Answers {
    /// `memory` is what answers are held in.
    pub fn new(memory: Arc<Share>) -> Self {
        Self { memory, kept: Mutex::default() }
    }

    /// What answers are held in.
    pub fn memory(&self) -> &Share {
        &self.memory
    }

    /// Memory for an answer of this principal.
    pub fn room(&self, principal: &Principal, bytes: usize) -> Result<Held, UsedUp> {
        let whose = Holder::of(principal);
        loop {
            match self.memory.take(whose.clone(), bytes) {
                Ok(held) => return Ok(held),
                Err(used_up) => self.let_go(&whose).then_some(()).ok_or(used_up)?,
            }
        }
    }

    /// Adds to a running answer of this principal: a chunk, or to what is shown when it is whole.
    pub(super) fn push(
        &self,
        principal: &Principal,
        answer: &Answer,
        is_streamed: bool,
        (text, tool_calls): (String, Vec<ToolCallDelta>),
    ) -> Result<(), Full> {
        let mut pushed = if is_streamed { answer.push(text, tool_calls) } else { answer.gather(&text, tool_calls) };
        while matches!(pushed, Err(Full::Memory(_))) && self.let_go(&Holder::of(principal)) {
            pushed = answer.cover();
        }
        pushed
    }

    /// Lets go of the oldest ended answer of this user that nobody else has, if there is one. One that is being read would be lost
    /// to whoever comes back for it, and still be there.
    fn let_go(&self, whose: &Holder) -> bool {
        let mut kept = self.lock();
        let is_free = |id: &&String| kept.by_request.get(*id).is_none_or(|entry| Arc::strong_count(&entry.answer) == 1);
        let oldest = kept.ended.get(whose).and_then(|ended| ended.iter().find(is_free)).cloned();
        let Some(oldest) = oldest else { return false };
        metrics::counter!("aihub_answers_let_go_total").increment(1);
        kept.forget(&oldest);
        true
    }

    /// The answer that this principal wants, where it is here. Another's is refused, and so is a name that several have.
    pub fn find(&self, principal: &Principal, wanted: &Wanted) -> Result<Option<KeptAnswer>, GatewayError> {
        let mut kept = self.lock();
        kept.forget_expired();
        let request_id = match wanted {
            Wanted::Request(request_id) => Some(request_id.as_str()),
            Wanted::Called { id, connection } => {
                let called = kept.by_client_id.get(&ClientKey::new(principal, id)).map_or(&[][..], Vec::as_slice);
                match connection {
                    Some(connection) => called.iter().find(|(on, _)| on == connection).map(|(_, id)| id.as_str()),
                    None => only(called.iter().map(|(_, id)| id.as_str()))?,
                }
            }
        };
        let found = request_id.and_then(|request_id| kept.by_request.get(request_id));
        match found {
            Some(found) if found.whose != Holder::of(principal) => Err(GatewayError::OthersAnswer),
            found => Ok(found.cloned()),
        }
    }

    /// Whoever has it told under another name may mean it by that one from now on: as long as it is here, and not on other nodes.
    pub fn also_called(&self, principal: &Principal, called: &Called, request_id: &str) {
        self.lock().name(ClientKey::named(principal, called), request_id);
    }

    /// What is kept under this id. If it is the same request's answer, what it was `called` leads to it from now on.
    pub(super) fn join(
        &self,
        principal: &Principal,
        called: &Called,
        request_id: &str,
        request: &AnswerRequest,
    ) -> Option<Known> {
        self.lock().join(ClientKey::named(principal, called), request_id, request)
    }

    /// Keeps `answer`, unless there is one under this id by now: then [`join`](Self::join)s that one.
    pub(super) fn insert(
        &self,
        principal: &Principal,
        called: &Called,
        request_id: &str,
        request: &AnswerRequest,
        answer: &Arc<Answer>,
    ) -> Option<Known> {
        let mut kept = self.lock();
        let name = ClientKey::named(principal, called);
        if let Some(known) = kept.join(name.clone(), request_id, request) {
            return Some(known);
        }
        let entry = KeptAnswer {
            request_id: request_id.into(),
            answer: answer.clone(),
            stream: request.stream,
            request: request.idempotency_key.is_some().then(|| request.fingerprint()),
            names: VecDeque::new(),
            whose: Holder::of(principal),
            until: None,
        };
        kept.by_request.insert(request_id.to_owned(), entry);
        kept.name(name, request_id);
        None
    }

    /// From now on `answer`, which has ended, is kept for so long; a large one, half as long.
    pub(super) fn ended(&self, request_id: &str, answer: &Arc<Answer>, resumable_for: Duration) {
        let mut guard = self.lock();
        let kept = &mut *guard;
        let Some(entry) = kept.by_request.get_mut(request_id) else { return };
        if entry.until.is_some() || !Arc::ptr_eq(&entry.answer, answer) {
            return;
        }
        let is_large = answer.kept_bytes() > LARGE_BYTES;
        let until = Instant::now() + if is_large { resumable_for / 2 } else { resumable_for };
        entry.until = Some(until);
        kept.ended.entry(entry.whose.clone()).or_default().push_back(request_id.to_owned());
        kept.expiring.insert((until, request_id.to_owned()));
        kept.forget_expired();
    }

    /// `answer` is not kept: its request was never accepted, and may come again under the same idempotency key.
    pub(super) fn forget(&self, request_id: &str, answer: &Arc<Answer>) {
        let mut kept = self.lock();
        if kept.by_request.get(request_id).is_some_and(|entry| Arc::ptr_eq(&entry.answer, answer)) {
            kept.forget(request_id);
        }
    }

    /// Nothing of this account can be read or resumed any more: its content was erased. What still runs goes on unseen.
    pub fn forget_account(&self, account: &str) {
        let mut kept = self.lock();
        let of_account = |entry: &KeptAnswer| entry.names.iter().any(|(name, _)| name.account == account);
        let requests: Vec<String> =
            kept.by_request.iter().filter(|(_, entry)| of_account(entry)).map(|(id, _)| id.clone()).collect();
        for request_id in requests {
            kept.forget(&request_id);
        }
    }

    /// To be called now and then, so that an idle node does not keep content.
    pub fn forget_expired(&self) {
        self.lock().forget_expired();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn join(&mut self, name: (ClientKey, Uuid), request_id: &str, request: &AnswerRequest) -> Option<Known> {
        self.forget_expired();
        let entry = self.by_request.get(request_id)?;
        if entry.request.as_ref() != Some(&request.fingerprint()) {
            return Some(Known::Different);
        }
        let answer = entry.answer.clone();
        self.name(name, request_id);
        Some(Known::Same(answer))
    }

    fn name(&mut self, name: (ClientKey, Uuid), request_id: &str) {
        let Some(entry) = self.by_request.get_mut(request_id) else { return };
        if !entry.names.contains(&name) {
            entry.names.push_back(name.clone());
        }
        let surplus = if entry.names.len() > MAX_NAMES { entry.names.remove(1) } else { None };
        let (key, connection) = name;
        let called = self.by_client_id.entry(key).or_default();
        called.retain(|(on, _)| *on != connection);
        called.push((connection, request_id.to_owned()));
        if let Some(surplus) = surplus {
            self.unname(&surplus, request_id);
        }
    }

    fn unname(&mut self, (key, connection): &(ClientKey, Uuid), request_id: &str) {
        let Some(called) = self.by_client_id.get_mut(key) else { return };
        // The id may have been used again since, for another request.
        called.retain(|(on, latest)| on != connection || latest != request_id);
        if called.is_empty() {
            self.by_client_id.remove(key);
        }
    }

    fn forget(&mut self, request_id: &str) {
        let Some(entry) = self.by_request.remove(request_id) else { return };
        for name in &entry.names {
            self.unname(name, request_id);
        }
        if let Some(until) = entry.until {
            self.expiring.remove(&(until, request_id.to_owned()));
        }
        if let Some(ended) = self.ended.get_mut(&entry.whose) {
            // It is the first, but where an account is erased.
            if let Some(at) = ended.iter().position(|id| id == request_id) {
                ended.remove(at);
            }
            if ended.is_empty() {
                self.ended.remove(&entry.whose);
            }
        }
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        while self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, request_id)) = self.expiring.pop_first() else { return };
            self.forget(&request_id);
        }
    }
}
