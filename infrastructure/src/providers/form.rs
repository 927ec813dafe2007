//! What an answer's bytes are, whatever their label says: server-sent events, JSON, JSON line by line, or some of each.
//!
//! A line that begins with a brace or a bracket begins a JSON value, which goes on until it is closed; every other line is one
//! of an event stream, by the rules of the WHATWG (HTML, 9.2.6): CR, LF or CRLF, comments, data in several lines. Servers send
//! a whole answer where a stream was asked for and the other way round, an error as bare JSON in the midst of events, and
//! `[DONE]` behind a body, all of it under any label; some forget the blank line between two events.

use std::mem::take;

use aihub_application::ports::provider::ProviderError;

use super::{errors, json::is_json};

/// The most bytes of one event or value: 128,000 tokens of text with room to spare, and of a stream far more than any event
/// has. Ours, not the provider's.
pub(super) const MAX_PIECE_BYTES: usize = 16 << 20;
/// How OpenAI's dialect ends a stream.
pub(super) const DONE: &str = "[DONE]";
/// What lines of events begin with.
const FIELDS: [&[u8]; 2] = [b"data:", b"event:"];
const BOM: &[u8] = "\u{feff}".as_bytes();

/// An event's data, or a JSON value that stood by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The event's own name.
    pub name: Option<String>,
    pub data: String,
    /// Where in the answer the data began, in bytes.
    pub offset: usize,
}

/// Takes bytes as they come, however they are cut.
#[derive(Default)]
pub(super) struct Form {
    /// Bytes, of which those from `start` on are not read yet.
    buffer: Vec<u8>,
    start: usize,
    /// How many of those were looked at without finding an end.
    looked: usize,
    /// What came before `start`, in bytes.
    before: usize,
    has_begun: bool,
    /// A line that ended in CR may have its LF still to come.
    after_cr: bool,
    value: Option<OpenValue>,
    name: Option<String>,
    /// The data of the event that is being read, and where it began.
    data: Vec<u8>,
    data_offset: Option<usize>,
    /// Something that is neither a field of an event nor JSON.
    has_noise: bool,
}

/// Where a look at a JSON value that is not closed yet stopped.
#[derive(Default)]
struct OpenValue {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Form {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Whether anything came that is no answer of any form.
    pub fn has_noise(&self) -> bool {
        self.has_noise
    }

    /// How many bytes wait for the rest of their piece.
    pub fn waiting(&self) -> usize {
        self.rest().len() + self.data.len()
    }

    /// The next piece that is whole.
    pub fn next(&mut self) -> Result<Option<Piece>, ProviderError> {
        loop {
            if !self.begin() {
                return Ok(None);
            }
            let step = if self.value.is_some() || self.is_at_value() { self.read_value() } else { self.read_line() };
            match step {
                Step::Piece(piece) => return Ok(Some(piece)),
                Step::More => {}
                Step::Wait if self.waiting() > MAX_PIECE_BYTES => {
                    return Err(errors::too_large("one event or value", MAX_PIECE_BYTES));
                }
                Step::Wait => return Ok(None),
            }
        }
    }

    /// The pieces that the end of the answer has cut their last line break off from, one after another. Whether one is whole, its
    /// reader sees.
    pub fn end(&mut self) -> Option<Piece> {
        if self.value.is_some() || self.is_at_value() {
            let offset = self.before;
            let rest = self.take_rest();
            self.value = None;
            return (!rest.is_empty()).then(|| Piece { name: None, data: text(&rest), offset });
        }
        let line = self.take_rest();
        // Where the line begins an event of its own, it comes with the next call.
        let before = if line.is_empty() { None } else { self.field(&line, self.before) };
        before.or_else(|| self.dispatch())
    }

    /// Passes over what may stand before anything else; `false` where there is nothing to look at.
    fn begin(&mut self) -> bool {
        if !self.has_begun {
            if self.rest().len() < BOM.len() && BOM.starts_with(self.rest()) {
                return false;
            }
            self.has_begun = true;
            if self.rest().starts_with(BOM) {
                self.drop_front(BOM.len());
            }
        }
        if self.after_cr && !self.rest().is_empty() {
            self.after_cr = false;
            if self.rest()[0] == b'\n' {
                self.drop_front(1);
            }
        }
        !self.rest().is_empty()
    }

