//! Tool calls out of their pieces, for all dialects.
//!
//! Servers number calls, or all of them 0, or not at all; name them in their first piece, in each, or with a new id in each;
//! send arguments as text, as text in pieces or as an object. A call is told to the client from when its name and its id are
//! known; what is wrong with one at its end is said with it.

use std::{borrow::Cow, collections::VecDeque, mem::take};

use aihub_application::ports::provider::{Delta, ToolCallDelta};
use uuid::Uuid;

use super::{json::is_json, text::Text};

/// A part of a call, as an answer has it.
#[derive(Debug, Default)]
pub(super) struct CallPiece<'a> {
    /// The server's own number for the call.
    pub index: Option<u64>,
    pub id: Option<Cow<'a, str>>,
    pub name: Option<Cow<'a, str>>,
    pub arguments: Option<Arguments<'a>>,
}

#[derive(Debug)]
pub(super) enum Arguments<'a> {
    /// JSON in a text, or a piece of it, in WTF-8.
    Text(Cow<'a, [u8]>),
    /// All of them, as a JSON object.
    Whole(&'a str),
    /// What they are if nothing else comes: Anthropic begins a call with them.
    Unless(&'a str),
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: Vec<Call>,
    /// The calls that the event that is being read has had a piece of.
    touched: Vec<usize>,
}

#[derive(Debug, Default)]
struct Call {
    theirs: Option<u64>,
    id: Option<String>,
    name: String,
    text: Text,
    arguments: String,
    /// How much of the arguments the client was told.
    told: usize,
    unless: Option<String>,
    is_opened: bool,
}

impl Calls {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// There is a call of this number of the server's.
    pub fn has(&self, index: Option<u64>) -> bool {
        self.calls.iter().any(|call| call.theirs == index)
    }

    /// Pieces of the next event follow.
    pub fn begin_event(&mut self) {
        self.touched.clear();
    }

    pub fn piece(&mut self, piece: CallPiece<'_>, out: &mut VecDeque<Delta>) {
        let piece = CallPiece {
            id: piece.id.filter(|id| !id.trim().is_empty()),
            name: piece.name.filter(|name| !name.trim().is_empty()),
            ..piece
        };
        let at = self.call_of(&piece).unwrap_or_else(|| {
            self.calls.push(Call { theirs: piece.index, ..Call::default() });
            self.calls.len() - 1
        });
        if !self.touched.contains(&at) {
            self.touched.push(at);
        }
        let call = &mut self.calls[at];
        call.add(piece);
        call.tell(at, out);
    }

    /// The answer has come to its end: what is known of the calls by now is all.
    pub fn end(&mut self, out: &mut VecDeque<Delta>) {
        for (at, call) in self.calls.iter_mut().enumerate() {
            call.end(at, out);
        }
    }

    /// The call that `piece` is a part of; `None` where it begins one.
    fn call_of(&self, piece: &CallPiece<'_>) -> Option<usize> {
        let same_id = |call: &Call| piece.id.is_some() && call.id.as_deref() == piece.id.as_deref();
        let same_number = |call: &Call| piece.index.is_none() || call.theirs == piece.index;
        if let Some(at) = self.calls.iter().rposition(|call| same_id(call) && same_number(call)) {
            // Some servers take the function's name for an id.
            let begins = piece.name.is_some() && piece.is_other_whole(&self.calls[at]);
            return (!begins).then_some(at);
        }
        let at = self.calls.iter().rposition(same_number)?;
        let call = &self.calls[at];
        let Some(name) = &piece.name else {
            // Without a name nothing begins, but what has an id of its own where calls have no numbers.
            let begins = piece.index.is_none() && piece.id.is_some() && call.id.is_some() && call.is_whole();
            return (!begins).then_some(at);
        };
        let is_other = piece.id.is_some() && call.id.is_some();
        let begins = if call.is_underway() {
            // Nothing begins in the midst of another's arguments, unless it has another name.
            call.name != *name && !call.name.is_empty()
        } else if call.is_whole() {
            true
        } else {
            // It has no arguments yet.
            let repeats = call.name == *name && piece.has_arguments_to_come();
            let is_touched = self.touched.contains(&at) && piece.id.is_none();
            !call.name.is_empty() && (is_touched || !repeats) && (is_other || is_touched || call.name != *name)
        };
        (!begins).then_some(at)
    }
}

impl CallPiece<'_> {
    /// Its arguments are all there, and others than those of a call that has all of its own.
    fn is_other_whole(&self, call: &Call) -> bool {
        let arguments = match &self.arguments {
            Some(Arguments::Text(bytes)) => std::str::from_utf8(bytes).unwrap_or_default(),
            Some(Arguments::Whole(json)) => json,
            Some(Arguments::Unless(_)) | None => return false,
        };
        let arguments = arguments.trim();
        arguments.starts_with('{') && arguments != call.arguments.trim() && is_json(arguments) && call.is_whole()
    }

    /// Its arguments are the beginning of some.
    fn has_arguments_to_come(&self) -> bool {
        match &self.arguments {
            Some(Arguments::Text(bytes)) => !bytes.is_empty() && !std::str::from_utf8(bytes).is_ok_and(is_json),
            _ => false,
        }
    }
}

impl Call {
    fn has_arguments(&self) -> bool {
        !self.arguments.trim().is_empty()
    }

    /// All of its arguments are there.
    fn is_whole(&self) -> bool {
        // What does not end like an object is not read through.
        self.arguments.trim_end().ends_with(['}', ']']) && is_json(&self.arguments)
    }

    fn is_underway(&self) -> bool {
        self.has_arguments() && !self.is_whole()
    }

    fn add(&mut self, piece: CallPiece<'_>) {
        // The first id and the first name are the call's.
        if self.id.is_none() {
            self.id = piece.id.map(Cow::into_owned);
        }
        if self.name.is_empty() {
            self.name = piece.name.map(Cow::into_owned).unwrap_or_default();
        }
        match piece.arguments {
            Some(Arguments::Text(bytes)) => {
                let more = self.text.push(bytes);
                // Some servers close with the whole call once more.
                let repeats = !more.trim().is_empty() && more.trim() == self.arguments.trim() && self.is_whole();
                if !repeats {
                    self.arguments.push_str(&more);
                }
            }
            Some(Arguments::Whole(json)) if !self.has_arguments() => self.arguments.push_str(json),
            Some(Arguments::Unless(json)) => self.unless = Some(json.to_owned()),
            Some(Arguments::Whole(_)) | None => {}
        }
    }

    /// Tells what is new, once the call can be told.
    fn tell(&mut self, at: usize, out: &mut VecDeque<Delta>) {
        let is_opening = !self.is_opened;
        if is_opening && (self.id.is_none() || self.name.is_empty()) {
            return;
        }
        let arguments = self.arguments[self.told..].to_owned();
        if !is_opening && arguments.is_empty() {
            return;
        }
        self.is_opened = true;
        self.told = self.arguments.len();
        let (id, name) = if is_opening { (self.id.clone(), Some(self.name.clone())) } else { (None, None) };
        out.push_back(Delta::ToolCall(ToolCallDelta { index: index(at), id, name, arguments, broken: None }));
    }

    fn end(&mut self, at: usize, out: &mut VecDeque<Delta>) {
        self.arguments.extend(self.text.end());
        if !self.has_arguments() {
            let unless = take(&mut self.unless).unwrap_or_else(|| "{}".to_owned());
            self.arguments.push_str(&unless);
        }
        if self.id.is_none() {
            self.id = Some(format!("call_{}", Uuid::now_v7().simple()));
        }
        let broken = if self.name.is_empty() {
            Some("it has no name")
        } else if !is_json(&self.arguments) {
            Some("its arguments are no JSON")
        } else {
            None
        };
        if self.name.is_empty() {
            // Told all the same, so that what was paid for can be seen.
            self.is_opened = true;
            let id = self.id.clone();
            let arguments = self.arguments[take(&mut self.told)..].to_owned();
            self.told = self.arguments.len();
            let broken = broken.map(str::to_owned);
            out.push_back(Delta::ToolCall(ToolCallDelta { index: index(at), id, name: None, arguments, broken }));
            return;
        }
        self.tell(at, out);
        if let Some(broken) = broken {
            let broken = Some(broken.to_owned());
            let arguments = String::new();
            out.push_back(Delta::ToolCall(ToolCallDelta { index: index(at), id: None, name: None, arguments, broken }));
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Piece<'a> = (Option<u64>, &'a str, &'a str, &'a str);

    /// `id name arguments` of each call, ids of ours as `ours`. Each inner list is what one event has.
    fn read(events: &[&[Piece<'_>]]) -> Vec<String> {
        let (mut calls, mut out) = (Calls::default(), VecDeque::new());
        for event in events {
            calls.begin_event();
            for (index, id, name, arguments) in *event {
                let said = |text: &str| (!text.is_empty()).then(|| Cow::Owned(text.to_owned()));
                let piece = CallPiece {
                    index: *index,
                    id: said(id),
                    name: said(name),
                    arguments: Some(Arguments::Text(Cow::Borrowed(arguments.as_bytes()))),
                };
                calls.piece(piece, &mut out);
            }
        }
        calls.end(&mut out);
        let mut read: Vec<String> = vec![];
        for delta in out {
            let Delta::ToolCall(call) = delta else { panic!("{delta:?}") };
            let at = usize::try_from(call.index).unwrap();
            if at == read.len() {
                let id = call.id.unwrap();
                let id = if id.starts_with("call_0") { "ours" } else { &id };
                read.push(format!("{id} {} ", call.name.unwrap_or_default()));
            }
            read[at].push_str(&call.arguments);
            read[at].push_str(&call.broken.map(|broken| format!(" ({broken})")).unwrap_or_default());
        }
        read
    }

    #[test]
    fn pieces_of_one_call_are_joined_however_they_are_marked() {
        let zero = Some(0);
        let one = ["a f {\"x\":1}"];
        // As OpenAI does it; with the name in each; with a new id in each; the name before the id; without numbers.
        assert_eq!(read(&[&[(zero, "a", "f", "")], &[(zero, "", "", "{\"x\"")], &[(zero, "", "", ":1}")]]), one);
        assert_eq!(read(&[&[(zero, "a", "f", "{\"x\"")], &[(zero, "a", "f", ":1}")]]), one);
        assert_eq!(read(&[&[(zero, "a", "f", "{\"x\"")], &[(zero, "b", "", ":1")], &[(zero, "c", "", "}")]]), one);
        assert_eq!(read(&[&[(zero, "a", "f", "")], &[(zero, "b", "f", "{\"x\"")], &[(zero, "c", "f", ":1}")]]), one);
        assert_eq!(read(&[&[(zero, "", "f", "")], &[(zero, "a", "", "{\"x\":1}")]]), one);
        assert_eq!(read(&[&[(None, "a", "f", "{\"x\"")], &[(None, "", "", ":1}")]]), one);
        assert_eq!(read(&[&[(zero, "a", "f", "{\"x\":1}")], &[(zero, "a", "f", "{\"x\":1}")]]), one, "said twice");
    }

    #[test]
    fn calls_are_told_apart_however_they_are_marked() {
        let (zero, first) = (Some(0), Some(1));
        let two = ["a f {}", "b g {\"x\":1}"];
        assert_eq!(read(&[&[(zero, "a", "f", "{}"), (first, "b", "g", "{\"x\"")], &[(first, "", "", ":1}")]]), two);
        assert_eq!(read(&[&[(zero, "a", "f", "{}")], &[(zero, "b", "g", "{\"x\":1}")]]), two, "all of them 0");
        assert_eq!(read(&[&[(None, "a", "f", "{}"), (None, "b", "g", "{\"x\":1}")]]), two, "without numbers");
        assert_eq!(
            read(&[&[(zero, "a", "f", "")], &[(zero, "b", "g", "{\"x\":1}")]]),
            two,
            "the first without arguments"
        );
        assert_eq!(
            read(&[&[(None, "", "f", "{}")], &[(None, "", "f", "{\"x\":1}")]]),
            ["ours f {}", "ours f {\"x\":1}"]
        );
        assert_eq!(read(&[&[(None, "", "f", ""), (None, "", "f", "")]]), ["ours f {}", "ours f {}"]);
        assert_eq!(read(&[&[(zero, "a", "f", "")], &[(zero, "b", "f", "")]]), ["a f {}", "b f {}"]);
    }

    #[test]
    fn a_call_that_is_no_call_is_said_to_be_broken() {
        assert_eq!(read(&[&[(Some(0), "a", "f", "{\"x\"")]]), ["a f {\"x\" (its arguments are no JSON)"]);
        assert_eq!(read(&[&[(Some(0), "a", "", "{}")]]), ["a  {} (it has no name)"]);
    }
}
