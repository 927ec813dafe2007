//! A provider that does with a call what was drawn for it, and keeps its own books.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aihub_application::{
    ports::provider::{
        Delta, DeltaStream, EmbedCall, Embeddings, FailureKind, FinishReason, GenerateCall, Provider, ProviderError,
        Reached,
    },
    request::AnswerRequest,
};
use aihub_domain::price::{Price, TokenUsage};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};

use super::world::{Ask, Spec};

pub type Plans = BTreeMap<String, Ask>;

/// What a provider does with a call.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// There is no connection.
    Unreachable,
    Refuse(FailureKind),
    /// It takes the call, and nothing ever comes.
    Hang,
    Work(Work),
}

#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Of what the request can have at most.
    pub input_percent: u64,
    /// How much of the input is read from its cache, and written there for minutes and for an hour.
    pub caches: [u64; 3],
    /// Of the cap, where it would stop if it could.
    pub output_percent: u64,
    /// Of the output, where the model may hide some of it.
    pub hidden_percent: u64,
    /// Of what is not hidden.
    pub thinking_percent: u64,
    pub words_a_piece: usize,
    /// It has half again as many tokens as words.
    pub is_dense: bool,
    pub told: Told,
    /// Where, in percent of the pieces.
    pub breaks: Option<(usize, Break)>,
    pub keeps_cap: bool,
    pub pause: Duration,
}

/// When it says what was used.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    AtTheEnd,
    /// The input before the first piece, everything at the end.
    Twice,
    /// The input before the first piece, and no more.
    Before,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    Fails,
    Hangs,
    /// Without saying why.
    Ends,
}

/// How a call ended, as far as the provider knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It was not there to be called.
    Unreached,
    Refused,
    Broken,
    /// It said everything that it had to say.
    Finished,
    /// It was still at it.
    Working,
}

/// A call, in the provider's books.
#[derive(Debug, Clone)]
pub struct Served {
    pub request_id: String,
    pub key: String,
    pub provider: String,
    pub price: Price,
    /// What the request can have for input, and about has.
    pub input: (u64, u64),
    pub cap: u64,
    /// All of the cap has to be held before it is asked.
    pub is_held_whole: bool,
    /// Words that were given away, thoughts included.
    pub words: u64,
    /// What it said was used, and after how many words.
    pub said: Option<(TokenUsage, u64)>,
    pub end: CallEnd,
}

pub struct Scripted {
    spec: Spec,
    plans: Arc<Plans>,
    served: Arc<Mutex<Vec<Served>>>,
}

enum Step {
    Give(Delta),
    Fail(ProviderError),
    Hang,
    Finished,
}

fn error(kind: FailureKind, status: Option<u16>) -> ProviderError {
    ProviderError { kind, status, message: "drawn".to_owned(), retry_after: None, flaw: None }
}

impl Scripted {
    pub fn new(spec: Spec, plans: Arc<Plans>, served: Arc<Mutex<Vec<Served>>>) -> Self {
        Self { spec, plans, served }
    }

    /// Opens a page in the books: where it is, and what is to be done.
    fn begin(&self, request_id: String, key: &str, model: &str, cap: u64) -> (usize, Act, AnswerRequest, Price) {
        let ask = &self.plans[key];
        let model = self.spec.models.listed.values().find(|listed| listed.upstream_name == model).unwrap();
        let request = ask.request.clone();
        let mut served = self.served.lock().unwrap();
        let nth = served.iter().filter(|call| call.key == key).count();
        let streams = !model.hidden_output && stream_is_asked_for(&self.spec, &request);
        served.push(Served {
            request_id,
            key: key.to_owned(),
            provider: self.spec.name.clone(),
            price: model.prices[0].clone(),
            input: (request.input_tokens_at_most(model), request.input_tokens_estimate(model)),
            cap,
            is_held_whole: request.max_tokens.is_some() || !streams,
            words: 0,
            said: None,
            end: CallEnd::Working,
        });
        let act = ask.acts.get(nth).copied().unwrap_or(Act::Refuse(FailureKind::QuotaExceeded));
        (served.len() - 1, act, request, model.prices[0].clone())
    }

    /// What is to be done of a call that is neither refused nor left to hang.
    async fn take_up(&self, page: usize, act: Act, reached: &Reached) -> Result<Work, ProviderError> {
        if let Act::Unreachable = act {
            self.end(page, CallEnd::Unreached);
            // Passed over for good, where a lost connection would be tried again.
            return Err(error(FailureKind::ModelUnavailable, None));
        }
        reached.note();
        match act {
            Act::Work(work) => Ok(work),
            Act::Refuse(kind) => {
                self.end(page, CallEnd::Refused);
                Err(error(kind, Some(400)))
            }
            Act::Hang | Act::Unreachable => futures::future::pending().await,
        }
    }

    fn end(&self, page: usize, end: CallEnd) {
        self.served.lock().unwrap()[page].end = end;
    }

    fn usage(&self, page: usize, work: Work, request: &AnswerRequest, output: u64, reasoning: u64) -> TokenUsage {
        let (at_most, _) = self.served.lock().unwrap()[page].input;
        let input = (at_most * work.input_percent / 100).max(1);
        let [cached_input, cache_write, mut cache_write_1h] = work.caches.map(|percent| input * percent / 150);
        if !request.prompt.writes_for_an_hour() {
            cache_write_1h = 0;
        }
        let input = input - cached_input - cache_write - cache_write_1h;
        TokenUsage { input, cached_input, cache_write, cache_write_1h, output, reasoning, ..TokenUsage::default() }
    }
}

