//! What an answer has said so far, whichever dialect it speaks, and whether that is an answer.
//!
//! It is complete only with a sign of its own dialect: a reason to end, or the dialect's end. One that has said nothing at all,
//! no text, no call, no refusal and no thinking, is no answer but a failure. The first reason counts; what comes after it does
//! not hurt.

use std::{borrow::Cow, collections::VecDeque};

use aihub_application::ports::provider::{Delta, FailureKind, FinishReason, Flaw, ProviderError, providers_word};

use aihub_domain::price::TokenUsage;

use super::{
    calls::{CallPiece, Calls},
    errors, finish,
    json::Json,
    text::Text,
    usage::UsageSoFar,
};

#[derive(Default)]
pub(super) struct Meaning {
    pub calls: Calls,
    is_model_told: bool,
    text: Text,
    usage: UsageSoFar,
    /// The provider's last word on what was used, and whether it said something since.
    counted: Option<TokenUsage>,
    /// How often it has said something that a client sees, or thought, and how often when that was counted.
    said: u64,
    said_when_counted: u64,
    reason: Option<(FinishReason, Option<String>)>,
    has_end_sign: bool,
    /// What came that was no answer: somebody may have meant it for the reader.
    words: Option<String>,
}

impl Meaning {
    pub fn new(usage: UsageSoFar) -> Self {
        Self { usage, ..Self::default() }
    }

    /// It has said that it is at its end, in one way or the other.
    pub fn is_complete(&self) -> bool {
        self.reason.is_some() || self.has_end_sign
    }

    /// It has said something that a client sees.
    pub fn has_spoken(&self) -> bool {
        self.said > 0
    }

    pub fn model(&mut self, name: Option<Cow<'_, str>>, out: &mut VecDeque<Delta>) {
        if let Some(name) = name.filter(|name| !self.is_model_told && !name.is_empty()) {
            self.is_model_told = true;
            out.push_back(Delta::Model(providers_word(name.into_owned())));
        }
    }

    /// Visible text, in WTF-8.
    pub fn text(&mut self, bytes: Cow<'_, [u8]>, out: &mut VecDeque<Delta>) {
        self.is_model_told = true;
        self.said += u64::from(!bytes.is_empty());
        let text = self.text.push(bytes);
        if !text.is_empty() {
            out.push_back(Delta::Text(text.into_owned()));
        }
    }

    pub fn thinking(&mut self, bytes: usize, out: &mut VecDeque<Delta>) {
        if bytes > 0 {
            self.is_model_told = true;
            self.said += 1;
            out.push_back(Delta::Thinking { bytes });
        }
    }

    pub fn call(&mut self, piece: CallPiece<'_>, out: &mut VecDeque<Delta>) {
        self.is_model_told = true;
        self.said += 1;
        self.calls.piece(piece, out);
    }

    pub fn usage(&mut self, report: Json<'_>, out: &mut VecDeque<Delta>) {
        if report.is_object()
            && let Some(usage) = self.usage.merge(report)
        {
            self.is_model_told = true;
            self.counted = Some(usage);
            self.said_when_counted = self.said;
            out.push_back(Delta::Usage(usage));
        }
    }

    /// A word for the end, which says nothing where it is blank. One of failure is an error, but behind another.
    pub fn reason(&mut self, word: &str) -> Result<(), FailureKind> {
        if finish::is_blank(word) || self.reason.is_some() {
            return Ok(());
        }
        match finish::end(word) {
            finish::End::Finished(reason, said) => {
                self.reason = Some((reason, said));
                Ok(())
            }
            finish::End::Failed(kind) => Err(kind),
        }
    }

    /// The dialect's own sign of the end came.
    pub fn end_sign(&mut self) {
        self.has_end_sign = true;
    }

    /// Something that is no part of an answer, for the case that no answer comes.
    pub fn words(&mut self, words: &str) {
        self.words.get_or_insert_with(|| words.chars().take(errors::MAX_MESSAGE_CHARS).collect());
    }

    /// Nothing more comes: what is left to say, or why it was no answer. `is_noise` says that what came was of no form that
    /// an answer has.
    pub fn end(&mut self, is_noise: bool, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        if !self.is_complete() {
            return Err(self.no_end(is_noise));
        }
        if let Some(rest) = self.text.end() {
            out.push_back(Delta::Text(rest.to_owned()));
        }
        self.calls.end(out);
        // What is told only now was said, and counted, before.
        out.extend(self.counted.filter(|_| self.said == self.said_when_counted && !out.is_empty()).map(Delta::Usage));
        let (mut reason, said) = self.reason.take().unwrap_or((FinishReason::Stop, None));
        if !self.has_spoken() && !self.is_silent_for_a_reason(&reason) {
            return Err(self.nothing(false));
        }
        if reason == FinishReason::Stop && !self.calls.is_empty() {
            reason = FinishReason::ToolCalls;
        }
        out.extend(self.usage.flaws().map(Delta::Flaw));
        out.push_back(Delta::Finish { reason, said });
        Ok(())
    }

    /// What was filtered, and what was thought about up to the limit without showing it.
    fn is_silent_for_a_reason(&self, reason: &FinishReason) -> bool {
        let TokenUsage { output, reasoning, .. } = self.counted.unwrap_or_default();
        *reason == FinishReason::ContentFilter || reasoning > 0 || (*reason == FinishReason::Length && output > 0)
    }

    fn no_end(&self, is_noise: bool) -> ProviderError {
        if self.has_spoken() { errors::cut() } else { self.nothing(is_noise) }
    }

    fn nothing(&self, is_noise: bool) -> ProviderError {
        match &self.words {
            Some(words) => {
                let mut error = errors::in_answer(words.as_bytes());
                if error.kind == FailureKind::InvalidRequest && !words.trim_start().starts_with('{') {
                    error.kind = FailureKind::ServerError;
                }
                error
            }
            None if is_noise => {
                errors::malformed_at(Flaw { class: "neither_json_nor_events".into(), field: None, offset: Some(0) })
            }
            None => errors::empty(),
        }
    }
}