    fn is_at_value(&self) -> bool {
        self.looked == 0 && matches!(self.rest().iter().find(|byte| !matches!(byte, b' ' | b'\t')), Some(b'{' | b'['))
    }

    fn read_value(&mut self) -> Step {
        let mut value = self.value.take().unwrap_or_default();
        for at in self.looked..self.rest().len() {
            let byte = self.rest()[at];
            if matches!(byte, b'\r' | b'\n') {
                let next = &self.rest()[at + 1..];
                // No JSON has a line that begins so: what was begun is never closed.
                if FIELDS.iter().any(|field| next.starts_with(field)) {
                    self.has_noise = true;
                    self.drop_front(at + 1);
                    return self.dispatch().map_or(Step::More, Step::Piece);
                }
                if FIELDS.iter().any(|field| field.starts_with(next)) {
                    self.looked = at;
                    self.value = Some(value);
                    return Step::Wait;
                }
            }
            if value.in_text {
                match byte {
                    _ if value.escaped => value.escaped = false,
                    b'\\' => value.escaped = true,
                    b'"' => value.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => value.in_text = true,
                b'{' | b'[' => value.depth += 1,
                b'}' | b']' => {
                    value.depth -= 1;
                    if value.depth == 0 {
                        let piece =
                            Piece { name: self.name.take(), data: text(&self.rest()[..=at]), offset: self.before };
                        self.drop_front(at + 1);
                        return Step::Piece(piece);
                    }
                }
                _ => {}
            }
        }
        self.looked = self.rest().len();
        self.value = Some(value);
        Step::Wait
    }

    fn read_line(&mut self) -> Step {
        let Some(length) = self.rest()[self.looked..].iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            // A line of blanks may still become a value.
            let is_blank = self.rest().iter().all(|byte| matches!(byte, b' ' | b'\t'));
            self.looked = if is_blank { 0 } else { self.rest().len() };
            return Step::Wait;
        };
        let length = self.looked + length;
        self.after_cr = self.rest()[length] == b'\r';
        let offset = self.before;
        let line = self.rest()[..length].to_vec();
        self.drop_front(length + 1);
        if line.is_empty() {
            return self.dispatch().map_or(Step::More, Step::Piece);
        }
        self.field(&line, offset).map_or(Step::More, Step::Piece)
    }

    /// Reads a line of an event. Data that is whole and is followed by more data is an event of its own.
    fn field(&mut self, line: &[u8], offset: usize) -> Option<Piece> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                let before = if self.is_data_whole() { self.dispatch() } else { None };
                if self.data_offset.is_some() {
                    self.data.push(b'\n');
                } else {
                    self.data_offset = Some(offset + line.len() - value.len());
                }
                self.data.extend_from_slice(value);
                return before;
            }
            b"event" => {
                let before = if self.is_data_whole() { self.dispatch() } else { None };
                self.name = Some(text(value));
                return before;
            }
            b"" | b"id" | b"retry" => {}
            _ if line.iter().all(u8::is_ascii_whitespace) => {}
            _ => self.has_noise = true,
        }
        None
    }

    /// Then a further line would only make it something else.
    fn is_data_whole(&self) -> bool {
        let data = self.data.trim_ascii();
        let may_be = matches!(data, [b'{', .., b'}'] | [b'[', .., b']']);
        may_be && std::str::from_utf8(data).is_ok_and(|data| data == DONE || is_json(data))
    }

    /// The event that a blank line ends. One without data is none, and one of blanks is a sign of life.
    fn dispatch(&mut self) -> Option<Piece> {
        let name = self.name.take();
        let offset = self.data_offset.take()?;
        let data = text(&take(&mut self.data));
        (!data.trim().is_empty()).then_some(Piece { name, data, offset })
    }

    fn drop_front(&mut self, count: usize) {
        self.start += count;
        self.before += count;
        self.looked = 0;
    }

    fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.rest().to_vec();
        self.drop_front(rest.len());
        rest
    }
}

