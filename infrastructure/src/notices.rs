//! What operators are told at `/health/ready` besides whether the node is ready: each part of the service keeps its own lines.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Clones share the lines. None of them is secret: anybody may ask.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>);

impl Notices {
    /// Puts these in the place of what `part` said before. Returns whether that is something else.
    pub fn set(&self, part: &'static str, lines: impl IntoIterator<Item = String>) -> bool {
        let lines: Vec<String> = lines.into_iter().collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = all.get(part).map_or(&[][..], Vec::as_slice) != lines;
        all.insert(part, lines);
        differs
    }

    /// Everything that is to be said now.
    pub fn all(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_says_takes_the_place_of_what_it_said_and_of_nothing_else() {
        let notices = Notices::default();
        assert!(!notices.set("clock", None));
        assert!(notices.set("clock", ["behind".to_owned()]));
        assert!(notices.set("media", ["a folder".to_owned()]));
        assert!(!notices.set("clock", ["behind".to_owned()]));
        assert!(notices.set("clock", None));
        assert_eq!(notices.all(), ["a folder"]);
    }
}
