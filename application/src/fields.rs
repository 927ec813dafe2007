//! The fields of a JSON object that a client sent, taken one by one: every fault is told, and what is left over is one.

mod halves;
mod object;
pub mod words;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use object::Object;
use words::in_words;

use crate::error::{Faults, FaultyField};

const MAX_NAME_BYTES: usize = 256;
/// As in those of Hugging Face, Ollama and Cloudflare.
const MODEL_SIGNS: &str = "-._~@|:/+=";
const UNKNOWN: &str = "is not a field of this request";

/// The fields of a frame that were not looked at yet, and what is wrong with the others.
pub(crate) struct Fields {
    object: Object,
    faults: Faults,
}

impl Object {
    /// What nobody asked for is a fault.
    pub fn finish(self) -> Result<(), Faults> {
        Fields::new(self).finish()
    }
}

impl Fields {
    pub(crate) fn new(object: impl Into<Object>) -> Self {
        Self { object: object.into(), faults: Faults::default() }
    }

    pub(crate) fn is_faulty(&self, field: &str) -> bool {
        self.faults.told().iter().any(|fault| fault.field == field)
    }

    pub(crate) fn fault(&mut self, field: &str, reason: impl Into<String>) {
        self.faults.push(FaultyField::new(field, reason));
    }

    /// A missing field and `null` are the same.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.object.remove(field).filter(|value| !value.is_null())?;
        let read = serde_json::from_value(whole_number(value));
        read.map_err(|error| self.fault(field, in_words(&error.to_string()))).ok()
    }

    /// One of some words.
    pub(crate) fn choice<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let word: String = self.take(field)?;
        let read = serde_json::from_value(Value::String(word));
        read.map_err(|error| self.fault(field, in_words(&error.to_string()))).ok()
    }

    pub(crate) fn name(&mut self, field: &str) -> Option<String> {
        let name: String = self.take(field)?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            self.fault(field, format!("must have 1 to {MAX_NAME_BYTES} bytes and no control characters"));
            return None;
        }
        Some(name)
    }

    /// The name of a model, which goes into reports and labels.
    pub(crate) fn model(&mut self, field: &str) -> Option<String> {
        let name = self.name(field)?;
        let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '@')
            && name.chars().all(|char| char.is_ascii_alphanumeric() || MODEL_SIGNS.contains(char));
        if !is_name {
            let rule =
                format!("must be letters, digits or {MODEL_SIGNS} of ASCII and start with a letter, a digit or @");
            self.fault(field, rule);
        }
        is_name.then_some(name)
    }

    pub(crate) fn within(&mut self, field: &str, least: f64, most: f64) -> Option<f64> {
        let number: f64 = self.take(field)?;
        if !(least..=most).contains(&number) {
            self.fault(field, format!("must be between {least} and {most}"));
        }
        Some(number)
    }

    pub(crate) fn list<T: DeserializeOwned>(&mut self, field: &str, most: usize) -> Vec<T> {
        let list: Vec<T> = self.take(field).unwrap_or_default();
        if list.len() > most {
            self.fault(field, format!("has {} entries and may have {most}", list.len()));
        }
        list
    }

    /// One string or a list of them.
    pub(crate) fn texts(&mut self, field: &str, value: Value, most: usize) -> Vec<String> {
        if let Value::String(text) = value {
            return vec![text];
        }
        self.object.insert(field, value);
        self.list(field, most)
    }

    /// What nobody asked for is a fault too: a misspelt `maxTokens` would cost money.
    pub(crate) fn finish(self) -> Result<(), Faults> {
        let mut faults = self.faults;
        let unknown = self.object.left_over();
        unknown.named.into_iter().for_each(|field| faults.push(FaultyField::new(field, UNKNOWN)));
        faults.add_untold(unknown.more);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// `4.0` is 4: some languages have one kind of number only.
fn whole_number(value: Value) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and every whole number below this is exact")]
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 9e15 => Value::from(number as i64),
        _ => value,
    }
}