enum Step {
    Piece(Piece),
    /// Something was read that is no piece by itself.
    More,
    /// Nothing can be said before more bytes come.
    Wait,
}

/// What is no UTF-8 is replaced, and costs nobody the rest.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<(Option<String>, String)> {
        let mut form = Form::default();
        let mut read = vec![];
        for piece in pieces {
            form.push(piece);
            while let Some(piece) = form.next().unwrap() {
                read.push((piece.name, piece.data));
            }
        }
        read.extend(std::iter::from_fn(|| form.end()).map(|piece| (piece.name, piece.data)));
        read
    }

    fn assert_reads(bytes: &[u8], expected: &[(Option<&str>, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, data)| (name.map(str::to_owned), (*data).to_owned())).collect();
        assert_eq!(read(&[bytes]), expected, "whole");
        for at in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..at], &bytes[at..]]), expected, "cut at {at}");
        }
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    #[test]
    fn every_form_of_the_standard_is_read_however_it_is_cut() {
        let stream = "\u{feff}: comment\r\n\r\nevent: a\r\ndata: grün 🌱\r\n\r\ndata:one\rdata: two\r\rid: 7\n\
            data\n\nunknown: x\nevent:b\ndata:  spaced \n\ndata: \n\n: ping\n\nevent: lone\n\ndata: [DONE]\n\ndata: end";
        let expected =
            [(Some("a"), "grün 🌱"), (None, "one\ntwo"), (Some("b"), " spaced "), (None, "[DONE]"), (None, "end")];
        assert_reads(stream.as_bytes(), &expected);
    }

    #[test]
    fn json_is_read_whole_line_by_line_and_among_events() {
        assert_reads(
            b"\n {\n  \"a\": [\"}\", \"\\\"{\"]\n}\n\ndata: [DONE]\n\n",
            &[(None, " {\n  \"a\": [\"}\", \"\\\"{\"]\n}"), (None, "[DONE]")],
        );
        assert_reads(
            b"{\"a\":1}\r\n{\"b\":2}{\"c\":3}\n[DONE]\n",
            &[(None, "{\"a\":1}"), (None, "{\"b\":2}"), (None, "{\"c\":3}"), (None, "[DONE]")],
        );
        assert_reads(
            b"data: {\"a\":1}\n\n{\"error\":{}}\n\ndata: x\n\n{\"cut\":",
            &[(None, "{\"a\":1}"), (None, "{\"error\":{}}"), (None, "x"), (None, "{\"cut\":")],
        );
    }

    #[test]
    fn a_value_that_is_never_closed_does_not_swallow_the_events_behind_it() {
        assert_reads(b" {\"a\": \"cut\n\ndata: {\"b\":1}\n\n", &[(None, "{\"b\":1}")]);
    }

    #[test]
    fn events_without_a_blank_line_between_them_are_told_apart() {
        assert_reads(
            b"data: {\"a\":1}\ndata: {\"b\":\ndata: 2}\ndata: [DONE]\n",
            &[(None, "{\"a\":1}"), (None, "{\"b\":\n2}"), (None, "[DONE]")],
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(read(&[b"data: a\xff\xfeb\n\n"]), [(None, "a\u{fffd}\u{fffd}b".to_owned())]);
    }

    #[test]
    fn what_is_neither_is_told_and_a_piece_over_our_limit_is_refused_by_its_name() {
        let mut form = Form::default();
        form.push(b"<html>\nno answer\n");
        assert_eq!(form.next().unwrap(), None);
        assert!(form.has_noise());

        let mut form = Form::default();
        form.push(b"data: ");
        form.push(&vec![b'x'; MAX_PIECE_BYTES]);
        let error = form.next().unwrap_err();
        assert_eq!(
            error.message,
            "the provider's answer has one event or value of more than 16777216 bytes, our limit"
        );
    }
}
