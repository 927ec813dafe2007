//! Answers that can be read: the running ones, and for a while those that ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{answer::Answer, principal::Principal, request::AnswerRequest};

/// Text of ended answers that is kept for resuming; beyond it the oldest go early.
const MAX_RETAINED_BYTES: usize = 128 * 1024 * 1024;

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
    pub(super) request: Option<AnswerRequest>,
    keys: Vec<ClientKey>,
    retained_bytes: usize,
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

    pub(super) fn of_request(&self, request_id: &str) -> Option<KeptAnswer> {
        let mut kept = self.lock();
        kept.forget_expired();
        kept.by_request.get(request_id).cloned()
    }

    pub(super) fn insert(
        &self,
        principal: &Principal,
        client_id: &str,
        request_id: &str,
        request: &AnswerRequest,
        answer: &Arc<Answer>,
    ) {
        let mut kept = self.lock();
        kept.forget_expired();
        let entry = KeptAnswer {
            answer: answer.clone(),
            stream: request.stream,
            request: request.idempotency_key.is_some().then(|| request.clone()),
            keys: vec![],
            retained_bytes: 0,
        };
        kept.by_request.insert(request_id.to_owned(), entry);
        kept.name(ClientKey::new(principal, client_id), request_id);
    }

    /// The same answer under one more of the client's ids.
    pub(super) fn rename(&self, principal: &Principal, client_id: &str, request_id: &str) {
        self.lock().name(ClientKey::new(principal, client_id), request_id);
    }

    pub(super) fn ended(&self, request_id: &str, resumable_for: Duration) {
        let mut guard = self.lock();
        let kept = &mut *guard;
        let Some(entry) = kept.by_request.get_mut(request_id) else { return };
        let prompt_bytes = entry.request.as_ref().map_or(0, |request| 3 * request.input_tokens_estimate());
        let bytes = entry.answer.buffered_bytes() + usize::try_from(prompt_bytes).unwrap_or(usize::MAX);
        entry.retained_bytes = bytes;
        kept.retained_bytes += bytes;
        kept.expiring.push_back((Instant::now() + resumable_for, request_id.to_owned()));
        kept.forget_expired();
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
    fn name(&mut self, key: ClientKey, request_id: &str) {
        if let Some(entry) = self.by_request.get_mut(request_id) {
            entry.keys.push(key.clone());
            self.by_client_id.insert(key, request_id.to_owned());
        }
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        while self.retained_bytes > MAX_RETAINED_BYTES || self.expiring.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, request_id)) = self.expiring.pop_front() else { return };
            let Some(entry) = self.by_request.remove(&request_id) else { continue };
            self.retained_bytes -= entry.retained_bytes;
            for key in entry.keys {
                // The id may have been used again since, for another request.
                if self.by_client_id.get(&key) == Some(&request_id) {
                    self.by_client_id.remove(&key);
                }
            }
        }
    }
}
