//! Answers that can be read: the running ones, and for a while those that ended.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{answer::Answer, principal::Principal, request::AnswerRequest};

/// What ended answers may take that are kept for resuming; beyond it the oldest go early.
const MAX_RETAINED_BYTES: usize = 128 * 1024 * 1024;
/// The client's ids that lead to one answer; beyond it the oldest no longer does.
const MAX_NAMES: usize = 16;

#[derive(Default)]
pub struct Answers {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_request: HashMap<String, KeptAnswer>,
    /// By account, user and the client's own id, the latest.
    by_client_id: HashMap<ClientKey, String>,
    /// When the ended ones go, oldest first.
    expiring: VecDeque<(Instant, String)>,
    retained_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    account: String,
    user: String,
    client_id: String,
}

#[derive(Clone)]
pub struct KeptAnswer {
    pub answer: Arc<Answer>,
    pub stream: bool,
    /// Of a request with an idempotency key, to compare the next one with.
    request: Option<AnswerRequest>,
    names: VecDeque<ClientKey>,
    /// From the answer's end on.
    retained_bytes: Option<usize>,
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
}

impl Answers {
    /// The latest answer that this principal asked for under this id.
    pub fn resume(&self, principal: &Principal, client_id: &str) -> Option<KeptAnswer> {
        let mut kept = self.lock();
        kept.forget_expired();
        let request_id = kept.by_client_id.get(&ClientKey::new(principal, client_id))?;
        kept.by_request.get(request_id).cloned()
    }

    /// What is kept under this id. If it is the same request's answer, `client_id` leads to it from now on.
    pub(super) fn join(
        &self,
        principal: &Principal,
        client_id: &str,
        request_id: &str,
        request: &AnswerRequest,
    ) -> Option<Known> {
        self.lock().join(ClientKey::new(principal, client_id), request_id, request)
    }

    /// Keeps `answer`, unless there is one under this id by now: then [`join`](Self::join)s that one.
    pub(super) fn insert(
        &self,
        principal: &Principal,
        client_id: &str,
        request_id: &str,
        request: &AnswerRequest,
        answer: &Arc<Answer>,
    ) -> Option<Known> {
        let mut kept = self.lock();
        let name = ClientKey::new(principal, client_id);
        if let Some(known) = kept.join(name.clone(), request_id, request) {
            return Some(known);
        }
        let entry = KeptAnswer {
            answer: answer.clone(),
            stream: request.stream,
            request: request.idempotency_key.is_some().then(|| request.clone()),
            names: VecDeque::new(),
            retained_bytes: None,
        };
        kept.by_request.insert(request_id.to_owned(), entry);
        kept.name(name, request_id);
        None
    }

    /// From now on `answer`, which has ended, is kept for so long.
    pub(super) fn ended(&self, request_id: &str, answer: &Arc<Answer>, resumable_for: Duration) {
        let mut guard = self.lock();
        let kept = &mut *guard;
        let Some(entry) = kept.by_request.get_mut(request_id) else { return };
        if entry.retained_bytes.is_some() || !Arc::ptr_eq(&entry.answer, answer) {
            return;
        }
        let prompt_bytes = entry.request.as_ref().map_or(0, |request| 3 * request.input_tokens_estimate());
        let bytes = answer.buffered_bytes() + usize::try_from(prompt_bytes).unwrap_or(usize::MAX);
        entry.retained_bytes = Some(bytes);
        kept.retained_bytes += bytes;
        kept.expiring.push_back((Instant::now() + resumable_for, request_id.to_owned()));
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
        let of_account = |entry: &KeptAnswer| entry.names.iter().any(|name| name.account == account);
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
    fn join(&mut self, name: ClientKey, request_id: &str, request: &AnswerRequest) -> Option<Known> {
        self.forget_expired();
        let entry = self.by_request.get(request_id)?;
        if entry.request.as_ref() != Some(request) {
            return Some(Known::Different);
        }
        let answer = entry.answer.clone();
        self.name(name, request_id);
        Some(Known::Same(answer))
    }

    fn name(&mut self, name: ClientKey, request_id: &str) {
        let Some(entry) = self.by_request.get_mut(request_id) else { return };
        if !entry.names.contains(&name) {
            entry.names.push_back(name.clone());
        }
        let surplus = if entry.names.len() > MAX_NAMES { entry.names.pop_front() } else { None };
        self.by_client_id.insert(name, request_id.to_owned());
        if let Some(surplus) = surplus {
            self.unname(&surplus, request_id);
        }
    }

    fn unname(&mut self, name: &ClientKey, request_id: &str) {
        // The id may have been used again since, for another request.
        if self.by_client_id.get(name).is_some_and(|latest| latest == request_id) {
            self.by_client_id.remove(name);
        }
    }

    fn forget(&mut self, request_id: &str) {
        let Some(entry) = self.by_request.remove(request_id) else { return };
        self.retained_bytes -= entry.retained_bytes.unwrap_or_default();
        for name in &entry.names {
            self.unname(name, request_id);
        }
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        while self.retained_bytes > MAX_RETAINED_BYTES || self.expiring.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, request_id)) = self.expiring.pop_front() else { return };
            self.forget(&request_id);
        }
    }
}