/// The same question as the product's, asked another way.
fn stream_is_asked_for(spec: &Spec, request: &AnswerRequest) -> bool {
    use aihub_application::upstream::Streaming::{Counted, Never, Uncounted};
    match spec.streaming {
        Counted => true,
        Uncounted => request.max_tokens.is_none() || request.stream,
        Never => false,
    }
}

impl Work {
    /// What it gives away, and what it says about that.
    fn steps(&self, cap: u64, may_hide: bool, in_pieces: bool, usage: impl Fn(u64, u64) -> TokenUsage) -> Vec<Step> {
        let wanted = cap * self.output_percent / 100;
        let output = if self.keeps_cap { wanted.min(cap) } else { wanted };
        let hidden = if may_hide { output * self.hidden_percent / 100 } else { 0 };
        let shown = output - hidden;
        let words = if self.is_dense { shown * 2 / 3 } else { shown };
        let output = hidden + if self.is_dense { words + words / 2 } else { words };
        let thoughts = words * self.thinking_percent / 100;

        let mut pieces: Vec<Delta> = (0..thoughts).map(|_| Delta::Thinking { bytes: 5 }).collect();
        let mut said = words - thoughts;
        let most = if in_pieces { self.words_a_piece as u64 } else { u64::MAX };
        while said > 0 {
            let now = said.min(most);
            pieces.push(Delta::Text("w ".repeat(usize::try_from(now).unwrap())));
            said -= now;
        }
        let first = usage(u64::from(matches!(self.told, Told::Twice)), 0);
        let mut steps = Vec::new();
        if matches!(self.told, Told::Twice | Told::Before) {
            steps.push(Step::Give(Delta::Usage(TokenUsage { output: 0, ..first })));
        }
        let broken = self.breaks.map(|(percent, how)| (pieces.len() * percent / 100, how));
        for (nth, piece) in pieces.into_iter().enumerate() {
            if let Some((at, how)) = broken
                && at == nth
            {
                match how {
                    Break::Fails => steps.push(Step::Fail(error(FailureKind::ContextTooLong, Some(200)))),
                    Break::Hangs => steps.push(Step::Hang),
                    Break::Ends => {}
                }
                return steps;
            }
            steps.push(Step::Give(piece));
        }
        let finish = if output >= cap { FinishReason::Length } else { FinishReason::Stop };
        if matches!(self.told, Told::AtTheEnd | Told::Twice) {
            steps.push(Step::Give(Delta::Usage(usage(output, hidden))));
        }
        steps.push(Step::Give(Delta::Finish { reason: finish, said: None }));
        steps.push(Step::Finished);
        steps
    }
}

fn words(delta: &Delta) -> u64 {
    match delta {
        Delta::Text(text) => u64::try_from(text.split_whitespace().count()).unwrap(),
        Delta::Thinking { .. } => 1,
        _ => 0,
    }
}

impl Provider for Scripted {
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>> {
        async move {
            let (key, cap) = (call.prompt.user.clone().unwrap(), u64::from(call.max_output_tokens));
            let (page, act, request, _) = self.begin(call.request_id.clone(), &key, &call.model, cap);
            let work = self.take_up(page, act, &call.reached).await?;
            let may_hide = self
                .spec
                .models
                .listed
                .values()
                .any(|listed| listed.upstream_name == call.model && (listed.hidden_output || !call.stream));
            let steps = work.steps(cap, may_hide, call.stream, |output, reasoning| {
                self.usage(page, work, &request, output, reasoning)
            });
            let served = self.served.clone();
            let steps = stream::iter(steps).then(move |step| {
                let served = served.clone();
                async move {
                    if !work.pause.is_zero() {
                        tokio::time::sleep(work.pause).await;
                    }
                    let note = |change: &dyn Fn(&mut Served)| change(&mut served.lock().unwrap()[page]);
                    match step {
                        Step::Give(delta) => {
                            note(&|call| {
                                call.words += words(&delta);
                                if let Delta::Usage(usage) = &delta {
                                    call.said = Some((*usage, call.words));
                                }
                            });
                            Some(Ok(delta))
                        }
                        Step::Fail(error) => {
                            note(&|call| call.end = CallEnd::Broken);
                            Some(Err(error))
                        }
                        Step::Hang => futures::future::pending().await,
                        Step::Finished => {
                            note(&|call| call.end = CallEnd::Finished);
                            None
                        }
                    }
                }
            });
            let (served, steps) = (self.served.clone(), steps.filter_map(futures::future::ready));
            // A stream that ends without a word has broken off.
            let after = stream::once(async move {
                let page = &mut served.lock().unwrap()[page];
                if page.end == CallEnd::Working {
                    page.end = CallEnd::Broken;
                }
            });
            Ok(steps.chain(after.filter_map(|()| futures::future::ready(None))).boxed())
        }
        .boxed()
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>> {
        async move {
            let key = call.user.clone().unwrap();
            let (page, act, request, _) = self.begin(call.request_id, &key, &call.model, 0);
            let work = self.take_up(page, act, &call.reached).await?;
            let usage =
                matches!(work.told, Told::AtTheEnd | Told::Twice).then(|| self.usage(page, work, &request, 0, 0));
            let mut served = self.served.lock().unwrap();
            served[page].said = usage.map(|usage| (usage, 0));
            served[page].end = CallEnd::Finished;
            Ok(Embeddings { vectors: vec![vec![1.0]; call.inputs.len()], model: None, usage })
        }
        .boxed()
    }
}
