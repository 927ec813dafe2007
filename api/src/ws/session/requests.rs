//! What a client asks on its socket, goes on with and ends.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    answer::{
        Answer, AnswerItems, RUNNING_BYTES,
        name::{Called, Wanted},
    },
    error::GatewayError,
    gateway::{KeptAnswer, Submitted},
    request::AnswerRequest,
    shares::{Held, Scope},
};
use futures::{FutureExt, StreamExt};

use super::{Pending, Running, Session};

impl Session {
    pub(super) fn start(&mut self, id: String, request: AnswerRequest, memory: Held) {
        let stream = request.stream;
        let submitted = if self.running.contains_key(id.as_str()) {
            let reason = "a request with this id is running on this socket";
            Err(GatewayError::DuplicateRequest { request_id: None, reason })
        } else if let Some(error) = self.full() {
            Err(error)
        } else {
            let called = Called { id: id.clone(), connection: self.connection_id };
            self.hub.gateway.submit(&self.principal, &called, request, memory)
        };
        match submitted {
            Ok(Submitted { request_id, answer, items }) => self.follow(id, Some(request_id), (answer, items), stream),
            Err(error) => self.refuse(Some(&id), &error),
        }
    }

    pub(super) fn resume(&mut self, id: String, wanted: Wanted, after: u64) {
        if self.running.contains_key(id.as_str()) {
            let reason = "the request with this id is running on this very socket";
            let error = GatewayError::DuplicateRequest { request_id: None, reason };
            return self.refuse(Some(&id), &error);
        }
        if let Some(error) = self.full() {
            return self.refuse(Some(&id), &error);
        }
        match self.hub.gateway.answers.find(&self.principal, &wanted) {
            // Another node may have one of this name as well.
            Ok(Some(kept)) if matches!(wanted, Wanted::Called { connection: None, .. }) => {
                let (lost, principal) = (self.hub.settings.lost_answers.clone(), self.principal.clone());
                let found = async move {
                    let only = lost.require_only(&principal, &id, &kept.request_id).await;
                    Pending::Found { id, kept, after, only }
                };
                self.pending = Some(found.boxed());
            }
            Ok(Some(kept)) => self.go_on(id, kept, after),
            Ok(None) => self.look_up(id, wanted),
            Err(error) => self.refuse(Some(&id), &error),
        }
    }

    /// Goes on with an answer that is here.
    pub(super) fn go_on(&mut self, id: String, KeptAnswer { request_id, answer, stream, .. }: KeptAnswer, after: u64) {
        // What comes whole has none.
        let there = if stream || answer.is_in_parts() { answer.chunk_count() as u64 } else { 0 };
        if after > there {
            let reason = format!("is beyond what there is: {there} chunks so far");
            return self.refuse(Some(&id), &GatewayError::faulty("after", reason));
        }
        let items = answer.read(after);
        let called = Called { id: id.clone(), connection: self.connection_id };
        self.hub.gateway.answers.also_called(&self.principal, &called, &request_id);
        self.follow(id, Some(request_id), (answer, items), stream);
    }

    /// What became of an answer that is not here.
    fn look_up(&mut self, id: String, wanted: Wanted) {
        // It is looked for in the database, which costs as much as a request does.
        let running = self.hub.gateway.limits.admit(&self.principal, 0);
        let answers = &self.hub.gateway.answers;
        let room = running.and_then(|running| Ok((answers.room(&self.principal, RUNNING_BYTES)?, running)));
        match room {
            Ok((room, running)) => {
                let lost = self.hub.settings.lost_answers.look_up(&self.principal, wanted, room, running);
                let items = lost.read(0);
                self.follow(id, None, (lost, items), true);
            }
            Err(error) => self.refuse_and_note(&id, &error),
        }
    }

    /// Ends a request: one of this socket, or any of its user's that is named beyond doubt. Whoever ends one of another socket
    /// is told its end.
    pub(super) fn cancel(&mut self, id: String, wanted: Wanted) {
        let is_wanted = |running: &&Running| match &wanted {
            Wanted::Request(wanted) => running.request_id.as_deref() == Some(wanted),
            Wanted::Called { connection, .. } => connection.is_none_or(|connection| connection == self.connection_id),
        };
        if let Some(running) = self.running.get_mut(id.as_str()) {
            if is_wanted(&&*running) {
                running.is_cancelled = true;
                return running.answer.cancelled.cancel();
            }
            // Its end could not be told apart from the other's.
            let reason = "another request with this id is running on this socket: name the one that is meant by its \
                          requestId, beside an id that is free";
            return self.refuse(Some(&id), &GatewayError::DuplicateRequest { request_id: None, reason });
        }
        if let Wanted::Called { id: of, connection: None } = &wanted {
            // By an id alone only this socket's own are meant, and none of them is running.
            let own = Wanted::Called { id: of.clone(), connection: Some(self.connection_id) };
            let error = match self.hub.gateway.answers.find(&self.principal, &own) {
                Ok(Some(ended)) => GatewayError::EndedAlready { request_id: ended.request_id.to_string() },
                _ => GatewayError::NothingToResume,
            };
            return self.refuse(Some(&id), &error);
        }
        match self.hub.gateway.answers.find(&self.principal, &wanted) {
            Ok(Some(KeptAnswer { request_id, answer, .. })) => {
                answer.cancelled.cancel();
                // Its end comes soon, or is there: it is told however many are running here.
                let end = answer.read(u64::MAX);
                self.follow(id, Some(request_id), (answer, end), true);
            }
            Ok(None) => match self.full() {
                Some(error) => self.refuse(Some(&id), &error),
                None => self.look_up(id, wanted),
            },
            Err(error) => self.refuse(Some(&id), &error),
        }
    }

    fn refuse_and_note(&mut self, id: &str, error: &GatewayError) {
        self.hub.gateway.note(&self.principal, error);
        self.refuse(Some(id), error);
    }

    /// Why this socket takes no further request now, if so.
    fn full(&self) -> Option<GatewayError> {
        let most = self.limits().max_requests_per_socket;
        (self.running.len() >= most).then(|| {
            let error = GatewayError::RateLimitExceeded {
                what: "running requests",
                scope: Scope::Socket,
                limit: most as u64,
                retry_after: Duration::from_secs(1),
            };
            self.hub.gateway.note(&self.principal, &error);
            error
        })
    }

    fn follow(
        &mut self,
        id: String,
        request_id: Option<Arc<str>>,
        (answer, items): (Arc<Answer>, AnswerItems),
        stream: bool,
    ) {
        let id: Arc<str> = id.into();
        let name = id.clone();
        self.answers.push(items.map(move |item| (name.clone(), item)).boxed());
        self.running.insert(id, Running { answer, request_id, is_told: false, is_cancelled: false, stream });
    }
}
